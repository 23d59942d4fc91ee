"""Small prepared TFDS datasets, made without a network.

Every dataset that the tables place in TFDS has its builder's code in the package, so
features, versions and names of splits below are the *real builders'*: nothing is made
to a table's schema. Only the rows are ours, the made ones of the tables, brought into
the builder's features; fields that these lack are zero or empty.
"""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from elm_jax.data import sources, tensorflow_imports
from tasks import table_rows, written

DATASETS: Mapping[str, table_rows.Dataset] = {
    name: dataset
    for name, dataset in (
        *table_rows.datasets().items(),
        *((n, e.dataset) for n, e in written.read("generative").items()),
    )
    if dataset.tfds
}


def made_rows(name: str) -> list[sources.Row]:
    """Returns a dataset's made rows, in the fields that prompts expect."""
    if name in table_rows.datasets():
        return list(table_rows.examples()[name])
    return list(written.read("generative")[name].examples)


@functools.cache
def builder(name: str) -> Any:
    """Returns the dataset's real builder, of the version that the table names."""
    place = DATASETS[name].tfds
    assert place
    full, _, version = place["name"].rpartition("/")
    dataset_builder = tensorflow_imports.import_tfds().builder(
        full, data_dir="/nowhere"
    )
    assert str(dataset_builder.version) == version
    return dataset_builder


def split_names(name: str, folder: pathlib.Path) -> set[str]:
    """Returns the names of splits that the real builder makes, downloading nothing."""
    (folder / "stories/cnn/stories").mkdir(parents=True)
    (folder / "stories/dailymail/stories").mkdir(parents=True)
    file = folder / "empty"
    file.write_text('{"train": [], "validation": [], "test": []}' * (name == "xsum"))
    generators = builder(name)._split_generators(_NoDownloads(file))
    return {str(getattr(split, "name", split)) for split in generators}


class _NoDownloads:
    """Stands for TFDS's download manager: every download is the same empty file."""

    def __init__(self, file: pathlib.Path) -> None:
        self._file = file
        self.manual_dir = file.parent

    def download_and_extract(self, resources: Any) -> Any:
        if isinstance(resources, Mapping):
            return {
                key: self._file.parent / "stories"
                if str(key).endswith("_stories")
                else self.download_and_extract(value)
                for key, value in resources.items()
            }
        if isinstance(resources, (list, tuple)):
            return [self.download_and_extract(item) for item in resources]
        return self._file

    download = extract = download_and_extract

    def iter_archive(self, path: Any) -> Iterator[Any]:
        del path
        return iter(())


def _ag_news(row: sources.Row) -> sources.Row:
    title, _, description = row["text"].partition(" ")
    return {**row, "title": title, "description": description}


def _anli(row: sources.Row) -> sources.Row:
    return {**row, "context": row["premise"]}


def _hellaswag(row: sources.Row) -> sources.Row:
    return {**row, "context": row["ctx"], "label": int(row["label"])}


def _winogrande(row: sources.Row) -> sources.Row:
    return {**row, "label": int(row["answer"]) - 1}


# What `tasks.conversions` undoes.
_TO_TFDS: Mapping[str, Callable[[sources.Row], sources.Row]] = {
    "ag_news": _ag_news,
    "anli": _anli,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
}


def tfds_rows(name: str) -> list[dict[str, Any]]:
    """Returns the made rows in the real builder's features."""
    place = DATASETS[name].tfds
    assert place
    to_tfds = _TO_TFDS.get(place.get("convert", ""), dict)
    features = builder(name).info.features
    return [_fitted(features, to_tfds(row)) for row in made_rows(name)]


def _fitted(features: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] if key in row else _zero(f) for key, f in features.items()}


def _zero(feature: Any) -> Any:
    if isinstance(feature, tensorflow_imports.import_tfds().features.Sequence):
        return []
    return "" if feature.np_dtype == np.object_ else 0


def prepare(name: str, split: str, data_dir: pathlib.Path) -> None:
    """Writes the made rows as one split of the dataset, as TFDS itself prepares it."""
    place = DATASETS[name].tfds
    assert place
    dataset, *config, version = place["name"].split("/")
    with _quiet():
        tensorflow_imports.import_tfds().dataset_builders.store_as_tfds_dataset(
            name=dataset,
            version=version,
            features=builder(name).info.features,
            split_datasets={split: list(enumerate(tfds_rows(name)))},
            config=config[0] if config else None,
            data_dir=data_dir,
            disable_shuffling=True,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
