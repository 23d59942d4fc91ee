"""The labelled rows by which the pocket suite's experts are chosen, as training rows.

Each `pocket_<dataset>_<prompt>` of an unseen dataset has a `selection_...` here, whose
split `train` is its `validation`. The mixture `pocket_selection` holds all ten. What
one expert makes of just these rows is a control of every choice by them.
"""

import dataclasses

from elm_jax.data import tasks
from tasks import pocket

TASKS = tuple(
    dataclasses.replace(
        task,
        name=task.name.replace("pocket_", "selection_", 1),
        splits={"train": task.splits["validation"]},
    )
    for task in pocket.all_tasks()
    if task.role == "unseen"
)
MIXTURE = tasks.Mixture("pocket_selection", tuple(task.name for task in TASKS))

tasks.registry.add(*TASKS, MIXTURE)
