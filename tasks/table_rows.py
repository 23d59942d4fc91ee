"""The tables of official tasks as rows, read from two small files.

`tables/datasets.json` has one entry per dataset: where PromptSource keeps its prompts,
its cluster and role, its splits (ours to parts of the dataset's own), the original
code's choice of rows unless that was a mistake (`elm`), published numbers of rows,
T0's cap per prompt, and the places that have it. `tables/prompts.csv` has one row per
prompt; `jinja_sha256` is that of PromptSource 0.2.3's text, and `fields` are the fields
of a row that it uses.
`tables/own_prompts.csv` has the same of the prompts in our own words.
`tables/licences.csv` has the licences of datasets with their sources, also of those in
other tables; a dataset of which no source was found to say one is not in it.
"""

import csv
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).parent / "tables"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset.

    Attributes:
      name: The beginning of the names of its tasks (ANLI's end with the round).
      promptsource: PromptSource's folder, `dataset` or `dataset/subset`.
      cluster: Kind of task.
      role: `train` or `unseen`.
      splits: Our split names to parts of the dataset's own splits.
      elm: `train` and `validation` as the original code took them, where it did not
        simply shuffle with seed 42 and cut.
      rows: Published number of rows by split of the dataset's own.
      t0_cap: T0's mixing rate per prompt, in examples; None if T0 lacks the dataset.
      dataset_cap: The original code's cap per prompt for adapter dataset experts.
      tfds: `name` of TFDS 4.9.10, and perhaps `splits`, `convert` and `lacks`; or None.
      hub: `name`, `config` (null for `default` or the only one) and perhaps `splits`,
        `convert`, `mirrors` (more such entries) and `rows` (where the place has another
        number); or None. `verified` says where that was read and when, pages and pinned
        code and never by loading: A for this very repository and folder of converted
        files, B where that folder is inferred from the dataset's own; false where no
        Parquet files were seen, or nobody looked.
      p3: Whether P3 has its tasks.
      origin: Where the authors' own files are.
      manual: What a user must do by hand to get it, if anything.
      note: What a user should know about its rows.
    """

    name: str
    promptsource: str
    cluster: str
    role: str
    splits: Mapping[str, str]
    rows: Mapping[str, int]
    tfds: Mapping[str, Any] | None
    hub: Mapping[str, Any] | None
    p3: bool
    origin: str
    elm: Mapping[str, str] = dataclasses.field(default_factory=dict)
    t0_cap: int | None = None
    dataset_cap: int | None = None
    manual: str = ""
    note: str = ""

    @property
    def folder(self) -> tuple[str, str | None]:
        """PromptSource's dataset and subset."""
        dataset, _, subset = self.promptsource.partition("/")
        return dataset, subset or None


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt of a dataset.

    Attributes:
      task: T0's name of the task.
      dataset: Name of the dataset.
      prompt: The template's name.
      jinja_sha256: Of the template's text, in hex.
      num_choices: Fixed answer choices; 0 for none, -1 if they depend on the row.
      choices: Answer choices to rank, where the template's own lack a target; else "".
      metrics: Names of metrics.
      original_task: Whether it asks for what the dataset was made for.
      elm: Whether the paper trains or evaluates on it.
      t0: Whether T0 trains or evaluates on it.
      max_examples: Most examples that the paper trains on; None for all.
      fields: What it reads of a row.
    """

    task: str
    dataset: str
    prompt: str
    jinja_sha256: str
    num_choices: int
    choices: str
    metrics: tuple[str, ...]
    original_task: bool
    elm: bool
    t0: bool
    max_examples: int | None
    fields: tuple[str, ...]


@functools.cache
def datasets() -> Mapping[str, Dataset]:
    """Returns the datasets by name, in the order of the table."""
    content = json.loads((FOLDER / "datasets.json").read_text("utf-8"))
    return {name: Dataset(name, **entry) for name, entry in content.items()}


@functools.cache
def licences() -> Mapping[str, tuple[str, str]]:
    """Returns licences of datasets, and who says so; without those not known."""
    with open(FOLDER / "licences.csv", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return {row["dataset"]: (row["licence"], row["source"]) for row in rows}


def licence(dataset: str) -> str:
    """Returns the licence of a dataset, "" if it is not known."""
    return licences().get(dataset, ("", ""))[0]


@functools.cache
def prompts() -> Sequence[Prompt]:
    """Returns the official prompts in the order of the table."""
    return _read_prompts(FOLDER / "prompts.csv")


@functools.cache
def own_prompts() -> Sequence[Prompt]:
    """Returns the prompts in our own words, in the order of their table."""
    return _read_prompts(FOLDER / "own_prompts.csv")


def _read_prompts(path: pathlib.Path) -> Sequence[Prompt]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Prompt(
                task=row["task"],
                dataset=row["dataset"],
                prompt=row["prompt"],
                jinja_sha256=row["jinja_sha256"],
                num_choices=int(row["num_choices"]),
                choices=row["choices"],
                metrics=tuple(row["metrics"].split()),
                original_task=row["original_task"] == "1",
                elm=row["elm"] == "1",
                t0=row["t0"] == "1",
                max_examples=int(row["max_examples"] or 0) or None,
                fields=tuple(row["fields"].split()),
            )
            for row in csv.DictReader(file)
        )


@functools.cache
def examples() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Returns a few made rows by dataset, in the fields that prompts expect.

    They are ours: short, and with the types and fields of the real rows.
    """
    return json.loads((FOLDER / "examples.json").read_text("utf-8"))


def example_rows(dataset: str, split: str) -> list[Mapping[str, Any]]:
    """Returns the made rows of a dataset; the same for every split."""
    del split
    return list(examples()[dataset])
