"""Cells and result rows made by hand, with a value for every field that has none."""

import dataclasses

from elm_jax.evaluation import results


def cell(**changes):
    fields = {
        "expert": "dream_x",
        "base_fingerprint": "0123",
        "task": "quail_y",
        "dataset": "quail",
        "prompt": "y",
        "split": "validation",
        "protocol": "elm",
        "seed": 0,
        "checkpoint_step": 100,
    }
    return results.Cell(**(fields | changes))


def row(value=50.0, **changes):
    fields = dataclasses.asdict(cell())
    fields |= {"run_id": "r", "metric": "accuracy", "value": value, "num_examples": 4}
    return results.ResultRow(**(fields | changes))


PROMPT = results.ResultRow(
    expert="reviews",
    base_fingerprint="base",
    expert_fingerprint="aaaaaaaaaaaaaaaa",
    task="senses_same",
    dataset="senses",
    prompt="same",
    split="test",
    protocol="default",
    seed=42,
    checkpoint_step=100,
    run_id="r",
    metric="accuracy",
    value=60.0,
    num_examples=10,
    kind="prompt",
    source="prompt_experts/reviews",
    training_seed=1,
    vocabulary="v",
)


def changed(row=PROMPT, **changes):
    return dataclasses.replace(row, **changes)
