"""Reads and writes adapters of PEFT: adapter_config.json beside adapter_model.

A LoRA whose rank or scale differs between modules comes in with the largest rank, its
matrices filled up with zeros and its factors moved into `lora_b`: the same function.
"""

import json
import math
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import (
    experts,
    huggingface_files,
    layers,
    peft_patterns,
    peft_settings,
    recipes,
    tensors,
    torch_files,
)
from elm_jax.checkpoints.peft_settings import Module
from elm_jax.disk import folders
from elm_jax.types import Params

CONFIG = "adapter_config.json"
SAFETENSORS = "adapter_model.safetensors"
TORCH = "adapter_model.bin"
_PREFIX = "base_model.model."


class PeftExpert(NamedTuple):
    """An adapter by our names.

    Attributes:
      spec: Fields of the adapter's specification, `kind` among them.
      params: Float32 arrays, layers stacked.
    """

    spec: dict[str, Any]
    params: dict[str, Any]


def load_peft(folder: str | pathlib.Path, base: Params) -> PeftExpert:
    """Returns the LoRA or (IA)3 of a folder that PEFT wrote for a T5.

    Args:
      folder: With adapter_config.json and adapter_model.safetensors, or `.bin`.
      base: Parameters of the model without adapters; leaves need only a `shape`.

    Raises:
      CheckpointError: A file is missing or torn, the settings have an option that
        would change the result and that we have not, or tensors are missing, extra or
        misshapen; all are named.
      MissingExtraError: There is a `.bin` file only, and torch is not installed.
    """
    path = paths.absolute(folder)
    settings = huggingface_files.read_json(path / CONFIG)
    kind = peft_settings.check(settings, of=f"{path / CONFIG}")
    weights = _open_tensors(path)
    every = peft_settings.modules(base)
    target_modules = settings["target_modules"]
    settings = peft_patterns.without_patterns(settings, every, of=f"{path / CONFIG}")
    try:
        chosen = {
            n: m for n, m in every.items() if peft_patterns.is_target(settings, n)
        }
        shapes = _lora_shapes if kind == "LORA" else _ia3_shapes
        expected = shapes(settings, chosen)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.CheckpointError(
            found=f"{path / CONFIG} with settings that cannot be read: {error!r}",
            expected="what PEFT's save_pretrained wrote",
            do="Copy the file again",
        ) from error
    if not chosen:
        raise errors.CheckpointError(
            found=f"target_modules = {target_modules!r} in {path / CONFIG}",
            expected=f"projections of this T5, such as {next(iter(every))}",
            do="Name the base that the adapter was trained on",
        )
    experts.check_same_tensors(weights, expected, of=str(path))
    tensors.check_floats(weights, "float64")
    arrays = {n: tensors.cast(t.read(), np.float32) for n, t in weights.items()}
    tensors.check_finite(arrays, of=str(path))
    make = _import_lora if kind == "LORA" else _import_ia3
    return make(settings, arrays, chosen, every)


def _open_tensors(folder: pathlib.Path) -> dict[str, tensors.Tensor]:
    if (folder / SAFETENSORS).is_file():
        return huggingface_files.open_safetensors(folder / SAFETENSORS)
    if (folder / TORCH).is_file():
        return torch_files.open_file(folder / TORCH)
    raise errors.CheckpointError(
        found=f"{folder} with neither {SAFETENSORS} nor {TORCH}",
        expected="a folder that PEFT's save_pretrained wrote",
        do="Correct the path, or copy the whole folder",
    )


def _lora_names(module: str) -> tuple[str, str]:
    start = f"{_PREFIX}{module}.lora_"
    return f"{start}A.weight", f"{start}B.weight"


def _lora_shapes(
    settings: Mapping[str, Any], chosen: Mapping[str, Module]
) -> dict[str, tensors.ShapeOnly]:
    shapes = {}
    for name, module in chosen.items():
        rank = peft_patterns.rank(settings, name)
        inputs, outputs = module.shape
        for side, shape in zip(
            _lora_names(name), ((rank, inputs), (outputs, rank)), strict=True
        ):
            shapes[side] = tensors.ShapeOnly(shape)
    return shapes


def _import_lora(
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    chosen: Mapping[str, Module],
    every: Mapping[str, Module],
) -> PeftExpert:
    rank = max(peft_patterns.rank(settings, name) for name in chosen)
    is_stable = bool(settings.get("use_rslora"))
    alpha = float(settings.get("lora_alpha", 8))
    common = alpha / (math.sqrt(rank) if is_stable else rank)
    points = {module.point for module in chosen.values()}
    leaves = {}
    for name, module in every.items():
        if module.point not in points:
            continue
        inputs, outputs = module.shape
        lora_a = np.zeros((inputs, rank), np.float32)
        lora_b = np.zeros((rank, outputs), np.float32)
        if name in chosen:
            side_a, side_b = _lora_names(name)
            module_rank = peft_patterns.rank(settings, name)
            lora_a[:, :module_rank] = arrays[side_a].T
            factor = np.float32(peft_patterns.scale(settings, name) / common)
            lora_b[:module_rank] = arrays[side_b].T * factor
        leaves[f"{module.path}_adapter/lora_a"] = lora_a
        leaves[f"{module.path}_adapter/lora_b"] = lora_b
    spec = {
        "kind": "lora",
        "rank": rank,
        "alpha": alpha,
        "rank_stabilized": is_stable,
        "dropout": float(settings.get("lora_dropout", 0.0)),
        "targets": _targets(chosen, every),
    }
    return PeftExpert(spec, layers.stack_layers(trees.unflatten(leaves)))


def _targets(chosen: Mapping[str, Module], every: Mapping[str, Module]) -> str:
    return peft_settings.points_pattern(
        (module.point for module in chosen.values()),
        (module.point for module in every.values()),
    )


def _ia3_name(module: str) -> str:
    return f"{_PREFIX}{module}.ia3_l"


def _hidden(module: Module) -> Module:
    """Returns the place of factors on the inputs of a feed-forward block's `wo`."""
    point, path = (name.removesuffix("wo") + "hidden" for name in module[:2])
    return module._replace(point=point, path=path)


def _ia3_shapes(
    settings: Mapping[str, Any], chosen: Mapping[str, Module]
) -> dict[str, tensors.ShapeOnly]:
    shapes, wrong = {}, []
    for name, module in chosen.items():
        inputs, outputs = module.shape
        if not peft_patterns.is_feed_forward(settings, name):
            shapes[_ia3_name(name)] = tensors.ShapeOnly((outputs, 1))
        elif module.point.endswith("/wo"):
            shapes[_ia3_name(name)] = tensors.ShapeOnly((1, inputs))
        else:
            wrong.append(name)
    if wrong:
        raise errors.CheckpointError(
            found=f"(IA)3 on the inputs of {', '.join(wrong)}",
            expected="inputs of `wo`, and outputs of any projection",
            do="Merge the adapter into the base in PEFT (merge_and_unload), and"
            " import that",
        )
    return shapes


def _import_ia3(
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    chosen: Mapping[str, Module],
    every: Mapping[str, Module],
) -> PeftExpert:
    places, factors = dict(every), {}
    for name, module in every.items():
        if module.point.endswith("/wo"):
            places[f"{name} inputs"] = _hidden(module)
    for name in chosen:
        is_inside = peft_patterns.is_feed_forward(settings, name)
        place = f"{name} inputs" if is_inside else name
        factors[place] = arrays[_ia3_name(name)].ravel()
    used = {name: places[name] for name in factors}
    points = {module.point for module in used.values()}
    leaves = {}
    for name, module in places.items():
        if module.point in points:
            width = module.shape[0 if name.endswith(" inputs") else 1]
            unit_scale = np.ones(width, np.float32)
            leaves[f"{module.path}_adapter/ia3_scale"] = factors.get(name, unit_scale)
    spec = {"kind": "ia3", "targets": _targets(used, places)}
    return PeftExpert(spec, layers.stack_layers(trees.unflatten(leaves)))


def save_lora(
    folder: str | pathlib.Path,
    spec: Mapping[str, Any],
    params: Params,
    *,
    base: Params,
    base_name: str | None = None,
    recipe: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes a LoRA expert as a folder that `peft.PeftModel.from_pretrained` loads.

    Args:
      folder: A new folder; parents are made.
      spec: Fields of the adapter's specification.
      params: The expert's tensors, layers stacked.
      base: Parameters of the model without adapters; leaves need only a `shape`.
      base_name: Name or folder of the base for PEFT's users.
      recipe: What it is made of, kept beside it (`recipes`); {} keeps nothing.

    Raises:
      CheckpointError: The expert holds more than LoRA, a tensor does not fit, the
        folder is there already, or it cannot be written.
    """
    final = paths.absolute(folder)
    folders.check_is_new(final)
    every = peft_settings.modules(base)
    plain = trees.flatten(layers.unstack_layers(params))
    not_lora = [name for name in trees.flatten(params) if "/lora_" not in name]
    if not_lora:
        raise errors.CheckpointError(
            found=f"an expert that also holds {', '.join(not_lora)}",
            expected="LoRA and nothing else, which is what PEFT has a place for",
            do="Train with expert_parts = 'adapters', or fold the expert into its"
            " base (gin/t5/fold.gin) and export that to Hugging Face",
        )
    points, expected, plain_names = set(), {}, {}
    for name, module in every.items():
        names = [f"{module.path}_adapter/lora_{side}" for side in "ab"]
        if not any(name in plain for name in names):
            continue
        points.add(module.point)
        inputs, outputs = module.shape
        shapes = ((inputs, spec["rank"]), (spec["rank"], outputs))
        expected |= {
            n: tensors.ShapeOnly(s) for n, s in zip(names, shapes, strict=True)
        }
        for side, our_name in zip(_lora_names(name), names, strict=True):
            plain_names[side] = our_name
    experts.check_same_tensors(plain, expected, of=f"the LoRA expert for {final}")
    settings = {
        "peft_type": "LORA",
        # No task type: PEFT's class for sequence-to-sequence models asks transformers 5
        # for a method that it no longer has.
        "task_type": None,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "r": spec["rank"],
        "lora_alpha": _as_int(spec["alpha"]),
        "lora_dropout": spec["dropout"],
        "use_rslora": spec["rank_stabilized"],
        "target_modules": peft_settings.target_modules(points, every),
        "modules_to_save": None,
    }
    arrays = {
        peft_name: np.ascontiguousarray(np.asarray(plain[plain_name], np.float32).T)
        for peft_name, plain_name in plain_names.items()
    }
    tensors.check_finite(arrays, of=f"the LoRA expert for {final}")
    with experts.new_folder(final) as partial:
        (partial / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        safetensors.numpy.save_file(
            arrays, partial / SAFETENSORS, metadata={"format": "pt"}
        )
        if recipe:
            recipes.write(recipes.inside(partial), recipe)


def _as_int(number: float) -> int | float:
    """Returns a whole number as int, which is what PEFT writes."""
    return int(number) if float(number).is_integer() else number
