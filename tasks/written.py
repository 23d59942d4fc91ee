"""Tables of datasets whose prompts stand in the table itself, as tasks.

One entry per dataset: all that `table_rows.Dataset` has, its prompts as Jinja text in
this project's own words, and a few made rows. `ct0` of a prompt names the files that
Continual-T0 made of it, by split.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from elm_jax.data import regrouping, serving, sources, tasks, templates
from tasks import generative_files, places, public_files, table_rows

FOLDER = pathlib.Path(__file__).parent / "tables"
CT0_ORIGIN = "github.com/ThomasScialom/T0_continual_learning, its folder of data"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt of a dataset.

    Attributes:
      name: Name of the prompt in the original code.
      id: Ours; part of the seed of random choices.
      jinja: Text of prompt and target.
      fields: What it reads of a row.
      metrics: Names of metrics.
      is_trained: Whether the paper trains an expert on it.
      ct0: Continual-T0's file of it by split, below `ct0_data/`, and after a space what
        else has to be there.
    """

    name: str
    id: str
    jinja: str
    fields: Sequence[str]
    metrics: Sequence[str]
    is_trained: bool
    ct0: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A dataset with its prompts and made rows."""

    dataset: table_rows.Dataset
    prompts: Sequence[Prompt]
    examples: Sequence[Mapping[str, Any]]


@functools.cache
def read(table: str) -> Mapping[str, Entry]:
    """Returns a table's datasets by name, in its order."""
    content = json.loads((FOLDER / f"{table}.json").read_text("utf-8"))
    entries_by_name = {}
    for name, entry in content.items():
        prompts = tuple(Prompt(**prompt) for prompt in entry.pop("prompts"))
        examples = entry.pop("examples")
        dataset = table_rows.Dataset(name, promptsource="", p3=False, **entry)
        entries_by_name[name] = Entry(dataset, prompts, examples)
    return entries_by_name


def example_rows(table: str, name: str, split: str) -> list[Mapping[str, Any]]:
    """Returns the made rows of a dataset; the same for every split."""
    del split
    return list(read(table)[name].examples)


def tasks_of(table: str) -> list[tasks.Task]:
    """Returns the tasks of a table, in its order; registers none."""
    return [
        _task(table, entry, prompt)
        for entry in read(table).values()
        for prompt in entry.prompts
    ]


def _task(table: str, entry: Entry, prompt: Prompt) -> tasks.Task:
    dataset = entry.dataset
    elm = {f"{split}@elm": part for split, part in dataset.elm.items()}
    return tasks.Task(
        name=templates.task_name(dataset.name, None, prompt.name),
        dataset=dataset.name,
        prompt=prompt.name,
        cluster=dataset.cluster,
        source=_source(table, dataset, prompt),
        template=templates.Template(
            prompt.name, prompt.id, prompt.jinja, metrics=tuple(prompt.metrics)
        ),
        metrics=tuple(prompt.metrics),
        splits={**dataset.splits, **elm},
        role=dataset.role,
        note=dataset.note,
        licence=table_rows.licence(dataset.name),
        num_choices=0,
    )


def _source(table: str, dataset: table_rows.Dataset, prompt: Prompt) -> serving.AnyOf:
    """Returns Continual-T0's files first, then the dataset's own places."""
    options = [*_shared_options(table, dataset.name)]
    if prompt.ct0:
        ct0 = sources.FileRows(
            generative_files.prompted,
            {
                split: [*map(_either, paths.split())]
                for split, paths in prompt.ct0.items()
            },
            origin=CT0_ORIGIN,
            is_prompted=True,
        )
        splits = {split: split for split in prompt.ct0}
        options.insert(0, serving.Option("files", ct0, splits))
    advice = dataset.manual or f"The authors' own files are at {dataset.origin}"
    fields = tuple(prompt.fields)
    return serving.AnyOf(dataset.name, tuple(options), fields, advice)


def _either(path: str) -> str:
    """Returns a pattern that fits a file in either of two layouts.

    These are the folders of Continual-T0, and those of the original code, which have
    one more level.
    """
    folder, _, file = path.partition("/")
    outer = {"covid_qa_deepset": "covid_qa"}.get(folder, folder)
    return f"ct0_data/{path}|ct0_data/{outer}/{folder}/{file}"


@functools.cache
def _shared_options(table: str, name: str) -> tuple[serving.Option, ...]:
    files: Mapping[str, sources.FileRows | regrouping.Regrouped]
    files = {
        **generative_files.FILES,
        **generative_files.CROSSSUM,
        **generative_files.TATOEBA,
    }
    files["ct0_gigaword"] = public_files.FILES["gigaword"]
    return tuple(
        places.options_of(
            read(table)[name].dataset,
            files.get(name),
            functools.partial(example_rows, table, name),
            generative_files.REGROUP,
        )
    )
