"""Unlabelled text of DREAM, CoS-E and Rotten Tomatoes, for a small model's base.

The mixture `original_text` holds the three. Training splits only: no text that an
evaluation shows is read.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from elm_jax.data import row_files, sources, tasks
from tasks import author_files


def dialogues(paths: Sequence[pathlib.Path], split: str) -> author_files.Rows:
    """Yields each dialogue of DREAM once, as running text."""
    seen = set()
    for row in author_files.dream(paths, split):
        if not isinstance(row, Mapping):
            yield row
        elif row["dialogue_id"] not in seen:
            seen.add(row["dialogue_id"])
            yield {"text": " ".join(row["dialogue"])}


def explanations(paths: Sequence[pathlib.Path], split: str) -> author_files.Rows:
    """Yields each question of CoS-E followed by its explanation; no answers."""
    return row_files.converted(author_files.cos_e(paths, split), _explained)


def _explained(row: sources.Row) -> sources.Row:
    return {"text": " ".join((row["question"], row["abstractive_explanation"]))}


TASKS = (
    tasks.TextTask(
        "dream_text",
        dataclasses.replace(author_files.DREAM, parse=dialogues),
        splits={"train": "train"},
    ),
    tasks.TextTask(
        "cos_e_v1.11_text",
        dataclasses.replace(author_files.COS_E, parse=explanations),
        splits={"train": "train"},
    ),
    tasks.TextTask(
        "rotten_tomatoes_text", author_files.ROTTEN_TOMATOES, splits={"train": "train"}
    ),
)

tasks.registry.add(
    *TASKS, tasks.Mixture("original_text", tuple(task.name for task in TASKS))
)
