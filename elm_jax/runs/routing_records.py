"""What token routers need to know of an expert beforehand, on disk.

A library's folder `routing/` has a folder for each expert, named by a hash of what
decides its content: expert, base and settings. So a new expert adds a folder and
changes none, and a changed expert finds none. The record tells the rows that were seen.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_jax import errors, fields
from elm_jax.checkpoints import manifest
from elm_jax.disk import files, folders, json_files, seals
from elm_jax.peft import mixture

FOLDER = "routing"  # of a library
_ARRAYS, _RECORD = "arrays.npz", "record.json"
# Of `norm_mean`, `norm_std`, `read_mean`, `gate`, by the place of the adapter.
Arrays = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """On which rows experts are observed, and how their gates are trained.

    Attributes:
      num_examples: Training examples per expert, drawn among all of its tasks.
      batch_size: Examples per step.
      gate_steps: Updates of each expert's gates; 0 for none.
      gate_learning_rate: Of Adam. PHATGOOSE takes 5e-3 for 100 steps.
      random_seed: Of the choice of examples and of their order.
      split: Of the tasks that the expert was trained on.
      reads: What means and gates are of, as `mixture.Mixture.reads`; `sub_layer` is
        better for bottlenecks behind a sub-layer.
    """

    num_examples: fields.Count = 256
    batch_size: fields.Count = 32
    gate_steps: fields.CountOrNone = 100
    gate_learning_rate: fields.Positive = 5e-3
    random_seed: fields.Seed = 42
    split: str = "train"
    reads: mixture.Reads = "adapter"

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that cannot be."""
        fields.check(self)


def folder_of(
    records_dir: pathlib.Path, info: manifest.Manifest, settings: Settings
) -> pathlib.Path:
    """Returns where the record of an expert lies, or will lie."""
    text = json.dumps(_recipe(info, settings), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return records_dir / f"{info.name}-{digest}"


def write(
    records_dir: pathlib.Path,
    info: manifest.Manifest,
    settings: Settings,
    arrays: Arrays,
    rows: Mapping[str, Any],
) -> None:
    """Writes an expert's record; an existing record stays.

    Args:
      records_dir: The folder of all records.
      info: Of the expert.
      settings: Of the observation.
      arrays: What was observed.
      rows: What tells the rows that were seen, as JSON values.

    Raises:
      LibraryError: The folder cannot be written.
    """
    flat = {
        f"{p}:{n}": a for p, of_place in arrays.items() for n, a in of_place.items()
    }
    path = folder_of(records_dir, info, settings)
    try:
        with folders.new_folder(path, errors.LibraryError) as partial:
            with (partial / _ARRAYS).open("wb") as file:
                np.savez(file, **flat)  # type: ignore[arg-type]
            content = {"digest_of_arrays": _digest((partial / _ARRAYS).read_bytes())}
            content |= {"recipe": _recipe(info, settings), "rows": dict(rows)}
            files.write_text(
                partial / _RECORD, json.dumps(seals.seal(content), indent=2)
            )
    except errors.ExistsError:
        return


def check_rows(
    records_dir: pathlib.Path,
    info: manifest.Manifest,
    settings: Settings,
    rows: Mapping[str, Any],
) -> bool:
    """Returns whether a record is there, with these facts about its rows.

    Raises:
      LibraryError: There is one of other rows, or it is damaged.
    """
    path = folder_of(records_dir, info, settings)
    if not path.exists():
        return False
    record = _read_record(path, _recipe(info, settings))
    _read_arrays(path, record)
    recorded: Any = record.get("rows")
    saved_rows = {name: recorded.get(name) for name in rows}
    if saved_rows != dict(rows):
        raise errors.LibraryError(
            found=f"a record of expert {info.name!r} in {records_dir}, of the rows"
            f" {json_files.shown(saved_rows)}",
            expected=f"the rows {json_files.shown(dict(rows))}",
            do="Choose another records_dir, or remove this one",
        )
    return True


def digest(
    records_dir: pathlib.Path, info: manifest.Manifest, settings: Settings
) -> str:
    """Returns the hash of an expert's arrays; raises LibraryError as `read`."""
    path = folder_of(records_dir, info, settings)
    _check_is_there(path, info, settings)
    record = _read_record(path, _recipe(info, settings))
    return f"{record.get('digest_of_arrays')}"


def read(
    records_dir: pathlib.Path, info: manifest.Manifest, settings: Settings
) -> Arrays:
    """Returns an expert's arrays, by place and name.

    Raises:
      LibraryError: There is no record of this very expert, or it is damaged.
    """
    path = folder_of(records_dir, info, settings)
    _check_is_there(path, info, settings)
    flat = _read_arrays(path, _read_record(path, _recipe(info, settings)))
    arrays: Arrays = {}
    for key, array in flat.items():
        place, _, name = key.rpartition(":")
        arrays.setdefault(place, {})[name] = array
    return arrays


def _check_is_there(
    path: pathlib.Path, info: manifest.Manifest, settings: Settings
) -> None:
    if (path / _RECORD).is_file():
        return
    problem = f"no record of expert {info.name!r} in {path.parent}"
    do = (
        "Run elm_library with @observe.Observe() on this library"
        " (gin/pocket/observe.gin)"
    )
    if others := _other_settings(path.parent, info, settings):
        problem += f" with these settings, but with {' and with '.join(others)}"
        do = f"Give those of a record (record_settings), or: {do} with these"
    raise errors.LibraryError(
        found=problem,
        expected="what a router by statistics or gates has to know of each expert",
        do=do,
    )


def _other_settings(
    records_dir: pathlib.Path, info: manifest.Manifest, settings: Settings
) -> list[str]:
    """Returns in what the settings of other records of an expert differ, as texts."""
    requested = _recipe(info, settings)
    texts = []
    for path in sorted(records_dir.glob(f"{info.name}-*/{_RECORD}")):
        try:
            recipe = seals.open_sealed(json_files.read_object(path))["recipe"]
            of_record = {"reads": "adapter", **recipe["settings"]}
            is_same = {**recipe, "settings": requested["settings"]} == requested
        except (OSError, KeyError, TypeError, ValueError, errors.ElmError):
            continue  # a damaged one is no help here
        pairs = dataclasses.asdict(settings).items()
        differing = [
            f"{name} = {json_files.shown(of_record.get(name))}"
            for name, value in pairs
            if of_record.get(name) != value
        ]
        if is_same and differing:
            texts.append(", ".join(differing))
    return texts


def _read_record(path: pathlib.Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a record says; raises LibraryError for one of another recipe."""
    try:
        record = seals.open_sealed(json_files.read_object(path / _RECORD))
        if record.get("recipe") != recipe:
            raise ValueError("it is of another expert, base or settings")
    except (OSError, ValueError, errors.ElmError) as error:
        raise _damaged(path, error) from error
    return record


def _read_arrays(
    path: pathlib.Path, record: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns what was observed, by place and name; raises LibraryError if changed."""
    try:
        content = (path / _ARRAYS).read_bytes()
        if record.get("digest_of_arrays") != _digest(content):
            raise ValueError(f"{_ARRAYS} was changed after it was written")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> errors.LibraryError:
    return errors.LibraryError(
        found=f"the record {path}: {errors.reason(error)}",
        expected="the files as they were written",
        do="Remove this folder, and run elm_library with @observe.Observe() again",
    )


def _recipe(info: manifest.Manifest, settings: Settings) -> dict[str, Any]:
    settings_json = dataclasses.asdict(settings)
    if settings.reads == "adapter":  # as records were before there was a choice
        del settings_json["reads"]
    return {
        "expert": info.fingerprint,
        "base": info.base_fingerprint,
        "settings": settings_json,
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
