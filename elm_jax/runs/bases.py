"""What manifests say of models: which base, which shape, which adapters."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from elm_jax import errors, trees
from elm_jax.checkpoints import digests, experts, manifest
from elm_jax.model import config, t5
from elm_jax.peft import adapters
from elm_jax.types import Params

_T = TypeVar("_T")


def read_manifest(folder: pathlib.Path) -> manifest.Manifest:
    """Returns the manifest of what serves as a base: see `as_base`.

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
    info = manifest.read_manifest(folder)
    return as_base(info, lambda: experts.load_expert(folder)[0])


def as_base(
    info: manifest.Manifest, load_params: Callable[[], Params]
) -> manifest.Manifest:
    """Returns a manifest with its own name and fingerprint as those of the base.

    An expert that holds all parameters may serve as a base, and is then another base
    than the one that it was trained on.

    Args:
      info: The manifest of a base, or of such an expert.
      load_params: Returns its parameters; called only if `info` does not tell their
        fingerprint, as those of release 0.1 do not.

    Raises:
      CheckpointError: It has adapters, and so is no whole model.
    """
    if info.adapter is not None:
        raise errors.CheckpointError(
            found=f"{info.kind} expert {info.name!r} with adapters as a base",
            expected="a whole model: a base, a dataset expert or a folded expert",
            do="Name its base, or fold a LoRA or (IA)3 expert into it"
            " (gin/t5/fold.gin)",
        )
    fingerprint = digests.recorded_fingerprint(info) or trees.fingerprint(load_params())
    return dataclasses.replace(info, base_name=info.name, base_fingerprint=fingerprint)


def read_fingerprint(folder: pathlib.Path) -> str:
    """Returns the fingerprint of what serves as a base, as `read_manifest` does."""
    return read_manifest(folder).base_fingerprint


def check_fits(info: manifest.Manifest, base: manifest.Manifest) -> None:
    """Raises FingerprintError unless an expert was trained on a base.

    Args:
      info: The expert's.
      base: The base's, from `read_manifest` or `as_base`.
    """
    if info.base_fingerprint != base.base_fingerprint:
        raise errors.FingerprintError(
            found=f"expert {info.name!r} of base {info.base_name!r} "
            f"({info.base_fingerprint})",
            expected=f"one of base {base.name!r} ({base.base_fingerprint})",
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
      CheckpointError: The kind or a field of the adapter is unknown or wrong.
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
            found=f"manifest of {name!r}: {_reason(error)}",
            expected="the fields that the expert was saved with",
            do="Save the expert again, or read it with the elm_jax that wrote it",
        ) from error


def _reason(error: Exception) -> str:
    """Returns what an error found and expected, without its advice for gin files."""
    lines = [line.rstrip(".") for line in f"{error}".splitlines()[:2]]
    return "; ".join(lines).removeprefix("Found: ").replace("; Expected", "; expected")


def build_model(shape: config.T5Config, adapter: adapters.AnySpec | None) -> t5.T5:
    """Returns the network of a shape, with adapters at their insertion points."""
    if adapter is None:
        return t5.T5(shape)
    return t5.T5(shape, adapters=adapter.adapter_fn(shape.emb_dim))


def describe(spec: Any) -> dict[str, Any] | None:
    """Returns a dataclass as JSON data for a manifest; None stays None."""
    if isinstance(spec, config.T5Config):
        return config.recorded(spec)
    return None if spec is None else dataclasses.asdict(spec)
