"""What an adapter_config.json of PEFT says for each projection of a T5.

Every option is honoured or refused; none is ignored but those that shape a training's
start and bookkeeping.

Reference:
  huggingface/peft 0.21: LoraConfig, IA3Config, check_target_module_exists.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from elm_jax import errors, fields, trees
from elm_jax.checkpoints import huggingface, tensors
from elm_jax.disk import json_files
from elm_jax.types import LAYERS, Params

_SUB_LAYERS = {
    "attention": "self_attention",
    "self_attention": "self_attention",
    "encoder_decoder_attention": "cross_attention",
    "mlp": "mlp",
}
_KERNEL = re.compile(rf"(encoder|decoder)/{LAYERS}_\d+/(\w+)/(\w+)/kernel")

_TARGETS = ("target_modules", "exclude_modules")
_HONOURED = {
    "LORA": (
        *(*_TARGETS, "layers_to_transform", "layers_pattern", "r", "lora_alpha"),
        *("use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout"),
    ),
    "IA3": (*_TARGETS, "feedforward_modules"),
}
# They say how a training starts, or where things are; the file's tensors are the same.
_WITHOUT_EFFECT = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type"),
    *("peft_version", "revision", "task_type", "init_ia3_weights", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("megatron_core", "qalora_group_size"),
)
# Other values of init_lora_weights change the base too.
_INIT_LORA = (None, True, False, "gaussian", "eva", "orthogonal")


_Names = str | tuple[str, ...] | None
_TYPES: Mapping[str, Any] = {
    "target_modules": _Names,
    "exclude_modules": _Names,
    "feedforward_modules": _Names,
    "layers_pattern": _Names,
    "layers_to_transform": int | tuple[int, ...] | None,
}


class Module(NamedTuple):
    """A projection of the model.

    Attributes:
      point: The insertion point, such as `encoder/mlp/wo`.
      path: Our plain name without `/kernel`, such as `encoder/layers_0/mlp/wo`.
      shape: Inputs and outputs.
    """

    point: str
    path: str
    shape: tuple[int, int]


def modules(base: Params) -> dict[str, Module]:
    """Returns the projections of a model by their names in Hugging Face's T5.

    Args:
      base: Parameters of a model without adapters; leaves need only a `shape`.
    """
    projections = {}
    for name, leaf in tensors.plain_shapes(trees.flatten(base)).items():
        if match := _KERNEL.fullmatch(name):
            stack, sub_layer, part = match.groups()
            hf_name = huggingface.place(name).name.removesuffix(".weight")
            point = f"{stack}/{_SUB_LAYERS[sub_layer]}/{part}"
            inputs, outputs = leaf.shape
            path = name.removesuffix("/kernel")
            projections[hf_name] = Module(point, path, (inputs, outputs))
    return projections


def check(settings: Mapping[str, Any], *, of: str) -> str:
    """Returns the kind, "LORA" or "IA3", of settings that we honour.

    Args:
      settings: The content of adapter_config.json.
      of: What they are of, for the message.

    Raises:
      CheckpointError: Another kind of adapter, or options with an effect that we do
        not have; all are named.
    """
    kind = settings.get("peft_type")
    if kind not in tuple(_HONOURED):
        raise _refused(f"{of} of peft_type {json_files.shown(kind)}", "LORA or IA3")
    allowed = (*_HONOURED[kind], *_WITHOUT_EFFECT, "init_lora_weights")
    # An option that is off is None, False, empty or, for biases, "none".
    wrong = {
        name: value
        for name, value in settings.items()
        if name not in allowed and value not in (None, False, [], {}, "none")
    }
    init = settings.get("init_lora_weights")
    if init not in _INIT_LORA:
        wrong["init_lora_weights"] = init
    wrong |= {
        name: settings.get(name)
        for name, hint in _TYPES.items()
        if not json_files.fits(settings.get(name), hint)
    }
    if not settings.get("target_modules"):
        wrong["target_modules"] = settings.get("target_modules")
    wrong |= _wrong_numbers(settings) if kind == "LORA" else {}
    wrong |= _contradictions(settings)
    if wrong:
        text = ", ".join(
            f"{json_files.shown(name)[1:-1]} = {json_files.shown(value)}"
            for name, value in wrong.items()
        )
        raise _refused(
            f"{of} with {text}",
            "targets, and of what changes the result only "
            + ", ".join(_HONOURED[kind])
            + ", with values that PEFT writes",
        )
    return kind


def _wrong_numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of LoRA with values that PEFT would never write."""
    ranks, alphas = (
        settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")
    )
    is_right = {
        "r": json_files.fits(settings.get("r"), fields.Count),
        # At 0 the adapter does nothing, and nobody trains that.
        "lora_alpha": json_files.fits(settings.get("lora_alpha", 8), fields.Scale),
        "lora_dropout": json_files.fits(
            settings.get("lora_dropout", 0.0), fields.ShareBelowOne
        ),
        # Text such as "false" would count as true.
        "use_rslora": isinstance(settings.get("use_rslora", False), bool | None),
        "rank_pattern": json_files.fits(ranks, dict[str, fields.Count]),
        "alpha_pattern": json_files.fits(alphas, dict[str, fields.Scale]),
    }
    return {name: settings.get(name) for name, right in is_right.items() if not right}


def _contradictions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that PEFT refuses beside the others."""
    layers = settings.get("layers_to_transform") not in (None, [])
    patterns = settings.get("layers_pattern") not in (None, [], "")
    is_pattern = isinstance(settings.get("target_modules"), str)
    wrong = []
    if layers and is_pattern:
        wrong.append("layers_to_transform")
    if patterns and (is_pattern or not layers):
        wrong.append("layers_pattern")
    return {name: settings[name] for name in wrong}


def points_pattern(chosen: Iterable[str], every: Iterable[str]) -> str:
    """Returns a pattern that matches the chosen insertion points and no others.

    >>> points_pattern(["a/query", "b/query"], ["a/query", "b/query", "b/out"])
    '/(query)$'
    """
    chosen, every = list(dict.fromkeys(chosen)), list(dict.fromkeys(every))
    parts = list(dict.fromkeys(point.rpartition("/")[2] for point in chosen))
    matching = [point for point in every if point.rpartition("/")[2] in parts]
    if sorted(matching) == sorted(chosen):
        return f"/({'|'.join(parts)})$"
    return f"^({'|'.join(chosen)})$"


def target_modules(points: Iterable[str], projections: Mapping[str, Module]) -> Any:
    """Returns PEFT's `target_modules` for insertion points: names, or a pattern.

    Args:
      points: Those with an adapter.
      projections: All of the model's, from `modules`.
    """
    point_names = set(points)
    chosen = [
        name for name, module in projections.items() if module.point in point_names
    ]
    ends = sorted({name.rpartition(".")[2] for name in chosen})
    if {n for n in projections if n.rpartition(".")[2] in ends} == set(chosen):
        return ends
    # One pattern per place, for all layers.
    places = {re.sub(r"block\\?\.\d+", "block.#", name) for name in chosen}
    escaped = (re.escape(place).replace(r"\#", r"\d+") for place in sorted(places))
    return "|".join(escaped)


def _refused(problem: str, expected: str) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=problem,
        expected=expected,
        do="In PEFT, merge the adapter into the base (merge_and_unload), save"
        " the model, and import that with gin/t5/import_hf.gin",
    )
