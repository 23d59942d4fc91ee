"""A base model from disk: parameters, shape and fingerprint, and experts put on it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from elm_jax import errors, trees
from elm_jax.checkpoints import digests, experts, manifest
from elm_jax.model import config, t5
from elm_jax.peft import adapters
from elm_jax.types import Params

_T = TypeVar("_T")


class Base(NamedTuple):
    """One base model in memory; many experts are put on it."""

    name: str
    config: config.T5Config
    params: Params
    fingerprint: str
    manifest: manifest.Manifest


def read_manifest(folder: pathlib.Path) -> manifest.Manifest:
    """Returns the manifest of a base.

    Raises:
      CheckpointError: There is no base, or its manifest is corrupt.
    """
    if not folder.is_dir():
        raise errors.CheckpointError(
            found=f"no base in {folder}",
            expected="a folder with manifest.json and params/",
            do="Train one (gin/pocket/base.gin), import one (elm_convert), or"
            " name another with --gin.INITIAL_CHECKPOINT_PATH",
        )
    return manifest.read_manifest(folder)


def load_base(folder: pathlib.Path) -> Base:
    """Returns the base whose folder `elm_train` or `elm_convert` wrote.

    Its parameters are float32 in memory, in whatever dtype they are on disk.

    Raises:
      CheckpointError: There is no base, or it is corrupt.
    """
    info = read_manifest(folder)
    shape = model_config(info)
    params, _ = experts.load_expert(folder, expected=t5.param_shapes(t5.T5(shape)))
    fingerprint = digests.recorded_fingerprint(info) or trees.fingerprint(params)
    return Base(info.name, shape, trees.as_float32(params), fingerprint, info)


def read_fingerprint(folder: pathlib.Path) -> str:
    """Returns the fingerprint of the base in a folder, by its manifest if that tells.

    Raises:
      CheckpointError: There is no base, or it is corrupt.
    """
    info = read_manifest(folder)
    return digests.recorded_fingerprint(info) or trees.fingerprint(
        experts.load_expert(folder)[0]
    )


def check_fits(info: manifest.Manifest, base_name: str, fingerprint: str) -> None:
    """Raises FingerprintError unless an expert was trained on a base.

    Args:
      info: The expert's.
      base_name: Of the base, for the message.
      fingerprint: Of the base.
    """
    if info.base_fingerprint != fingerprint:
        raise errors.FingerprintError(
            found=f"expert {info.name!r} of base {info.base_name!r} "
            f"({info.base_fingerprint})",
            expected=f"one of base {base_name!r} ({fingerprint})",
            do="Name the base that the expert names",
        )


def model_config(info: manifest.Manifest) -> config.T5Config:
    """Returns the model shape that a manifest records, or raises CheckpointError."""
    return _from_json(config.T5Config, info.model, info.name)


def adapter_spec(info: manifest.Manifest) -> adapters.AdapterSpec | None:
    """Returns the adapter spec that a manifest records, or None for no adapters.

    Raises:
      CheckpointError: The kind or a field of the adapter is unknown or wrong.
    """
    return None if info.adapter is None else spec_from_json(info.adapter, info.name)


def spec_from_json(fields: Mapping[str, Any], name: str) -> adapters.AdapterSpec:
    """Returns the adapter spec of which `describe` gave the fields.

    Args:
      fields: JSON data, `kind` among them.
      name: What it belongs to, for the message.

    Raises:
      CheckpointError: As `adapter_spec`.
    """
    return _from_json(_adapter_from_json, fields, name)


def _adapter_from_json(*, kind: object, **fields: Any) -> adapters.AdapterSpec:
    return adapters.spec_type(kind)(**fields)


def _from_json(cls: Callable[..., _T], fields: Mapping[str, Any], name: str) -> _T:
    """Returns a dataclass from what `describe` gave; JSON has lists for tuples."""
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
    try:
        return cls(**values)
    except (TypeError, errors.ConfigError) as error:
        raise errors.CheckpointError(
            found=f"manifest of {name!r}: {_first(error)}",
            expected="the fields that the expert was saved with",
            do="Save the expert again, or read it with the elm_jax that wrote it",
        ) from error


def _first(error: Exception) -> str:
    """Returns what an error has found, without what it advises for gin files."""
    return f"{error}".partition("\n")[0].removeprefix("Found: ")


def build_model(shape: config.T5Config, adapter: adapters.AdapterSpec | None) -> t5.T5:
    """Returns the network of a shape, with adapters at their insertion points."""
    if adapter is None:
        return t5.T5(shape)
    return t5.T5(shape, adapters=adapter.adapter_fn(shape.emb_dim))


def describe(spec: Any) -> dict[str, Any] | None:
    """Returns a dataclass as JSON data for a manifest; None stays None."""
    return None if spec is None else dataclasses.asdict(spec)
