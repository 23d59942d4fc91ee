"""The eight generative tasks of Continual-T0 on which the paper adds experts.

Sixteen prompts over nine datasets: Wiki-Auto and ASSET are one task, simplification.
The prompts are in our own words, under the names of the original code. If the data
folder has Continual-T0's files, below `ct0_data/`, their own prompts are used instead.
`tables/generative.json` is the table.

Mixtures: one per dataset, under its name; `elm_generative` (all 16 prompts);
`elm_continual_train` (the ten that the paper trains experts on, at most 100,000
examples each).

Splits: `train`, `validation` and `test` where there are such, and `eval_300`, the rows
that the paper judges on. `README.md` beside this file says how the original code took
them.
"""

from elm_jax.data import tasks
from tasks import written

MAX_TRAIN_EXAMPLES = 100_000

TASKS = tuple(written.tasks_of("generative"))


def _mixtures() -> list[tasks.Mixture]:
    entries = written.read("generative")
    trained = [
        task.name
        for task in TASKS
        for prompt in entries[task.dataset].prompts
        if prompt.name == task.prompt and prompt.is_trained
    ]
    mixtures = [
        tasks.Mixture("elm_generative", tuple(task.name for task in TASKS)),
        tasks.Mixture(
            "elm_continual_train", tuple(trained), max_examples=MAX_TRAIN_EXAMPLES
        ),
    ]
    for name in entries:
        members = tuple(task.name for task in TASKS if task.dataset == name)
        mixtures.append(tasks.Mixture(name, members))
    return mixtures


MIXTURES = tuple(_mixtures())

tasks.registry.add(*TASKS, *MIXTURES)
