"""Unlabelled text of DREAM, CoS-E and Rotten Tomatoes, for a small model's base.

The mixture `original_text` holds the three. Training splits only: no text that an
evaluation shows is read.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from elm_jax.data import sources, tasks
from tasks import original


def dialogues(paths: Sequence[pathlib.Path], split: str) -> original.Rows:
    """Yields each dialogue of DREAM once, as running text."""
    seen = set()
    for row in original.dream(paths, split):
        if not isinstance(row, sources.Skipped) and row["dialogue_id"] not in seen:
            seen.add(row["dialogue_id"])
            yield {"text": " ".join(row["dialogue"])}


def explanations(paths: Sequence[pathlib.Path], split: str) -> original.Rows:
    """Yields each question of CoS-E followed by its explanation; no answers."""
    for row in original.cos_e(paths, split):
        if isinstance(row, sources.Skipped):
            yield row
        else:
            yield {"text": f"{row['question']} {row['abstractive_explanation']}"}


TASKS = (
    tasks.TextTask(
        "dream_text",
        dataclasses.replace(original.DREAM, parse=dialogues),
        splits={"train": "train"},
    ),
    tasks.TextTask(
        "cos_e_v1.11_text",
        dataclasses.replace(original.COS_E, parse=explanations),
        splits={"train": "train"},
    ),
    tasks.TextTask(
        "rotten_tomatoes_text", original.ROTTEN_TOMATOES, splits={"train": "train"}
    ),
)

tasks.registry.add(
    *TASKS, tasks.Mixture("original_text", tuple(task.name for task in TASKS))
)
