"""Numbers of other tools, where they are right; `golden/make_golden.py` makes them."""

import json
import pathlib

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.merging import methods
from elm_jax.types import Side

GOLDEN = json.loads(
    pathlib.Path(__file__)
    .with_name("golden")
    .joinpath("golden.json")
    .read_text("utf-8")
)
WEIGHTS = (0.7, 1.2, 0.4)
VALUES = np.sin(np.arange(96.0) ** 2 + 1.0).reshape(4, 4, 6)
WEIGHTED = {"weights": WEIGHTS}
OUTLIERS = WEIGHTED | {"density": 0.5, "dropped": 0.1}
VOTES = WEIGHTED | {"density": 0.5, "vote": "plain"}
# Tool, its method, ours, our options.
SAME = [
    ("mergekit", "task_arithmetic", "task_arithmetic", WEIGHTED),
    ("mergekit", "ties", "ties", WEIGHTED | {"density": 0.5, "combine": "normalised"}),
    ("mergekit", "breadcrumbs", "breadcrumbs", OUTLIERS),
    ("mergekit", "breadcrumbs_ties", "breadcrumbs_ties", OUTLIERS),
    ("mergekit", "sce", "sce", {"density": 0.5}),
    ("mergekit", "model_stock", "model_stock", {}),
    ("mergekit", "slerp", "slerp", {"weights": (0.7, 0.3)}),
    ("peft", "task_arithmetic", "task_arithmetic", WEIGHTED),
    ("peft", "magnitude", "magnitude", WEIGHTED | {"density": 0.5}),
    ("peft", "ties", "ties", VOTES),
    ("peft", "ties_count", "ties", VOTES | {"sign": "count"}),
]


@pytest.mark.parametrize(("tool", "golden_name", "name", "options"), SAME)
def test_a_method_gives_what_another_tool_gives(tool, golden_name, name, options):
    merging = methods.of(name, **options)
    experts = [{"w": values} for values in VALUES[: 2 if name == "slerp" else 3]]
    arguments = {"base": {"w": VALUES[3]}} if merging.needs_base else {}
    ours = merging.merge(experts, **arguments).params["w"]
    np.testing.assert_allclose(ours, GOLDEN[tool][golden_name], atol=2e-6)


def test_every_number_of_other_tools_is_looked_at():
    looked = {(tool, golden_name) for tool, golden_name, *_ in SAME}
    stored = {(tool, name) for tool in ("mergekit", "peft") for name in GOLDEN[tool]}
    assert looked == stored


@pytest.mark.parametrize(("combination", "rank"), [("cat", 0), ("svd", 3)])
def test_sums_of_loras_are_those_of_peft(combination, rank):
    def values(shape, number, half):  # PEFT's matrices are [outputs, inputs]
        places = np.arange(np.prod(shape))
        return np.sin(places * places + 3.0 * number + half).reshape(shape).T

    experts = [
        {"q_adapter": {"a": values((2, 6), n, 0), "b": values((5, 2), n, 1)}}
        for n in range(3)
    ]
    beside = {
        "q_adapter/a": Side(-1, False, "q_adapter", True),
        "q_adapter/b": Side(-2, True, "q_adapter", True),
    }
    merging = methods.of("low_rank_sum", weights=WEIGHTS, rank=rank)
    merged = merging.merge(experts, base={}, beside=beside)
    leaves = trees.flatten(merged.params)
    product = 3 / 2 * leaves["q_adapter/a"] @ leaves["q_adapter/b"]  # alpha / rank
    np.testing.assert_allclose(product.T, GOLDEN["peft_loras"][combination], atol=2e-6)
    assert merged.rank == (rank or 6)
