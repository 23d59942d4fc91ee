"""The places of each official dataset (files, TFDS, P3, Hub) as one source."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from elm_jax.data import hub, p3, regrouping, serving, sources
from tasks import author_files, conversions, public_files, table_rows

FILES: Mapping[str, sources.FileRows] = {
    "dream": author_files.DREAM,
    "cos_e_v1.11": author_files.COS_E,
    "commonsense_qa": author_files.COMMONSENSE_QA,
    "cosmos_qa": author_files.COSMOS_QA,
    "quail": author_files.QUAIL,
    "rotten_tomatoes": author_files.ROTTEN_TOMATOES,
    **public_files.FILES,
}


def source_of(
    dataset: table_rows.Dataset, fields: tuple[str, ...], *, p3_task: str = ""
) -> serving.AnyOf:
    """Returns the places of a dataset that have what one task needs.

    Args:
      dataset: Row of the table.
      fields: What its template reads; places that lack one of them are left out.
      p3_task: P3's name of the task; "" if P3 has none.
    """
    options = list(_shared_options(dataset.name))
    if dataset.tfds and set(dataset.tfds.get("lacks", ())) & set(fields):
        options = [option for option in options if option.kind != "tfds"]
    if dataset.p3 and p3_task:
        splits = {split: split for split in own_splits(dataset)}
        options.append(serving.Option("p3", p3.P3Rows(p3_task), splits))
    advice = dataset.manual or f"The authors' own files are at {dataset.origin}"
    return serving.AnyOf(dataset.name, tuple(options), fields, advice)


def own_splits(dataset: table_rows.Dataset) -> list[str]:
    """Returns the names of the dataset's own splits that our splits use."""
    parts = (*dataset.splits.values(), *dataset.elm.values())
    return list(dict.fromkeys(serving.Part.parse(part).split for part in parts))


def options_of(
    dataset: table_rows.Dataset,
    files: sources.FileRows | regrouping.Regrouped | None,
    made_fn: Callable[[str], Iterable[sources.Row]],
    regroup_fns: Mapping[str, regrouping.RegroupFn] | None = None,
) -> list[serving.Option]:
    """Returns the places of a dataset that all its prompts share.

    Args:
      dataset: Row of a table.
      files: The authors' own files, if we have a parser for them.
      made_fn: Gives the rows made by hand.
      regroup_fns: What the table's `regroup` names.
    """
    same = {split: split for split in own_splits(dataset)}
    options = []
    if files is not None:
        has = files.files if isinstance(files, sources.FileRows) else files.splits
        options.append(serving.Option("files", files, {split: split for split in has}))
    remote: list[tuple[str, Mapping[str, Any], sources.Source]] = []
    if dataset.tfds:
        remote.append(("tfds", dataset.tfds, sources.TfdsRows(dataset.tfds["name"])))
    if dataset.hub:
        mirrors = dataset.hub.get("mirrors", ())
        for entry in (dataset.hub, *mirrors):
            rows = hub.HubRows(
                entry["name"], entry["config"], has_mirrors=bool(mirrors)
            )
            remote.append(("hub", entry, rows))
    for kind, entry, source in remote:
        splits = entry.get("splits", same)
        if "regroup" in entry:
            regroup_fn = (regroup_fns or {})[entry["regroup"]]
            source = regrouping.Regrouped(source, regroup_fn, splits)
            splits = {split: split for split in splits}
        converters = conversions.TFDS if kind == "tfds" else conversions.HUB
        convert = converters.get(entry.get("convert", ""))
        options.append(serving.Option(kind, source, splits, convert))
    generated = sources.GeneratedRows(made_fn, version="1")
    return [*options, serving.Option("examples", generated, same)]


@functools.cache
def _shared_options(name: str) -> tuple[serving.Option, ...]:
    """Returns the places that all prompts of a dataset of the main table share."""
    made_fn = functools.partial(table_rows.example_rows, name)
    dataset = table_rows.datasets()[name]
    return tuple(options_of(dataset, FILES.get(name), made_fn))
