"""Rows of TFDS and the Hub in the fields that PromptSource's templates expect.

Only where they differ: templates expect the Hub's datasets as they were in 2022.
"""

from collections.abc import Callable, Mapping
from typing import Any

from elm_jax.data import sources

# TREC's labels as the templates number them, and as the Hub's dataset does since its
# version 2.
_COARSE = "DESC ENTY ABBR HUM NUM LOC"
_COARSE_2 = "ABBR ENTY DESC HUM LOC NUM"
_FINE = """manner cremat animal exp ind gr title def date reason event state desc count
other letter religion food country color termeq city body dismed mount money product
period substance sport plant techmeth volsize instru abb speed word lang perc code dist
temp symbol ord veh weight currency"""
_FINE_2 = """abb exp animal body color cremat currency dismed event food instru lang
letter other plant product religion sport substance symbol techmeth termeq veh word def
desc manner reason gr ind title desc city country mount other state code count date dist
money ord other period perc speed temp volsize weight"""
TREC_COARSE: list[str] = [*_COARSE.split()]
TREC_FINE: list[str] = [*_FINE.split()]
TREC_COARSE_2, TREC_FINE_2 = _COARSE_2.split(), _FINE_2.split()


def tfds_ag_news(row: sources.Row) -> sources.Row:
    """Joins title and description, which the Hub has as one text."""
    return {"text": f"{row['title']} {row['description']}", "label": row["label"]}


def tfds_anli(row: sources.Row) -> sources.Row:
    """Calls the context `premise`."""
    return _renamed(row, context="premise")


def tfds_hellaswag(row: sources.Row) -> sources.Row:
    """Calls the context `ctx` and makes the label a text, as the Hub has them."""
    return label_as_text(_renamed(row, context="ctx"))


def label_as_text(row: sources.Row) -> sources.Row:
    """Makes the label a text; a missing label stays missing."""
    label = row["label"]
    return {**row, "label": label if label is None else str(label)}


def tfds_winogrande(row: sources.Row) -> sources.Row | sources.Skipped:
    """Makes the label 0 or 1 the answer "1" or "2"."""
    if row["label"] not in (0, 1):
        return sources.Skipped("no correct choice")
    return {**row, "answer": str(row["label"] + 1)}


def hub_trec(row: sources.Row) -> sources.Row:
    """Gives labels their old names and numbers; old rows stay as they are."""
    if "coarse_label" not in row:
        return row
    coarse = TREC_COARSE.index(TREC_COARSE_2[row["coarse_label"]])
    fine = TREC_FINE.index(TREC_FINE_2[row["fine_label"]])
    return {"text": row["text"], "label-coarse": coarse, "label-fine": fine}


def hub_wiki_hop(row: sources.Row) -> sources.Row:
    """Calls the query `question`, as it was called in 2022."""
    return _renamed(row, query="question")


def _renamed(row: sources.Row, **names: str) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in row.items()}


Conversion = Callable[[sources.Row], sources.Row | sources.Skipped]

TFDS: Mapping[str, Conversion] = {
    "ag_news": tfds_ag_news,
    "anli": tfds_anli,
    "hellaswag": tfds_hellaswag,
    "winogrande": tfds_winogrande,
}
HUB: Mapping[str, Conversion] = {"trec": hub_trec, "wiki_hop": hub_wiki_hop}
