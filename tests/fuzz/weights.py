"""Formats of weights: Orbax folders, safetensors, settings of HF and PEFT."""

import functools
import json
import math
import pathlib
import shutil
from typing import Any

import ml_dtypes
import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import experts, huggingface, streaming, tensors
from elm_jax.runs import (
    bases,
    convert,
    convert_bottlenecks,
    convert_experts,
    loaded,
)
from tests.checkpoints import (
    huggingface_sample,
    in_memory,
    make_adapterhub_golden,
    peft_sample,
)
from tests.fuzz.contract import Format, Valid, guarded
from tests.fuzz.records import make_expert

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def _make_orbax(folder: pathlib.Path, variant: int) -> None:
    make_expert(folder / "expert", variant)


def _loaded(folder: pathlib.Path) -> Any:
    return trees.flatten(experts.load_expert(folder / "expert")[0])


def _streamed(folder: pathlib.Path) -> Any:
    leaves, _ = streaming.open_expert(folder / "expert")
    return {name: tensors.read(leaf) for name, leaf in leaves.items()}


_ORBAX = {
    "expert/params/**/*": ("bytes",),
    "expert/params/*": ("bytes", "json"),
    "expert/params/ocdbt.process_0/d/*": ("bytes",),
    "expert/manifest.json": ("json",),
}


def _make_model(folder: pathlib.Path, variant: int) -> None:
    hub_tensors = huggingface_sample.to_theirs(
        huggingface_sample.make_params(seed=variant)
    )
    huggingface_sample.write_folder(folder / "model", hub_tensors)


def read_model(folder: pathlib.Path) -> Any:
    shutil.rmtree(folder / "out", ignore_errors=True)
    convert.ImportHuggingFace(
        model_dir=str(folder / "out"),
        base_name="base",
        huggingface_path=str(folder / "model"),
        dtype="float32",
        storage_dtype="float32",
    ).run()
    base = loaded.Base.load(folder / "out/base")
    info = bases.read_manifest(folder / "out/base")
    return (trees.flatten(base.params), info.model)


def _plain(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file, read by its published layout."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tensors_of_file = {}
    for name, facts in header.items():
        if name != "__metadata__":
            start, stop = facts["data_offsets"]
            part = data[8 + size :][start:stop]
            array = np.frombuffer(part, _DTYPES[facts["dtype"]])
            tensors_of_file[name] = array.reshape(facts["shape"]).astype(np.float32)
    return tensors_of_file


_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "emb_dim",
    "num_heads": "num_heads",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_layers": "num_encoder_layers",
    "num_decoder_layers": "num_decoder_layers",
    "relative_attention_max_distance": "relpos_max_distance",
}


def _judge_model(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    del valid
    params, model = value
    hub_tensors = _plain(folder / "model/model.safetensors")
    for name, array in tensors.unstack(in_memory.leaves_of(trees.unflatten(params))):
        place = huggingface.place(name)
        tensor = hub_tensors[place.name]
        right = tensor.T if place.is_transposed else tensor
        if not np.array_equal(array, right) or not np.isfinite(array).all():
            return f"{name} differs from the file, or is not finite"
    settings = json.loads((folder / "model/config.json").read_text("utf-8"))
    for name, ours in _SIZES.items():
        # A number that the file lacks is the library's own default.
        if name in settings and name != "vocab_size":
            size_in_file = settings[name]
            if type(size_in_file) is not int or size_in_file != model[ours]:
                return f"{name} is {size_in_file!r} in the file, {ours} {model[ours]!r}"
    return ""


def _make_expert(
    cases: tuple[pathlib.Path, pathlib.Path], folder: pathlib.Path, variant: int
) -> None:
    """Writes a golden expert and the base that it is of."""
    shutil.copytree(cases[variant], folder / "adapter")
    (folder / "adapter/logits.npy").unlink()
    shapes = peft_sample.shapes()
    hub_tensors = peft_sample.hub_tensors(shapes)
    huggingface_sample.write_folder(folder / "model", hub_tensors, peft_sample.CONFIG)
    read_model(folder)


_make_peft = functools.partial(
    _make_expert, (peft_sample.FOLDER / "lora", peft_sample.FOLDER / "lora_layers")
)


def _read_peft(folder: pathlib.Path) -> Any:
    shutil.rmtree(folder / "experts", ignore_errors=True)
    convert_experts.ImportPeft(
        model_dir=str(folder),
        source_paths=str(folder / "adapter"),
        initial_checkpoint_path=str(folder / "out/base"),
        experts_dir=str(folder / "experts"),
        expert_name="imported",
    ).run()
    params, info = experts.load_expert(folder / "experts/imported")
    return (trees.flatten(params), info.adapter)


_make_hub = functools.partial(
    _make_expert,
    (
        make_adapterhub_golden.FOLDER / "houlsby",
        make_adapterhub_golden.FOLDER / "learned",
    ),
)


def _read_hub(folder: pathlib.Path) -> Any:
    shutil.rmtree(folder / "experts", ignore_errors=True)
    convert_bottlenecks.ImportAdapterHub(
        model_dir=str(folder),
        source_paths=str(folder / "adapter"),
        initial_checkpoint_path=str(folder / "out/base"),
        experts_dir=str(folder / "experts"),
        expert_name="imported",
    ).run()
    params, info = experts.load_expert(folder / "experts/imported")
    return (trees.flatten(params), info.adapter)


def _judge_hub(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Compares activation and sums of both projections with the files' own."""
    del valid
    params, spec = value
    hub_tensors = _plain(folder / "adapter/adapter.safetensors")
    settings = json.loads((folder / "adapter/adapter_config.json").read_text("utf-8"))
    config, former = settings["config"], {"gelu": "gelu_new"}
    named = config["non_linearity"].lower()
    named = named if "version" in settings else former.get(named, named)
    if {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}.get(named, named) != (
        spec["activation"]
    ):
        return f"computes {spec['activation']} instead of {named}"
    scale = config.get("scaling", 1.0)
    sums = dict.fromkeys(("down/kernel", "down/bias", "up/kernel", "up/bias"), 0.0)
    read_sums = dict(sums)
    for name, array in hub_tensors.items():
        if name.endswith(".scaling"):
            continue
        start, _, end = name.rpartition("adapter_")
        side = end.partition(".")[0]
        part = "bias" if end.endswith("bias") else "kernel"
        factor = hub_tensors[f"{start}scaling"] if scale == "learned" else scale
        factor = factor if side == "up" else 1.0
        total = np.abs(array.astype(np.float64) * factor).sum()
        sums[f"{side}/{part}"] += float(total)
    for name, array in params.items():
        _, part = name.rsplit("_adapter/")
        read_sums[part] += float(np.abs(array.astype(np.float64)).sum())
    is_same = all(math.isclose(sums[n], read_sums[n], rel_tol=1e-5) for n in sums)
    return "" if is_same else f"sums are {read_sums} instead of {sums}"


def _judge_peft(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Compares the change of each projection with the file's own product."""
    del valid
    params, spec = value
    hub_tensors = _plain(folder / "adapter/adapter_model.safetensors")
    settings = json.loads((folder / "adapter/adapter_config.json").read_text("utf-8"))
    if not all(np.isfinite(array).all() for array in params.values()):
        return "numbers that are not finite"
    patterns = settings.get("rank_pattern") or settings.get("alpha_pattern")
    if spec["kind"] != "lora" or patterns:
        return ""
    rank, alpha = settings["r"], settings.get("lora_alpha", 8)
    stable = settings.get("use_rslora") is True
    factor = alpha / (math.sqrt(rank) if stable else rank)
    ours = spec["alpha"] / (
        math.sqrt(spec["rank"]) if spec["rank_stabilized"] else spec["rank"]
    )
    changed = 0.0
    for name, array in hub_tensors.items():
        if name.endswith("lora_B.weight"):
            change_made = array @ hub_tensors[name.replace("lora_B", "lora_A")]
            changed += float(np.abs(change_made.astype(np.float64)).sum()) * factor
    read_change = 0.0
    for name, array in params.items():
        if name.endswith("lora_b"):
            change_made = (
                params[name.removesuffix("b") + "a"].astype(np.float64) @ array
            )
            read_change += float(np.abs(change_made).sum()) * ours
    is_same = math.isclose(changed, read_change, rel_tol=1e-4)
    return "" if is_same else f"changes by {read_change} instead of {changed}"


FORMATS = {
    "orbax": Format(_make_orbax, _loaded, guarded, _ORBAX),
    "orbax_streamed": Format(_make_orbax, _streamed, guarded, _ORBAX),
    "safetensors": Format(
        _make_model,
        read_model,
        _judge_model,
        {"model/model.safetensors": ("safetensors", "safetensors", "bytes")},
    ),
    "hf_config": Format(
        _make_model, read_model, _judge_model, {"model/config.json": ("json",)}
    ),
    "peft": Format(
        _make_peft,
        _read_peft,
        _judge_peft,
        {"adapter/adapter_model.safetensors": ("safetensors", "bytes")},
    ),
    "adapterhub": Format(
        _make_hub,
        _read_hub,
        _judge_hub,
        {"adapter/adapter.safetensors": ("safetensors", "bytes")},
    ),
    "adapterhub_config": Format(
        _make_hub, _read_hub, _judge_hub, {"adapter/adapter_config.json": ("json",)}
    ),
    "peft_config": Format(
        _make_peft, _read_peft, _judge_peft, {"adapter/adapter_config.json": ("json",)}
    ),
}
