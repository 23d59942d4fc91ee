"""Parquet files in the layout of a Hub dataset's branch, made of our made rows.

The schema is the tables': the fields that prompts read, under the names that the Hub's
datasets have by the tables.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from elm_jax.data import hub
from tasks import conversions, table_rows, written

TABLES = ("generative", "compositional", "translation")
DATASETS: Mapping[str, table_rows.Dataset] = {
    name: dataset
    for name, dataset in (
        *table_rows.datasets().items(),
        *((n, e.dataset) for t in TABLES for n, e in written.read(t).items()),
    )
    if dataset.hub
}


def made_rows(name: str) -> list[Mapping[str, Any]]:
    """Returns a dataset's made rows, in the fields that prompts expect."""
    if name in table_rows.datasets():
        return list(table_rows.examples()[name])
    entries = {n: e for t in TABLES for n, e in written.read(t).items()}
    return list(entries[name].examples)


def hub_rows(name: str) -> list[dict[str, Any]]:
    """Returns the made rows as the Hub has them."""
    rows = [dict(row) for row in made_rows(name)]
    if name == "trec":
        return [_trec(row) for row in rows]
    if name == "wiki_hop_original":
        return [
            {"query" if key == "question" else key: row[key] for key in row}
            for row in rows
        ]
    if name == "emdg":
        return [said for n, row in enumerate(rows) for said in _utterances(row, n)]
    return rows


def _trec(row: Mapping[str, Any]) -> dict[str, Any]:
    coarse = conversions.TREC_COARSE[row["label-coarse"]]
    fine = conversions.TREC_FINE[row["label-fine"]]
    return {
        "text": row["text"],
        "coarse_label": conversions.TREC_COARSE_2.index(coarse),
        "fine_label": conversions.TREC_FINE_2.index(fine),
    }


def _utterances(row: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    return [
        {
            "conv_id": f"c{number}",
            "utterance_idx": place,
            "speaker_idx": place % 2,
            "context": row["emotion"],
            "prompt": row["situation"].replace(",", "_comma_"),
            "utterance": text.replace(",", "_comma_"),
        }
        for place, text in enumerate((*row["dialogue"], row["reply"]), 1)
    ]


def write(name: str, split: str, data_dir: pathlib.Path) -> None:
    """Writes the made rows as one split of the dataset's branch."""
    place = DATASETS[name].hub
    assert place
    folder = hub.HubRows(place["name"], place["config"]).folder(str(data_dir)) / split
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(hub_rows(name))
    parquet.write_table(table, folder / "0000.parquet")
