"""Writes golden.json: what PEFT's Arrow adds to rows, and how it weighs experts.

Usage: python make_golden.py, with peft 0.21.2 and torch 2.13.0 installed.

Inputs and matrices are sines of whole numbers, which the test makes likewise. PEFT
finds directions by 15 power iterations: so the first singular value of each product
stands well apart, and its vector is right to 1e-7.
"""

import json
import pathlib

import torch
from peft import ArrowConfig
from peft.tuners.lora.arrow import ArrowLoraLinearLayer

EXPERTS, TOKENS, INPUTS, RANK, OUTPUTS = 5, 7, 8, 3, 6
SCALE = 2.0


def sines(shape, start):
    places = torch.arange(float(torch.Size(shape).numel()), dtype=torch.float64)
    return torch.sin(places * places + start).reshape(shape).float()


def linear(matrix):
    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight.data = matrix
    return layer


def main():
    names = [f"task_{number}" for number in range(EXPERTS)]
    apart = torch.tensor([1.0, 0.2, 0.05])
    lora_a = {
        name: linear(sines((RANK, INPUTS), 3.0 * n) * apart[:, None])
        for n, name in enumerate(names)
    }
    lora_b = {
        name: linear(sines((OUTPUTS, RANK), 3.0 * n + 1))
        for n, name in enumerate(names)
    }
    x = sines((1, TOKENS, INPUTS), 0.5)
    golden = {}
    for top_k, temperature in ((1, 1.0), (3, 1.0), (5, 0.5)):
        config = ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=0)
        config.task_adapter_names = names
        layer = ArrowLoraLinearLayer(INPUTS, config)
        layer.build_prototypes(lora_a, lora_b)
        scaling = dict.fromkeys(names, SCALE)
        added = layer(x, lora_a, lora_b, torch.nn.Identity(), scaling)
        golden[f"top {top_k}, temperature {temperature}"] = added[0].tolist()
    golden["prototypes"] = layer.prototypes.tolist()
    path = pathlib.Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
