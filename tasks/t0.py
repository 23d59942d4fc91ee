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
judged on. Under the protocol `elm` the splits `train` and `validation` of these are the
rows of the original code. `README.md` beside this file has the differences.
"""

import re
from collections.abc import Iterable, Sequence

from elm_jax.data import serving, tasks, template_files
from tasks import places, table_rows

# The template offers four letters; of five choices the fifth is right for a fifth of
# the questions. Those rows are dropped and counted.
_MAX_BAD_SHARE = {"commonsense_qa_question_to_answer_index": 0.25}
_NUM_SEEN_ROWS, _SEED = 300, 42


def _task(prompt: table_rows.Prompt) -> tasks.Task:
    dataset = table_rows.datasets()[prompt.dataset]
    folder, subset = dataset.folder
    return tasks.Task(
        name=prompt.task,
        dataset=prompt.dataset,
        prompt=prompt.prompt,
        cluster=dataset.cluster,
        source=places.source_of(dataset, prompt.task, prompt.fields),
        template=template_files.TemplateRef(
            folder,
            prompt.prompt,
            subset,
            jinja_sha256=prompt.jinja_sha256,
            choices=prompt.choices,
        ),
        metrics=prompt.metrics,
        splits=_splits(dataset, prompt),
        role=dataset.role,
        note=dataset.note,
        num_choices=prompt.num_choices,
        max_bad_share=_MAX_BAD_SHARE.get(prompt.task, 0.05),
    )


def _splits(dataset: table_rows.Dataset, prompt: table_rows.Prompt) -> dict[str, str]:
    """Returns our split names to parts of the dataset's own splits."""
    splits = dict(dataset.splits)
    if dataset.role != "train" or not prompt.elm:
        return splits
    own = serving.Part.parse(splits["validation"]).split
    seen = f"{own}[:{_NUM_SEEN_ROWS}]~{_SEED}"
    cap, rows = prompt.max_examples, dataset.rows["train"]
    train = f"train[:{cap}]~{_SEED}" if cap is not None and cap < rows else "train"
    return splits | {
        "validation_300": seen,
        "train@elm": dataset.elm.get("train", train),
        "validation@elm": dataset.elm.get("validation", seen),
    }


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
    found = [
        _mixture("elm_train", elm, [(p.task, p.max_examples) for p in elm]),
        _mixture("t0_train", t0, [(p.task, datasets[p.dataset].t0_cap) for p in t0]),
        _mixture("elm_unseen", (p for p in by_role["unseen"] if p.elm)),
        _mixture("t0_eval", (p for p in by_role["unseen"] if p.t0)),
    ]
    for name, dataset in datasets.items():
        own: Sequence[table_rows.Prompt] = [p for p in prompts if p.dataset == name]
        own = [p for p in own if p.elm] or own
        found.append(_mixture(name, own))
        if dataset.dataset_cap is not None:
            caps = [(p.task, dataset.dataset_cap) for p in own]
            found.append(_mixture(f"elm_{name}", own, caps))
    for cluster in dict.fromkeys(datasets[p.dataset].cluster for p in elm):
        slug = re.sub(r"\W+", "_", cluster.lower())
        own = [p for p in elm if datasets[p.dataset].cluster == cluster]
        found.append(_mixture(f"cluster_{slug}", own))
    return found


TASKS = tuple(map(_task, table_rows.prompts()))
MIXTURES = tuple(_mixtures())

tasks.registry.add(*TASKS, *MIXTURES)
