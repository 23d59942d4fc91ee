"""Writes numbers of PEFT 0.21 and mergekit 0.1.5 to `golden.json`.

Run in an environment of its own, with torch, numpy, `peft>=0.21,<0.22` and
`mergekit==0.1.5`:

    python tests/merging/golden/make_golden.py
"""

import json
import pathlib

import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import PerInputValues, TensorGroup
from peft import LoraConfig, get_peft_model
from peft.utils import merge_utils

SHAPE, WEIGHTS, DENSITY = (4, 6), (0.7, 1.2, 0.4), 0.5


def tensors():
    """Three experts and their base, by a formula that needs no generator."""
    places = torch.arange(4 * SHAPE[0] * SHAPE[1], dtype=torch.float64)
    values = torch.sin(places * places + 1.0).reshape(4, *SHAPE)
    return list(values[:3]), values[3]


def of_mergekit():
    experts, base = tensors()
    group = TensorGroup.from_tensors([base, *experts], base_index=0)

    def each(values):
        return PerInputValues(list(zip((1, 2, 3), values, strict=True)))

    weight, density = each(WEIGHTS), each((DENSITY,) * 3)
    plain = {"weight": weight, "normalize": False}
    trimmed = {"weight": weight, "density": density}
    calls = {
        "task_arithmetic": plain,
        "ties": trimmed | {"normalize": True},
        "breadcrumbs": trimmed | {"gamma": each((0.1,) * 3)},
        "breadcrumbs_ties": trimmed | {"gamma": each((0.1,) * 3)},
        "sce": {"select_topk": 0.5},
        "model_stock": {},
    }
    merges = {
        name: registry.get(name)([group], parameters=parameters)[0]
        for name, parameters in calls.items()
    }
    # Its leading axis is one of outputs, each with an arc of its own.
    two = [tensor.reshape(1, -1) for tensor in experts[:2]]
    pair = TensorGroup.from_tensors(two, base_index=0)
    slerp = registry.get("slerp")([pair], parameters={"t": 0.3})[0]
    return merges | {"slerp": slerp.reshape(SHAPE)}


def of_peft():
    experts, base = tensors()
    changes, weights = [expert - base for expert in experts], torch.tensor(WEIGHTS)
    return {
        "task_arithmetic": base + merge_utils.task_arithmetic(changes, weights),
        "magnitude": base + merge_utils.magnitude_prune(changes, weights, DENSITY),
        "ties": base + merge_utils.ties(changes, weights, DENSITY),
        "ties_count": base
        + merge_utils.ties(changes, weights, DENSITY, majority_sign_method="frequency"),
    }


def of_peft_loras():
    """What sums of three LoRAs of rank 2 add to a layer's weight [outputs, inputs]."""
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["linear"])
    holder = torch.nn.ModuleDict({"linear": torch.nn.Linear(6, 5, bias=False)}).double()
    model = get_peft_model(holder, config, adapter_name="0")
    for name in ("1", "2"):
        model.add_adapter(name, config)
    layer = model.base_model.model["linear"].double()
    for number in range(3):
        for half, matrix in enumerate((layer.lora_A, layer.lora_B)):
            weight = matrix[str(number)].weight
            places = torch.arange(weight.numel(), dtype=torch.float64)
            values = torch.sin(places * places + 3 * number + half)
            weight.data = values.reshape(weight.shape)
    names = ["0", "1", "2"]
    changes = {}
    for kind, options in {"cat": {}, "svd": {"svd_rank": 3}}.items():
        model.base_model.add_weighted_adapter(
            names, list(WEIGHTS), kind, combination_type=kind, **options
        )
        changes[kind] = layer.get_delta_weight(kind).detach()
    return changes


if __name__ == "__main__":
    parts = {
        "mergekit": of_mergekit(),
        "peft": of_peft(),
        "peft_loras": of_peft_loras(),
    }
    numbers = {
        tool: {
            name: np.asarray(tensor.double()).round(6).tolist()
            for name, tensor in tensors_of_tool.items()
        }
        for tool, tensors_of_tool in parts.items()
    }
    path = pathlib.Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(numbers) + "\n", encoding="utf-8")
