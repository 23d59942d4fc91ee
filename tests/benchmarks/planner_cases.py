"""The configurations for which the planner is held against compilers.

All are T5 1.1 as this project trains and evaluates it, in bfloat16: what fits on an
accelerator, what does not, and what recomputation, rules and lanes change.
"""

import dataclasses
import json
import pathlib

from elm_jax.model import config, cost, decoding_spec
from elm_jax.peft import bottleneck, expert_parts, lora
from elm_jax.runs.compiling import programs
from elm_jax.runs.placement import Devices
from elm_jax.training import optimizers

XL = config.T5Config(
    vocab_size=32128,
    emb_dim=2048,
    num_heads=32,
    head_dim=64,
    mlp_dim=5120,
    num_encoder_layers=24,
    num_decoder_layers=24,
    dtype="bfloat16",
)
XXL = dataclasses.replace(XL, emb_dim=4096, num_heads=64, mlp_dim=10240)
LARGE = dataclasses.replace(XL, emb_dim=1024, num_heads=16, mlp_dim=2816)
MODELS = {"XL": XL, "XXL": XXL, "large": LARGE}
CASES = pathlib.Path(__file__).with_name("planner_cases.jsonl")
"""The arguments of `case`, a line for each."""
_DROPOUT = 0.1
_PROMPT = {
    "adapter": bottleneck.Bottleneck(reduction_factor=32),
    "trainable_pattern": expert_parts.PROMPT_EXPERT,
    "optimizer": optimizers.AdamW(),
}
# What each word for a program stands for: fields of `programs.Program`.
_TRAINED = {
    "prompt": {"kind": "step", **_PROMPT},
    "fleet": {"kind": "fleet step", **_PROMPT},
    "lora": {
        "kind": "step",
        **_PROMPT,
        "adapter": lora.Lora(rank=16),
        "trainable_pattern": expert_parts.PARTS["adapters"],
    },
    "dataset": {
        "kind": "step",
        "trainable_pattern": expert_parts.DATASET_EXPERT,
        "optimizer": optimizers.Adafactor(),
    },
}
_SCORED = {
    "ranking": {"kind": "ranking", "num_choices": 4},
    "greedy": {"kind": "decoding"},
    "beam": {"kind": "decoding", "decoding": decoding_spec.BeamSearch(num_beams=4)},
}


def case(
    target,
    what,
    *,
    model="XL",
    batch=8,
    lengths=(256, 128),
    remat="none",
    devices=(1, 1, 1),
    rules="data",
    slots=1,
    lanes=1,
    parts=1,
    train_steps=1000,
    **changes,
):
    """Returns `(name, target, program)`.

    Args:
      target: Name of the accelerator.
      what: Name in _TRAINED or _SCORED.
      model: Name in MODELS.
      batch: Rows over all devices; of each expert of a fleet.
      lengths: Tokens of inputs and targets.
      remat: As in T5Config.
      devices: Shares (data, fsdp, model).
      rules: Name of the axis rules.
      slots: Experts of a fleet.
      lanes: Of them at a time on a device.
      parts: Of a batch, computed one after another.
      train_steps: Of the whole training, which no byte depends on.
      **changes: Of the model.
    """
    inputs, targets = lengths
    num_data, num_fsdp, num_model = devices
    dropout = {"dropout_rate": _DROPOUT} if what in _TRAINED else {}
    steps = {"train_steps": train_steps} if what in _TRAINED else {}
    fleet = {"num_slots": slots, "num_lanes": lanes} if what == "fleet" else {}
    program = programs.Program(
        model=dataclasses.replace(MODELS[model], remat=remat, **(dropout | changes)),
        batch=cost.BatchShape(
            batch_size=batch, inputs_length=inputs, targets_length=targets
        ),
        devices=Devices(
            num_data=num_data, num_fsdp=num_fsdp, num_model=num_model, axis_rules=rules
        ),
        num_parts=parts,
        **fleet,
        **steps,
        **(_TRAINED | _SCORED)[what],
    )
    words = [target, model, what, f"batch {batch}", f"{inputs}/{targets}", remat]
    if devices != (1, 1, 1):
        words.append("x".join(map(str, devices)) + f" {rules}")
    if what == "fleet":
        words.append(f"{slots} slots, {lanes} lanes")
    if parts > 1:
        words.append(f"{parts} parts")
    words += [f"{name} {value}" for name, value in changes.items()]
    return ", ".join(words), target, program


def cases():
    """Returns all of them, first those that tell most."""
    lines = CASES.read_text("utf-8").splitlines()
    return [case(**json.loads(line)) for line in lines]
