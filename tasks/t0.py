"""T0's prompted tasks, and the paper's: 36 training datasets and 11 unseen ones.

All 296 training prompts of the paper, the ones by which T0's own mixture differs, the
113 evaluation prompts of the paper and T0's 116, under T0's names, from the tables that
`table_rows` describes. Importing this reads two small files and touches no network.

Mixtures, all of official prompts:

- one per dataset, under its name (`cosmos_qa`); as `elm_cosmos_qa` with the caps of the
  original code's dataset experts;
- one per cluster of the paper's training datasets (`cluster_sentiment`, ...);
- `elm_train` with the paper's caps, `t0_train` with T0's;
- `elm_unseen` (113 prompts) and `t0_eval` (116).

Splits: `train`, `validation` and `test` as `tables/datasets.json` has them, and for the
paper's training datasets `validation_300`: the rows that the paper's seen tasks are
judged on. Under the protocol `elm` all three of these are the rows of the original
code. `README.md` beside this file has the differences.
"""

import re
from collections.abc import Iterable, Sequence

from elm_jax.data import tasks
from tasks import table_rows, table_tasks


def _mixture(
    name: str,
    prompts: Iterable[table_rows.Prompt],
    caps: Iterable[tuple[str, int | None]] = (),
) -> tasks.Mixture:
    return tasks.Mixture(
        name,
        tuple(prompt.task for prompt in prompts),
        caps={task: cap for task, cap in caps if cap is not None},
    )


def _mixtures() -> list[tasks.Mixture]:
    datasets, prompts = table_rows.datasets(), table_rows.prompts()
    by_role = {
        role: [p for p in prompts if datasets[p.dataset].role == role]
        for role in ("train", "unseen")
    }
    elm = [p for p in by_role["train"] if p.elm]
    t0 = [p for p in by_role["train"] if p.t0]
    mixtures = [
        _mixture("elm_train", elm, [(p.task, p.max_examples) for p in elm]),
        _mixture("t0_train", t0, [(p.task, datasets[p.dataset].t0_cap) for p in t0]),
        _mixture("elm_unseen", (p for p in by_role["unseen"] if p.elm)),
        _mixture("t0_eval", (p for p in by_role["unseen"] if p.t0)),
    ]
    for name, dataset in datasets.items():
        members: Sequence[table_rows.Prompt] = [p for p in prompts if p.dataset == name]
        members = [p for p in members if p.elm] or members
        mixtures.append(_mixture(name, members))
        if dataset.dataset_cap is not None:
            caps = [(p.task, dataset.dataset_cap) for p in members]
            mixtures.append(_mixture(f"elm_{name}", members, caps))
    for cluster in dict.fromkeys(datasets[p.dataset].cluster for p in elm):
        slug = re.sub(r"\W+", "_", cluster.lower())
        members = [p for p in elm if datasets[p.dataset].cluster == cluster]
        mixtures.append(_mixture(f"cluster_{slug}", members))
    return mixtures


TASKS = tuple(map(table_tasks.task_of, table_rows.prompts()))
MIXTURES = tuple(_mixtures())

tasks.registry.add(*TASKS, *MIXTURES)
