"""Arrow against PEFT's; `golden/make_golden.py` makes its numbers."""

import json
import pathlib

import numpy as np
import pytest

from elm_jax.peft import lora
from elm_jax.routing import directions, token_routers

_PATH = pathlib.Path(__file__).with_name("golden") / "golden.json"
GOLDEN = json.loads(_PATH.read_text("utf-8"))
EXPERTS, TOKENS, INPUTS, RANK, OUTPUTS = 5, 7, 8, 3, 6
CASES = {
    "top 1, temperature 1.0": token_routers.Arrow(top_k=1),
    "top 3, temperature 1.0": token_routers.Arrow(),
    "top 5, temperature 0.5": token_routers.Arrow(top_k=-1, temperature=0.5),
}


def sines(shape, start):
    places = np.arange(float(np.prod(shape)))
    return np.sin(places * places + start).reshape(shape).astype(np.float32)


@pytest.fixture(scope="module")
def stacked():
    """LoRAs as ours are, [experts, inputs, outputs], and their directions."""
    apart = np.array([1.0, 0.2, 0.05], np.float32)
    numbers = 3.0 * np.arange(EXPERTS)
    a = np.stack([(sines((RANK, INPUTS), n) * apart[:, None]).T for n in numbers])
    b = np.stack([sines((OUTPUTS, RANK), n + 1).T for n in numbers])
    parts = {"x_adapter": {"lora_a": a, "lora_b": b}}
    return parts["x_adapter"], directions.arrow_directions(parts)["x_adapter"]


def test_directions_are_those_of_peft(stacked):
    cosines = np.sum(stacked[1] * np.array(GOLDEN["prototypes"]), axis=-1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-6)


@pytest.mark.parametrize("case", [*CASES])
def test_arrow_adds_to_rows_what_peft_adds(stacked, case):
    params, arrows = stacked
    x = sines((1, TOKENS, INPUTS), 0.5)
    weights = CASES[case].weigh({"direction": arrows}, x, None, EXPERTS)
    spec = lora.Lora(rank=RANK, alpha=2.0 * RANK)
    outputs = np.zeros((1, TOKENS, OUTPUTS), np.float32)
    mixed_outputs = spec.mix(None, params, x, outputs, weights)
    np.testing.assert_allclose(mixed_outputs[0], GOLDEN[case], rtol=1e-5, atol=1e-5)


def test_every_number_of_peft_is_looked_at():
    assert {*GOLDEN} == {"prototypes", *CASES}
