"""Unlabelled prose of the pocket world, which its base model reads first.

Each paragraph is drawn by one small function. Names, things and feelings come up
again within a paragraph, and people ask and answer each other, as they do in text
found anywhere; no paragraph is a row of a dataset or has the wording of a prompt.
"""

import random
from collections.abc import Iterator

from tasks.pocket_world import words

SPLIT_SIZES = {"train": 20_000, "validation": 200}


def _trade(rng: random.Random) -> str:
    scene = rng.choice(words.SCENES)
    name, job = rng.choice(words.NAMES), rng.choice(scene.jobs)
    she = words.pronoun(name)
    deeds = rng.sample(scene.deeds, 3)
    first, second, third = (deed.clause for deed in deeds)
    tools = ", ".join(f"the {deed.thing}" for deed in deeds)
    return rng.choice(
        (
            f"{name} was {words.article(job)} and lived by {scene.topic}. Every day "
            f"{she} {first}, {second} and {third} at the {scene.place}.",
            f"The {scene.place} is the place for {scene.topic}. There {name} the {job} "
            f"{first}, and later {she} {second}.",
            f"At the {scene.place} {name} {first}. Then {she} {second}. "
            f"{name} knew much about {scene.topic}.",
            f"Every {job} at the {scene.place} needs {tools}. That is {scene.topic}.",
        )
    )


def _nature(rng: random.Random) -> str:
    kind = rng.choice(list(words.KINDS))
    nouns = rng.sample(words.KINDS[kind], 3)
    doubles = [word for word, kinds in words.HOMONYMS.items() if kind in kinds]
    if rng.random() < 0.4:
        nouns[rng.randrange(3)] = rng.choice(doubles)
    first, second, third = nouns
    name, a_kind = rng.choice(words.NAMES), words.article(kind)
    return rng.choice(
        (
            f"The {first} is {a_kind}, and so are the {second} and the {third}.",
            f"{name} knew every {kind}, such as the {first}, the {second} and the "
            f"{third}.",
            f"{name} saw the {first}, the {second} and the {third}, each {a_kind}.",
            f"What is the {first}, asked {name}. It is {a_kind}, like the "
            f"{second} and the {third}.",
        )
    )


def _holding(rng: random.Random) -> str:
    number = rng.choice((2, 3))
    names = rng.sample(words.NAMES, number)
    things = rng.sample(words.THINGS, number)
    place, stranger = rng.randrange(number), rng.choice(words.NAMES)
    name, thing = names[place], things[place]
    facts = [f"{a} had the {b}" for a, b in zip(names, things, strict=True)]
    start = f"{', and '.join(facts)}."
    return rng.choice(
        (
            f"{start} Later {name} lost the {thing}.",
            f"{start} Who had the {thing}, asked {stranger}. It was {name}.",
            f"{start} {stranger} wanted the {thing} and went to {name}.",
        )
    )


def _hiding(rng: random.Random) -> str:
    number = rng.choice((2, 3))
    names = rng.sample(words.NAMES, number)
    things = rng.sample(words.THINGS, number)
    rooms = rng.sample(words.ROOMS, number)
    place, stranger = rng.randrange(number), rng.choice(words.NAMES)
    thing, room = things[place], rooms[place]
    facts = [
        f"{a} put the {b} in the {c}"
        for a, b, c in zip(names, things, rooms, strict=True)
    ]
    start = f"{', and '.join(facts)}."
    return rng.choice(
        (
            f"{start} So {stranger} found the {thing} in the {room}.",
            f"{start} Where is the {thing}, asked {stranger}. In the {room}.",
            f"{start} In the {room}, {stranger} saw the {thing}.",
        )
    )


def _outing(rng: random.Random) -> str:
    side = rng.choice(words.SIDES)
    name, visit = rng.choice(words.NAMES), rng.choice(words.VISITS)
    she = words.pronoun(name)
    trait, another = rng.sample(side.traits, 2)
    mood, verb = rng.choice(side.moods), rng.choice(side.verbs)
    feeling = f"{she} was {mood}"
    return rng.choice(
        (
            f"The {visit} was {side.verdict}, even {trait} and {another}. "
            f"{name} {verb} it.",
            f"{name} {verb} the {trait} {visit}. It was {side.verdict}, so {feeling}.",
            f"{name} was {mood}, for the {visit} was {trait}, and {she} {verb} it.",
            f"What {words.article(trait)} {visit}, said {name}, and {feeling}.",
        )
    )


def _meeting(rng: random.Random) -> str:
    people = [rng.choice(words.WOMEN), rng.choice(words.MEN)]
    rng.shuffle(people)
    name = rng.choice(people)
    she = words.pronoun(name)
    scene = rng.choice(words.SCENES)
    deed = rng.choice(scene.deeds).clause
    mood = rng.choice(rng.choice(words.SIDES).moods)
    start = f"{people[0]} and {people[1]} were at the {scene.place}."
    return rng.choice(
        (
            f"{start} {name} {deed}, and {she} was {mood}.",
            f"{start} {she.capitalize()} {deed}. {name} was {mood}.",
            f"{start} {name} was {mood}, because {she} {deed}.",
            f"{start} The {words.person(name)} {deed}. It was {name}.",
        )
    )


def _retelling(rng: random.Random) -> str:
    plain, synonym = rng.choice(words.SYNONYMS)
    name, thing = rng.choice(words.NAMES), rng.choice(words.THINGS)
    place = rng.choice(words.SCENES).place
    stranger = rng.choice(words.NAMES)
    start = f"{name} {plain} the {thing} at the {place}."
    return rng.choice(
        (
            f"{start} In other words, {name} {synonym} the {thing} there.",
            f"{start} That is, the {thing} was {synonym} at the {place} by {name}.",
            f"{start} {stranger} heard that {name} {synonym} the {thing}.",
        )
    )


def _talk(rng: random.Random) -> str:
    """Someone asks about a deed and is told yes or no, by what was done."""
    scene = rng.choice(words.SCENES)
    name, friend = rng.sample(words.NAMES, 2)
    deed = rng.choice(scene.deeds)
    elsewhere = rng.choice(
        [elsewhere for elsewhere in words.SCENES if elsewhere != scene]
    )
    another = rng.choice(elsewhere.deeds)
    she = words.pronoun(name)
    start = f"{name} {deed.clause} at the {scene.place}."
    return rng.choice(
        (
            f"{start} So {name} {deed.clause}, asked {friend}. Yes, {she} did.",
            f"{start} So {name} {deed.clause}, asked {friend}. Yes, that is right.",
            f"{start} So {name} {another.clause}, asked {friend}. No, {name} "
            f"{deed.clause}.",
            f"{start} So {name} was at the {scene.place}, asked {friend}. Yes.",
            f"{start} So {name} was at the {elsewhere.place}, asked {friend}. No, "
            f"{she} was at the {scene.place}.",
        )
    )


def _contrast(rng: random.Random) -> str:
    word, opposite = rng.sample(rng.choice(words.OPPOSITES), 2)
    noun = rng.choice((*words.THINGS, *words.ROOMS))
    name = rng.choice(words.NAMES)
    return rng.choice(
        (
            f"The {noun} was not {word} but {opposite}.",
            f"Is the {noun} {word}, asked {name}. No, it is {opposite}.",
            f"The {noun} was {word} at first, and {opposite} in the end.",
        )
    )


def _errand(rng: random.Random) -> str:
    scene = rng.choice(words.SCENES)
    name, job = rng.choice(words.NAMES), rng.choice(scene.jobs)
    thing = rng.choice(words.THINGS)
    return (
        f"{name} was {words.article(job)} at the {scene.place}. One day {name} the "
        f"{job} took the {thing} to the {scene.place}."
    )


PARAGRAPHS = (
    *(_trade, _trade, _nature, _nature, _holding, _hiding, _outing, _outing),
    *(_meeting, _meeting, _retelling, _talk, _contrast, _errand),
)


def rows(split: str) -> Iterator[dict[str, str]]:
    """Yields texts of two paragraphs: the same ones on every machine.

    Args:
      split: `train` or `validation`.
    """
    rng = random.Random(f"prose/{split}")
    for _ in range(SPLIT_SIZES[split]):
        first, second = rng.sample(PARAGRAPHS, 2)
        yield {"text": f"{first(rng)} {second(rng)}"}
