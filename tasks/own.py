"""Prompts in the project's own words, which need no templates of others.

One for each of the paper's 36 training and 11 unseen datasets, below `own_words/` in
PromptSource's form; all their names end with `own_words`. Rows are the datasets' own,
from the same places as for the official prompts, P3 left out; the source `examples`
gives the few made rows of `tables/examples.json`, without files or network.

Mixtures: `own_train`, capped as the paper caps its prompts, and `own_unseen`.
"""

import dataclasses
import pathlib

from elm_jax.data import tasks
from tasks import table_rows, table_tasks

FOLDER = str(pathlib.Path(__file__).parent / "own_words")

NOTE = "prompt in elm_jax's own words"


def _task(prompt: table_rows.Prompt) -> tasks.Task:
    task = table_tasks.task_of(prompt, folder=FOLDER)
    note = f"{NOTE}; {task.note}" if task.note else NOTE
    return dataclasses.replace(task, note=note)


TASKS = tuple(map(_task, table_rows.own_prompts()))
MIXTURES = (
    tasks.Mixture(
        "own_train",
        tuple(task.name for task in TASKS if task.role == "train"),
        caps={
            prompt.task: prompt.max_examples
            for prompt in table_rows.own_prompts()
            if prompt.max_examples is not None
        },
    ),
    tasks.Mixture(
        "own_unseen", tuple(task.name for task in TASKS if task.role == "unseen")
    ),
)

tasks.registry.add(*TASKS, *MIXTURES)
