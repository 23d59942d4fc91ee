"""Rows of the pocket datasets: one small function of a random generator each.

A dataset's rows are drawn one after another from its own generator, seeded by the
dataset's name; a row whose content was drawn before is skipped. The first rows are
the training split, then validation, then test, so the splits never share a row.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tasks.pocket_world import words

Row = dict[str, Any]

SEED = 2303
SPLIT_SIZES = {"train": 600, "validation": 160, "test": 200}


class Options(NamedTuple):
    """Answer options in random order and the position of the right one."""

    choices: list[str]
    label: int


def _options(
    rng: random.Random, answer: str, others: Sequence[str], *, sizes: Sequence[int]
) -> Options:
    choices = [answer, *rng.sample(list(others), rng.choice(sizes) - 1)]
    rng.shuffle(choices)
    return Options(choices, choices.index(answer))


def _sides(rng: random.Random) -> tuple[words.Side, words.Side, int]:
    """Returns a side of feeling, the other side, and 0 where the first is good."""
    label = rng.randrange(2)
    return words.SIDES[label], words.SIDES[1 - label], label


def kinds(rng: random.Random) -> Row:
    """A kind and nouns of which one is of it; two nouns and kinds they may be of."""
    kind = rng.choice(list(words.KINDS))
    thing, another = rng.sample(words.KINDS[kind], 2)
    others = [name for name in words.KINDS if name != kind]
    nouns = [rng.choice(words.KINDS[name]) for name in others]
    choices, label = _options(rng, thing, nouns, sizes=(2, 3, 4, 5))
    kind_choices, kind_label = _options(rng, kind, others, sizes=(2, 3, 4, 5))
    return {
        "thing": thing,
        "another": another,
        "kind": words.article(kind),
        "choices": choices,
        "label": label,
        "kind_choices": kind_choices,
        "kind_label": kind_label,
    }


def work(rng: random.Random) -> Row:
    """Someone of a trade, and things of which one belongs to that trade."""
    scene, *others = rng.sample(words.SCENES, len(words.SCENES))
    name = rng.choice(words.NAMES)
    things = [rng.choice(elsewhere.deeds).thing for elsewhere in others]
    choices, label = _options(
        rng, rng.choice(scene.deeds).thing, things, sizes=(2, 3, 4)
    )
    return {
        "name": name,
        "pronoun": words.pronoun(name),
        "job": rng.choice(scene.jobs),
        "place": scene.place,
        "choices": choices,
        "label": label,
    }


def people(rng: random.Random) -> Row:
    """A story of a woman and a man, and which of the two is asked for."""
    names = [rng.choice(words.WOMEN), rng.choice(words.MEN)]
    rng.shuffle(names)
    first, second = rng.sample(words.THINGS, 2)
    label = rng.randrange(2)
    return {
        "story": f"{names[0]} had the {first} and {names[1]} had the {second}.",
        "person": words.person(names[label]),
        "choices": names,
        "label": label,
    }


def rooms(rng: random.Random) -> Row:
    """Who put a thing where, told among other news, and a question about the place."""
    name, friend = rng.sample(words.NAMES, 2)
    thing, room = rng.choice(words.THINGS), rng.choice(words.ROOMS)
    deed = rng.choice(rng.choice(words.SCENES).deeds)
    news = [f"{name} put the {thing} in the {room}.", f"{friend} {deed.clause}."]
    rng.shuffle(news)
    return {"story": " ".join(news), "name": name, "thing": thing, "room": room}


def _review(rng: random.Random, side: words.Side, name: str) -> str:
    visit = rng.choice(words.VISITS)
    trait, another = rng.sample(side.traits, 2)
    wordings = (
        f"The {visit} was {trait} and {another}.",
        f"The {visit} was {trait}. {name} {rng.choice(side.verbs)} it.",
        f"{name} {rng.choice(side.verbs)} the {trait} {visit}.",
    )
    return rng.choice(wordings)


def reviews(rng: random.Random) -> Row:
    """What someone says about an outing, and whether it was good (0) or bad (1)."""
    side, _, label = _sides(rng)
    name, friend = rng.sample(words.NAMES, 2)
    text = f"{_review(rng, side, name)} {_review(rng, side, friend)}"
    return {"text": text, "label": label}


def moods(rng: random.Random) -> Row:
    """What someone went through, and moods of which one fits."""
    side, wrong_side, _ = _sides(rng)
    name = rng.choice(words.NAMES)
    # One mood of each side: a third would show which one is alone on its side.
    choices, label = _options(rng, rng.choice(side.moods), wrong_side.moods, sizes=(2,))
    return {
        "text": _review(rng, side, name),
        "name": name,
        "choices": choices,
        "label": label,
    }


def paraphrases(rng: random.Random) -> Row:
    """A sentence, and others of which one says the same in other words."""
    pair, *others = rng.sample(words.SYNONYMS, len(words.SYNONYMS))
    verb_of_sentence, same = rng.sample(pair, 2)
    name, thing = rng.choice(words.NAMES), rng.choice(words.THINGS)
    place = rng.choice(words.SCENES).place
    wrong = [rng.choice(wrong_pair) for wrong_pair in others]
    choices, label = _options(rng, same, wrong, sizes=(2, 3))
    return {
        "sentence": f"{name} {verb_of_sentence} the {thing} at the {place}.",
        "choices": [f"{name} {verb} the {thing} there" for verb in choices],
        "label": label,
    }


def topics(rng: random.Random) -> Row:
    """A few deeds of one part of the world, and which part it is."""
    label = rng.randrange(len(words.SCENES))
    deeds = rng.sample(words.SCENES[label].deeds, 2)
    first, second = rng.sample(words.NAMES, 2)
    text = f"{first} {deeds[0].clause}. {second} {deeds[1].clause}."
    return {"text": text, "label": label}


def headlines(rng: random.Random) -> Row:
    """A story of two people, and the one line that says who did what."""
    scene = rng.choice(words.SCENES)
    woman, man = rng.choice(words.WOMEN), rng.choice(words.MEN)
    people = [woman, man]
    rng.shuffle(people)
    actor = rng.choice(people)
    deed = rng.choice(scene.deeds)
    story = (
        f"{people[0]} met {people[1]} at the {scene.place}. "
        f"{words.pronoun(actor).capitalize()} {deed.clause}. "
        f"It was {words.article(rng.choice(words.GOOD.traits + words.BAD.traits))} "
        f"{rng.choice(words.VISITS)}."
    )
    return {"story": story, "headline": f"{actor} {deed.clause}"}


def notes(rng: random.Random) -> Row:
    """A record of someone, and the sentence that tells it."""
    scene = rng.choice(words.SCENES)
    name, job = rng.choice(words.NAMES), rng.choice(scene.jobs)
    thing = rng.choice(words.THINGS)
    text = f"{name} the {job} took the {thing} to the {scene.place}"
    return {
        "name": name,
        "job": job,
        "thing": thing,
        "place": scene.place,
        "text": text,
    }


def endings(rng: random.Random) -> Row:
    """Two deeds of someone, and things of which one is used for such deeds."""
    scene, *others = rng.sample(words.SCENES, len(words.SCENES))
    name = rng.choice(words.NAMES)
    first, second, last = rng.sample(scene.deeds, 3)
    things = [rng.choice(elsewhere.deeds).thing for elsewhere in others]
    choices, label = _options(rng, last.thing, things, sizes=(2, 3, 4))
    return {
        "start": f"{name} {first.clause} and {second.clause}.",
        "pronoun": words.pronoun(name),
        "choices": choices,
        "label": label,
    }


def referents(rng: random.Random) -> Row:
    """A woman and a man, a pronoun, and which of the two it stands for."""
    people = [rng.choice(words.WOMEN), rng.choice(words.MEN)]
    rng.shuffle(people)
    label = rng.randrange(2)
    place = rng.choice(words.SCENES).place
    return {
        "story": f"{people[0]} met {people[1]} at the {place}.",
        "pronoun": words.pronoun(people[label]),
        "mood": rng.choice(rng.choice(words.SIDES).moods),
        "choices": people,
        "label": label,
    }


def inferences(rng: random.Random) -> Row:
    """A premise, and claims of which one follows from it."""
    scene, *others = rng.sample(words.SCENES, len(words.SCENES))
    name = rng.choice(words.NAMES)
    first, second = rng.sample(scene.deeds, 2)
    right = rng.choice((first, second)).clause
    wrong = [rng.choice(elsewhere.deeds).clause for elsewhere in others]
    choices, label = _options(rng, right, wrong, sizes=(2, 3))
    return {
        "premise": f"{name} {first.clause} and {second.clause} at the {scene.place}.",
        "choices": [f"{name} {claim}" for claim in choices],
        "label": label,
    }


def senses(rng: random.Random) -> Row:
    """A word of two senses among words that show which one is meant."""
    word = rng.choice(list(words.HOMONYMS))
    kind, other_kind = rng.sample(words.HOMONYMS[word], 2)
    choices, label = _options(rng, kind, [other_kind], sizes=(2,))
    company = rng.sample(words.KINDS[kind], 2)
    company.insert(rng.randrange(3), word)
    first, second, third = (f"the {noun}" for noun in company)
    return {
        "sentence": f"{rng.choice(words.NAMES)} drew {first}, {second} and {third}.",
        "word": word,
        "choices": choices,
        "label": label,
    }


def causes(rng: random.Random) -> Row:
    """What two people felt, and whether the outing had been good (0) or bad (1)."""
    side, _, label = _sides(rng)
    name, friend = rng.sample(words.NAMES, 2)
    visit = rng.choice(words.VISITS)
    mood, friends_mood = rng.choice(side.moods), rng.choice(side.moods)
    verb = rng.choice(side.verbs)
    text = f"{name} was {mood} and {verb} the {visit}. {friend} was {friends_mood} too."
    return {"text": text, "visit": visit, "label": label}


def opposites(rng: random.Random) -> Row:
    """A word, and words of which one means the opposite."""
    pair, *others = rng.sample(words.OPPOSITES, len(words.OPPOSITES))
    word, answer = rng.sample(pair, 2)
    wrong = [rng.choice(wrong_pair) for wrong_pair in others]
    choices, label = _options(rng, answer, wrong, sizes=(2, 3, 4))
    return {"word": word, "choices": choices, "label": label}


def digests(rng: random.Random) -> Row:
    """Deeds and an outing: what it was about and how it was, answered at once."""
    scene, other_scene = rng.sample(words.SCENES, 2)
    deed = rng.choice(scene.deeds)
    side, _, _ = _sides(rng)
    name, friend = rng.sample(words.NAMES, 2)
    answers = [
        f"{s.topic} {v.verdict}" for s in (scene, other_scene) for v in words.SIDES
    ]
    rng.shuffle(answers)
    return {
        "text": f"{name} {deed.clause} at the {scene.place}. "
        f"{_review(rng, side, friend)}",
        "choices": answers,
        "label": answers.index(f"{scene.topic} {side.verdict}"),
    }


DATASETS: dict[str, Callable[[random.Random], Row]] = {
    fn.__name__: fn
    for fn in (
        *(kinds, work, people, rooms, reviews, moods, paraphrases, topics),
        *(headlines, notes, endings, referents, inferences, senses, causes),
        *(opposites, digests),
    )
}


def content_key(row: Row) -> str:
    """Returns what a row says, whatever the order of its answer options."""
    content = {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in row.items()
        if not name.endswith("label")
    }
    return json.dumps(content, sort_keys=True)


def rows(dataset: str, split: str) -> Iterator[Row]:
    """Yields the rows of a split: the same ones on every machine, none twice.

    Args:
      dataset: A name in `DATASETS`.
      split: `train`, `validation` or `test`.
    """
    draw = DATASETS[dataset]
    rng = random.Random(f"{SEED}/{dataset}")
    seen: set[str] = set()
    for name, size in SPLIT_SIZES.items():
        end = len(seen) + size
        while len(seen) < end:
            row = draw(rng)
            key = content_key(row)
            if key not in seen:
                seen.add(key)
                if name == split:
                    yield row
        if name == split:
            return
