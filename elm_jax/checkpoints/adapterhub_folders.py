"""Reads and writes bottleneck adapters of AdapterHub's package `adapters`.

A folder holds adapter_config.json and adapter.safetensors, or `.bin`. What a setting
says with factors is put into our matrices: a scale into `up`, and narrower or missing
adapters of some layers as zeros, which add nothing.
"""

import json
import math
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import (
    adapterhub_settings,
    bottleneck_places,
    experts,
    huggingface,
    huggingface_files,
    layers,
    recipes,
    tensors,
    torch_bottleneck,
    torch_files,
)
from elm_jax.disk import folders
from elm_jax.types import Params

CONFIG = "adapter_config.json"
SAFETENSORS = "adapter.safetensors"
NORMS = "layer_norms.safetensors"
"""Ours: `adapters` has no place for layer norms, and does not read it."""
_KINDS = (SAFETENSORS, "pytorch_adapter.bin")
_HEADS = ("model_head.safetensors", "pytorch_model_head.bin")
_PREFIX = "transformer."  # in files of T5AdapterModel
_SIDES = {"down": "adapter_down.0", "up": "adapter_up"}
_STACKS = ("encoder", "decoder")
_PARTS = {"kernel": "weight", "bias": "bias"}


class HubExpert(NamedTuple):
    """An adapter by our names.

    Attributes:
      spec: Fields of the adapter's specification, `kind` among them.
      params: Float32 arrays, layers stacked.
      has_norms: Whether layer norms are among them, all of the model's.
    """

    spec: dict[str, Any]
    params: dict[str, Any]
    has_norms: bool


def load(
    folder: str | pathlib.Path, base: Params, head: Callable[[], np.ndarray]
) -> HubExpert:
    """Returns the bottleneck adapter of a folder that `adapters` wrote for a T5.

    Args:
      folder: With adapter_config.json, and adapter.safetensors or pytorch_adapter.bin.
      base: Parameters of the model without adapters; leaves need only a `shape`.
      head: Returns the base's matrix of logits [vocabulary, model width]; called if
        the folder holds a head, which must be the same.

    Raises:
      CheckpointError: A file is missing or torn, the settings have an option that ours
        have not, tensors are missing, extra or misshapen, or the head is another than
        the base's.
      MissingExtraError: There is a `.bin` file only, and torch is not installed.
    """
    path = paths.absolute(folder)
    content = huggingface_files.read_json(path / CONFIG)
    shape = model_shape(base)
    settings = adapterhub_settings.read(content, shape, of=f"{path / CONFIG}")
    weights = _open_first(path, _KINDS)
    if weights is None:
        raise errors.CheckpointError(
            found=f"{path} with neither {' nor '.join(_KINDS)}",
            expected="a folder that save_adapter of `adapters` wrote",
            do="Correct the path, or copy the whole folder",
        )
    arrays = _read(weights, _expected(settings, shape), of=f"{path}")
    _check_head(path, head)
    leaves = _import(settings, arrays, shape)
    spec = _spec(settings, shape)
    norms = path / NORMS
    if norms.is_file():
        expected = _norms(base)
        shapes = {hub_name: shape for hub_name, (_, shape) in expected.items()}
        tensors_of = huggingface_files.open_safetensors(norms)
        values = _read(tensors_of, shapes, of=f"{norms}")
        leaves |= {name: values[hub_name] for hub_name, (name, _) in expected.items()}
    params = layers.stack_layers(trees.unflatten(leaves))
    return HubExpert(spec, params, norms.is_file())


def model_shape(base: Params) -> adapterhub_settings.ModelShape:
    """Returns what of a model decides how its adapters look."""
    leaves = trees.flatten(base)
    depths = (leaves[f"{stack}/layers/mlp/wo/kernel"].shape[0] for stack in _STACKS)
    return adapterhub_settings.ModelShape(
        leaves[huggingface.EMBEDDING].shape[1], *depths
    )


def _open_first(
    folder: pathlib.Path, names: tuple[str, str]
) -> dict[str, tensors.Tensor] | None:
    safe, torch = (folder / name for name in names)
    if safe.is_file():
        return huggingface_files.open_safetensors(safe)
    return torch_files.open_file(torch) if torch.is_file() else None


def _read(
    weights: Mapping[str, tensors.Tensor],
    expected: Mapping[str, tensors.ShapeOnly],
    *,
    of: str,
) -> dict[str, np.ndarray]:
    """Returns tensors as float32 arrays, if they are the expected ones."""
    if all(name.startswith(_PREFIX) for name in weights):
        weights = {name.removeprefix(_PREFIX): leaf for name, leaf in weights.items()}
    experts.check_same_tensors(weights, expected, of=of)
    tensors.check_floats(weights, "float64")
    arrays = {n: tensors.cast(t.read(), np.float32) for n, t in weights.items()}
    tensors.check_finite(arrays, of=of)
    return arrays


def _their_names(point: str, index: int, name: str) -> dict[tuple[str, str], str]:
    """Returns AdapterHub's names of an adapter's tensors by side and part."""
    names = {}
    for side, hub_side in _SIDES.items():
        for part, end in _PARTS.items():
            plain_name = bottleneck_places.plain_name(point, index, side, part)
            place = bottleneck_places.find(plain_name)
            layer = place.layer if place else ""
            names[side, part] = f"{layer}.adapters.{name}.{hub_side}.{end}"
    return names


def _scaling(names: Mapping[tuple[str, str], str]) -> str:
    return names["up", "bias"].removesuffix("adapter_up.bias") + "scaling"


def _expected(
    settings: adapterhub_settings.Settings, shape: adapterhub_settings.ModelShape
) -> dict[str, tensors.ShapeOnly]:
    expected, outer = {}, shape.emb_dim
    for (point, index), width in settings.widths.items():
        names = _their_names(point, index, settings.name)
        expected[names["down", "kernel"]] = tensors.ShapeOnly((width, outer))
        expected[names["down", "bias"]] = tensors.ShapeOnly((width,))
        expected[names["up", "kernel"]] = tensors.ShapeOnly((outer, width))
        expected[names["up", "bias"]] = tensors.ShapeOnly((outer,))
        if isinstance(settings.scaling, str):
            size = 1 if settings.scaling == "learned" else outer
            expected[_scaling(names)] = tensors.ShapeOnly((size,))
    return expected


def _spec(
    settings: adapterhub_settings.Settings, shape: adapterhub_settings.ModelShape
) -> dict[str, Any]:
    """Returns fields of a Bottleneck, or of a sum where its width needs one."""
    width = max(settings.widths.values())
    unit = math.gcd(width, shape.emb_dim)
    spec = {
        "kind": "bottleneck",
        "reduction_factor": shape.emb_dim // unit,
        "activation": settings.activation,
        "points": tuple(dict.fromkeys(point for point, _ in settings.widths)),
    }
    if width > unit:
        spec |= {"kind": "bottleneck_sum", "count": width // unit}
    return spec


def _import(
    settings: adapterhub_settings.Settings,
    arrays: Mapping[str, np.ndarray],
    shape: adapterhub_settings.ModelShape,
) -> dict[str, np.ndarray]:
    """Returns all adapters by our plain names, filled up with zeros to one width."""
    most, outer, leaves = max(settings.widths.values()), shape.emb_dim, {}
    for point in dict.fromkeys(point for point, _ in settings.widths):
        for index in range(len(shape.layers(point))):
            new = {
                ("down", "kernel"): np.zeros((outer, most), np.float32),
                ("down", "bias"): np.zeros(most, np.float32),
                ("up", "kernel"): np.zeros((most, outer), np.float32),
                ("up", "bias"): np.zeros(outer, np.float32),
            }
            if width := settings.widths.get((point, index)):
                names = _their_names(point, index, settings.name)
                down, bias, up, up_bias = (arrays[names[key]] for key in new)
                factor = np.float32(1.0)
                if isinstance(settings.scaling, str):
                    factor = arrays[_scaling(names)]
                elif settings.scaling != 1.0:
                    factor = np.float32(settings.scaling)
                new["down", "kernel"][:, :width] = down.T
                new["down", "bias"][:width] = bias
                with np.errstate(over="ignore"):  # told below
                    new["up", "kernel"][:width] = up.T * factor
                    new["up", "bias"][:] = up_bias * factor
            for (side, part), array in new.items():
                name = bottleneck_places.plain_name(point, index, side, part)
                leaves[name] = array
    tensors.check_finite(leaves, of="adapters times their scale")
    return leaves


def _check_head(folder: pathlib.Path, head: Callable[[], np.ndarray]) -> None:
    """Raises CheckpointError unless a head in a folder is the base's own."""
    saved_head = _open_first(folder, _HEADS)
    if not saved_head:
        return
    base = head()
    wrong = [
        name
        for name, leaf in saved_head.items()
        if leaf.shape != base.shape
        or not np.array_equal(tensors.cast(leaf.read(), base.dtype), base)
    ]
    if wrong:
        raise errors.CheckpointError(
            found=f"{folder} with another head than the base's: {', '.join(wrong[:5])}",
            expected="adapters on the base's own output layer",
            do="Save the adapter with with_head=False if its head was not trained, or"
            " name the base that it was trained on",
        )


def _norms(base: Params) -> dict[str, tuple[str, tensors.ShapeOnly]]:
    """Returns plain names and shapes of all layer norms by transformers' names."""
    plain = tensors.plain_shapes(trees.flatten(base))
    return {
        huggingface.place(name).name: (name, leaf)
        for name, leaf in plain.items()
        if name.endswith("_norm/scale")
    }


def save(
    folder: str | pathlib.Path,
    spec: Mapping[str, Any],
    params: Params,
    *,
    base: Params,
    name: str,
    base_name: str = "",
    recipe: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes a bottleneck expert as a folder that `load_adapter` reads.

    Its layer norms, if it has any, go into a file of ours beside the adapter's.

    Args:
      folder: A new folder; parents are made.
      spec: Fields of the adapter's specification.
      params: The expert's tensors, layers stacked.
      base: Parameters of the model without adapters; leaves need only a `shape`.
      name: The adapter's; a dot becomes `_`, as torch takes none.
      base_name: Name or folder of the base; "" for none.
      recipe: What it is made of, kept beside it (`recipes`); {} keeps nothing.

    Raises:
      CheckpointError: `adapters` has no such adapters, the expert holds more, a
        number is not finite, the folder is there already, or it cannot be written.
    """
    final = paths.absolute(folder)
    folders.check_is_new(final)
    subject, shape = f"the bottleneck expert for {final}", model_shape(base)
    width = bottleneck_places.width(params, spec["points"], of=subject)
    name = name.replace(".", "_")
    settings = adapterhub_settings.write(
        spec, shape, name=name, width=width, base_name=base_name
    )
    adapter_tensors, norms = {}, {}
    for torch_name, array in torch_bottleneck.to_torch(params, of=subject).items():
        module, separator, rest = torch_name.partition(".elm_adapter.")
        if separator:
            side, part = rest.split(".")
            layer = module.rpartition(".")[0]
            adapter_tensors[f"{layer}.adapters.{name}.{_SIDES[side]}.{part}"] = array
        else:
            norms[torch_name] = array
    # What reads it again must find the same tensors.
    read_settings = adapterhub_settings.read(settings, shape, of=subject)
    experts.check_same_tensors(
        adapter_tensors, _expected(read_settings, shape), of=subject
    )
    with experts.new_folder(final) as partial:
        text = json.dumps(settings, indent=2, sort_keys=True)
        (partial / CONFIG).write_text(text + "\n", "utf-8")
        _write(partial / SAFETENSORS, adapter_tensors)
        if norms:
            _write(partial / NORMS, norms)
        if recipe:
            recipes.write(recipes.inside(partial), recipe)


def check_can_save(spec: Mapping[str, Any], base: Params) -> None:
    """Raises CheckpointError unless `adapters` can compute what adapters do.

    Args:
      spec: Fields of the adapter's specification.
      base: Parameters of the model without adapters; leaves need only a `shape`.
    """
    shape = model_shape(base)
    adapterhub_settings.write(spec, shape, name="any", width=1, base_name="")


def _write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(dict(arrays), path, metadata={"format": "pt"})
