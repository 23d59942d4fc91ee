"""The 13 BIG-bench datasets of the paper: 20 tasks, one per `task.json` with examples.

Two datasets have subtasks, each a task of its own: a dataset's score is the mean over
them. Names are `bigbench_<dataset>_zero_shot` and
`bigbench_<dataset>_<subtask>_zero_shot`. Mixtures:

- `bigbench`: all 20, and one per dataset (`bigbench_logical_deduction`);
- `elm_bigbench`: 13 tasks, the subtasks of a dataset as one (`..._merged_zero_shot`),
  as the original code wrote them to one file.

All have one split, `validation`: every example once. Under the protocol `elm` it has
what the original code's file has: repeated examples too, and of the merged
`conceptual_combinations` one subtask twice. `bigbench_files` says how prompts are made.

The files are read from the user's data folder. The Hub's copies are not used: they hold
prompts that BIG-bench's own program put together, and no subtasks.
"""

import csv
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from elm_jax.data import function_templates, serving, sources, tasks
from tasks import bigbench_files, table_rows

ORIGIN = "github.com/google/BIG-bench, folder bigbench/benchmark_tasks"
ADVICE = (
    "In the data folder run `git clone --depth 1 "
    "https://github.com/google/BIG-bench`, or copy the datasets' folders out of its "
    "bigbench/benchmark_tasks into a folder bigbench there"
)
_NOTES = {
    "logic_grid_puzzle": 'choices are shown: the file says "false" as a text, which '
    "BIG-bench's program and the original code take for yes",
    "strategyqa": "one repeated example left out",
    "winowhy": "three repeated examples left out",
}
# Datasets of which the original code's file does not have each subtask once.
_ELM_SUBTASKS = {
    "conceptual_combinations": (
        *("contradictions", "emergent_properties", "fanciful_fictional_combinations"),
        *("homonyms", "invented_words", "homonyms", "surprising_uncommon_combinations"),
    )
}
PROMPT = function_templates.FunctionTemplate(
    "zero_shot", bigbench_files.zero_shot, has_choices=True
)


class File(NamedTuple):
    """One `task.json` with examples.

    Attributes:
      dataset: BIG-bench's name of the task.
      subtask: Of the subtask, or "".
      rows: Published number of different examples.
      repeated: Number of repeated ones; None if it was not counted.
    """

    dataset: str
    subtask: str
    rows: int
    repeated: int | None

    @property
    def folder(self) -> str:
        """BIG-bench's folder of the file."""
        return f"{self.dataset}/{self.subtask}" if self.subtask else self.dataset


def _files() -> tuple[File, ...]:
    path = table_rows.FOLDER / "bigbench.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            File(
                dataset=row["dataset"],
                subtask=row["subtask"],
                rows=int(row["rows"]),
                repeated=int(row["repeated"]) if row["repeated"] else None,
            )
            for row in csv.DictReader(file)
        )


@functools.cache
def examples() -> Mapping[str, Mapping[str, Any]]:
    """Returns contents of `task.json` files that we made up, by folder."""
    path = table_rows.FOLDER / "bigbench_examples.json"
    return json.loads(path.read_text("utf-8"))


def example_rows(folders: Mapping[str, Sequence[str]], split: str) -> Iterator[Any]:
    """Yields the rows of made files, one after another.

    Args:
      folders: BIG-bench's folders of the files by split.
      split: Name of the split.
    """
    for folder in folders[split]:
        yield from bigbench_files.rows(examples()[folder], split)


def _source(files: Sequence[File], elm: Sequence[File]) -> serving.AnyOf:
    """Returns the places of files; those of the original's file are the split `elm`."""
    folders = {
        split: tuple(file.folder for file in some)
        for split, some in ((bigbench_files.ALL, files), (bigbench_files.ELM, elm))
    }
    paths = {
        split: [
            f"bigbench/{folder}/task.json"
            f"|BIG-bench/bigbench/benchmark_tasks/{folder}/task.json"
            for folder in some
        ]
        for split, some in folders.items()
    }
    same = {split: split for split in folders}
    published = sources.FileRows(bigbench_files.task_json, paths, ORIGIN)
    generated = sources.GeneratedRows(
        functools.partial(example_rows, folders), version="1"
    )
    options = (
        serving.Option("files", published, same),
        serving.Option("examples", generated, same),
    )
    name = f"BIG-bench's {', '.join(folders[bigbench_files.ALL])}"
    return serving.AnyOf(name, options, advice=ADVICE)


def _prompt(subtask: str = "") -> str:
    return f"{subtask}_{PROMPT.name}" if subtask else PROMPT.name


def _task(
    dataset: str, prompt: str, files: Sequence[File], elm: Sequence[File] = ()
) -> tasks.Task:
    return tasks.Task(
        name=f"bigbench_{dataset}_{prompt}",
        dataset=f"bigbench_{dataset}",
        prompt=prompt,
        cluster="BIG-bench",
        source=_source(files, elm or files),
        template=PROMPT,
        metrics=("accuracy",),
        splits={
            "validation": bigbench_files.ALL,
            "validation@elm": bigbench_files.ELM,
        },
        role="unseen",
        note=_NOTES.get(dataset, ""),
        num_choices=-1,
    )


def _merged(dataset: str) -> tasks.Task:
    """Returns a dataset with its subtasks as one task."""
    by_subtask = {file.subtask: file for file in FILES if file.dataset == dataset}
    order = _ELM_SUBTASKS.get(dataset, tuple(by_subtask))
    elm = [by_subtask[subtask] for subtask in order]
    return _task(f"{dataset}_merged", _prompt(), list(by_subtask.values()), elm)


def _mixture(name: str, members: Iterable[tasks.Task]) -> tasks.Mixture:
    return tasks.Mixture(name, tuple(task.name for task in members))


FILES = _files()
DATASETS = tuple(dict.fromkeys(file.dataset for file in FILES))
TASKS = tuple(_task(file.dataset, _prompt(file.subtask), [file]) for file in FILES)
MERGED = tuple(_merged(f) for f in dict.fromkeys(f.dataset for f in FILES if f.subtask))
MIXTURES = (
    _mixture("bigbench", TASKS),
    _mixture(
        "elm_bigbench",
        (task for task in (*TASKS, *MERGED) if task.prompt == _prompt()),
    ),
    *(
        _mixture(name, (task for task in TASKS if task.dataset == name))
        for name in (f"bigbench_{dataset}" for dataset in DATASETS)
    ),
)

tasks.registry.add(*TASKS, *MERGED, *MIXTURES)
