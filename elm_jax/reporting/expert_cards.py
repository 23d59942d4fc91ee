"""A card of an expert beside a report: what it scored, and what it says of itself."""

import dataclasses
import hashlib
import re
import urllib.parse
from collections.abc import Iterable

from elm_jax.evaluation import results
from elm_jax.reporting import tables, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of an expert on some datasets.

    Attributes:
      title: Which datasets these are.
      rows: Name of the dataset, prompts, rows, the expert's score, that of the base if
        it was scored there, and letters of `marks`.
      notes: How to read it, a sentence each.
    """

    title: str
    rows: tuple[tuple[str, int, int | None, results.Interval, float | None, str], ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """Facts and scores of an expert.

    Attributes:
      name: That of the report.
      facts: As (name, value).
      scores: Tables of them.
      folder_card: Text of the card in its folder; "" if there is none at hand.
      own_address: Where that is, seen from this card.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    scores: tuple[Scores, ...]
    folder_card: str = ""
    own_address: str = ""


def render(card: Card) -> str:
    """Returns a card as Markdown; texts of other authors are escaped."""
    parts = [f"# {tables.escape(card.name)}"]
    facts = (f"- {tables.escape(k)}: {tables.escape(v)}" for k, v in card.facts)
    parts += ["\n".join(facts), *map(_table, card.scores)]
    if card.folder_card:
        lines = "\n".join(map(text.plain, card.folder_card.split("\n"))).strip("\n")
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", lines))])
        address = urllib.parse.quote(card.own_address)
        parts.append(f"The expert's [own card]({address}), written when it landed:")
        parts.append(f"{fence}markdown\n{lines}\n{fence}")
    return "\n\n".join(parts) + "\n"


def _table(shown: Scores) -> str:
    return tables.to_markdown(
        tables.TextTable(
            title=f"{shown.title} (percent, means over prompts)",
            header=("dataset", "prompts", "rows", "score", "base"),
            rows=tuple(
                (
                    dataset,
                    f"{num_prompts}",
                    "" if num_rows is None else f"{num_rows}",
                    text.interval(score, letters=letters),
                    text.number(base),
                )
                for dataset, num_prompts, num_rows, score, base, letters in shown.rows
            ),
            notes=shown.notes,
        )
    )


SUFFIX = ".md"


def is_card(content: bytes) -> bool:
    """Returns whether a file is a card that `render` made.

    >>> is_card(render(Card(name="a", facts=(("kind", "prompt"),), scores=())).encode())
    True
    """
    return re.match(rb"# [^\n]*\n\n- kind: ", content) is not None


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the name of each card's file: no two alike, also where case is ignored.

    >>> [*file_names(["dream", "a/b"]).values()]
    ['dream.md', 'a_b-c14cddc033f64b9d.md']
    """
    by_name: dict[str, str] = {}
    used_names: set[str] = set()
    for name in names:
        safe = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".")[:100]
        if safe != name or safe.lower() in used_names:
            safe += f"-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        used_names.add(safe.lower())
        by_name[name] = f"{safe}{SUFFIX}"
    return by_name
