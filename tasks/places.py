"""Where each official dataset may lie: files, TFDS, P3 and the Hub, as one source."""

import functools
from collections.abc import Mapping

from elm_jax.data import hub, p3, serving, sources
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
    """Returns the places of a dataset as one task sees them.

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
    """Returns the names of the dataset's own splits that ours are made of."""
    parts = (*dataset.splits.values(), *dataset.elm.values())
    return list(dict.fromkeys(serving.Part.parse(part).split for part in parts))


@functools.cache
def _shared_options(name: str) -> tuple[serving.Option, ...]:
    """Returns the places that all prompts of a dataset share."""
    dataset = table_rows.datasets()[name]
    same = {split: split for split in own_splits(dataset)}
    options = []
    if name in FILES:
        files = FILES[name]
        options.append(
            serving.Option("files", files, {split: split for split in files.files})
        )
    if dataset.tfds:
        options.append(
            serving.Option(
                "tfds",
                sources.TfdsRows(dataset.tfds["name"]),
                dataset.tfds.get("splits", same),
                conversions.TFDS.get(dataset.tfds.get("convert", "")),
            )
        )
    if dataset.hub:
        options.append(
            serving.Option(
                "hub",
                hub.HubRows(dataset.hub["name"], dataset.hub["config"]),
                dataset.hub.get("splits", same),
                conversions.HUB.get(dataset.hub.get("convert", "")),
            )
        )
    made = functools.partial(table_rows.example_rows, name)
    options.append(
        serving.Option("examples", sources.GeneratedRows(made, version="1"), same)
    )
    return tuple(options)
