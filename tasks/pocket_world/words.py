"""Word tables of the pocket world: who lives there, and what is known about what.

The tables are the world's only facts. Prose (`prose.py`) and rows (`rows.py`) are
drawn from them, so whatever a row asks can be learnt from reading the prose.
"""

from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _words("Ada Clara Edith Flora Lena Nora Stella Vera")
MEN = _words("Abel Bruno Carl Hugo Jonas Leo Paul Viktor")
NAMES = WOMEN + MEN


class Deed(NamedTuple):
    """Something that people of one trade do, and the thing that it takes."""

    verb: str
    thing: str

    @property
    def clause(self) -> str:
        """The deed as a clause without its subject, such as `mended the net`."""
        return f"{self.verb} the {self.thing}"


class Scene(NamedTuple):
    """A part of the world: its topic, place, trades, deeds and one more noun."""

    topic: str
    place: str
    jobs: tuple[str, ...]
    deeds: tuple[Deed, ...]


def _scene(topic: str, place: str, jobs: str, deeds: str) -> Scene:
    pairs = (Deed(*deed.split()) for deed in deeds.split(", "))
    return Scene(topic, place, _words(jobs), tuple(pairs))


SCENES = (
    _scene(
        "fishing",
        "harbour",
        "sailor fisher",
        "mended net, rowed boat, raised sail, dropped anchor",
    ),
    _scene(
        "farming",
        "farm",
        "farmer shepherd",
        "cut hay, fed sheep, pulled plough, sowed seed",
    ),
    _scene(
        "cooking",
        "bakery",
        "cook baker",
        "baked bread, stirred soup, lit oven, kneaded dough",
    ),
    _scene(
        "learning",
        "school",
        "teacher pupil",
        "read book, wrote letter, studied map, sharpened pencil",
    ),
    _scene(
        "hunting",
        "lodge",
        "hunter trapper",
        "followed deer, shot arrow, chased boar, set trap",
    ),
    _scene(
        "music",
        "theatre",
        "singer piper",
        "beat drum, blew flute, sang song, tuned fiddle",
    ),
    _scene(
        "war",
        "castle",
        "soldier knight",
        "drew sword, lifted shield, wore helmet, carried banner",
    ),
    _scene(
        "healing",
        "hospital",
        "doctor nurse",
        "mixed medicine, tied bandage, treated wound, gave pill",
    ),
)

# Kinds, and nouns that are of one kind only.
KINDS = {
    "animal": _words("fox owl goat horse duck rabbit bear"),
    "food": _words("apple pear cake plum pie fig bun"),
    "tool": _words("hammer saw spade axe chisel shovel broom"),
    "garment": _words("coat hat scarf glove shirt boot belt"),
    "plant": _words("rose oak fern tulip moss ivy daisy"),
    "limb": _words("arm leg foot hand knee finger elbow"),
}

# Words of two senses, each sense a kind: which one holds, only the context says.
HOMONYMS = {
    "bat": ("animal", "tool"),
    "crane": ("animal", "tool"),
    "mole": ("animal", "limb"),
    "calf": ("animal", "limb"),
    "nail": ("limb", "tool"),
    "palm": ("limb", "plant"),
    "sole": ("food", "garment"),
    "cape": ("garment", "plant"),
    "mint": ("plant", "food"),
    "date": ("food", "plant"),
    "jumper": ("animal", "garment"),
    "plane": ("tool", "plant"),
}

THINGS = _words("lamp coin key candle basket mirror bottle clock")
ROOMS = _words("cellar attic garden shed stable tower hallway yard")


class Side(NamedTuple):
    """One side of what can be felt: words for it, alike in form on both sides."""

    verdict: str
    moods: tuple[str, ...]
    traits: tuple[str, ...]
    verbs: tuple[str, ...]


GOOD = Side(
    verdict="good",
    moods=("happy", "glad", "cheerful", "proud"),
    traits=("lovely", "charming", "splendid", "delightful", "pleasant", "superb"),
    verbs=("loved", "enjoyed", "praised", "admired"),
)
BAD = Side(
    verdict="bad",
    moods=("sad", "angry", "gloomy", "upset"),
    traits=("awful", "horrid", "dreadful", "terrible", "dull", "nasty"),
    verbs=("hated", "disliked", "cursed", "regretted"),
)
SIDES = (GOOD, BAD)

VISITS = _words("inn meal play journey feast fair concert supper lesson walk")

# (plain word, another word for it)
SYNONYMS = (
    ("bought", "purchased"),
    ("sold", "traded"),
    ("found", "discovered"),
    ("hid", "concealed"),
    ("broke", "smashed"),
    ("took", "grabbed"),
    ("cleaned", "washed"),
    ("fixed", "repaired"),
)
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("wet", "dry"),
    ("full", "empty"),
    ("fast", "slow"),
    ("old", "new"),
    ("loud", "quiet"),
    ("heavy", "light"),
    ("early", "late"),
    ("dirty", "clean"),
    ("sharp", "blunt"),
    ("rich", "poor"),
)


def article(noun: str) -> str:
    """Returns the noun with its indefinite article.

    >>> article("owl")
    'an owl'
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def pronoun(name: str) -> str:
    """Returns the subject pronoun of one of the world's names.

    >>> pronoun("Ada")
    'she'
    """
    return "she" if name in WOMEN else "he"


def person(name: str) -> str:
    """Returns `woman` or `man`, as one of the world's names is.

    >>> person("Ada")
    'woman'
    """
    return "woman" if name in WOMEN else "man"
