"""The cost in an evaluation's plan, beside counts by hand and by the model itself."""

import numpy as np
import pytest

from elm_jax.model import config, cost, t5
from elm_jax.runs import score_cost
from tests.runs import scored

SHAPE = scored.SHAPE


class Tokens:
    """The columns of a dataset of equal rows, as far as lengths go."""

    def __init__(self, num_rows, inputs, targets, choices=()):
        def lengths(values):
            return type("Ragged", (), {"lengths": np.array(values)})

        self.columns = type("Columns", (), {})
        self.columns.inputs = lengths([inputs] * num_rows)
        self.columns.targets = lengths([targets] * num_rows)
        self.columns.choices = lengths(list(choices) * num_rows)
        self.has_choices = bool(choices)
        self._num_rows = num_rows

    def __len__(self):
        return self._num_rows


@pytest.fixture
def base_dir(tmp_path):
    scored.save_base(tmp_path)
    return tmp_path / "base"


def forward(inputs, targets):
    batch = cost.BatchShape(batch_size=1, inputs_length=inputs, targets_length=targets)
    return cost.forward_flops(SHAPE, batch, t5.param_shapes(t5.T5(SHAPE)))


def test_one_choice_costs_a_forward_pass():
    dataset = Tokens(5, 10, 3, choices=(3,))
    assert score_cost.cell_flops(SHAPE, dataset, 5) == 5 * forward(10, 3)


def test_an_input_is_encoded_once_for_all_choices():
    dataset = Tokens(5, 10, 3, choices=(3, 3, 3))
    once, decoder = forward(10, 0), forward(10, 3) - forward(10, 0)
    assert score_cost.cell_flops(SHAPE, dataset, 2) == 2 * (once + 3 * decoder)
    assert once > 0
    assert decoder > 0


def test_a_written_answer_costs_a_forward_pass_of_its_length():
    assert score_cost.cell_flops(SHAPE, Tokens(4, 10, 7), 4) == 4 * forward(10, 7)


def test_a_plan_tells_cells_hours_and_shards(base_dir):
    dataset = Tokens(5, 10, 3, choices=(3,))
    parts = [
        score_cost.Part("dream", "test", dataset, 5, 30),
        score_cost.Part("wiki", "test", None, 0, 10),
    ]
    flops = 30 * 5 * forward(10, 3)
    plan = score_cost.describe(base_dir, parts, num_shards=4, device_flops=flops / 7200)
    assert plan["cells"] == "40, about 10 in each of 4 shards"
    described = plan["cost, about"]
    assert described.startswith(f"{flops:.2g} FLOPs, 2.0 hours at")
    assert "(1800 s a shard)" in described
    assert described.endswith("10 cells more, whose tokens are not cached")


def test_what_candidates_add_to_the_base_counts_in_the_hours_of_their_tasks(base_dir):
    dataset = Tokens(5, 10, 3, choices=(3,))
    parts = [score_cost.Part(f"t{n}", "test", dataset, 5, 3) for n in range(2)]
    flops = (2 * 3 + 1.5) * 5 * forward(10, 3)
    options = {"device_flops": flops / 7200, "more": {"t1": 1.5}}
    plan = score_cost.describe(base_dir, parts, **options)
    assert plan["cells"] == "6"
    assert plan["cost, about"].startswith(f"{flops:.2g} FLOPs, 2.0 hours at")


def test_without_tokens_the_cost_is_unknown(base_dir):
    plan = score_cost.describe(base_dir, [score_cost.Part("wiki", "test", None, 0, 10)])
    assert plan["cost, about"] == "unknown before tokens are cached"


@pytest.mark.parametrize("num_layers", [1, 3])
def test_more_layers_cost_more(num_layers):
    deeper = config.T5Config(**{**SHAPE.__dict__, "num_encoder_layers": num_layers + 1})
    dataset = Tokens(1, 10, 3, choices=(3,))
    shape = config.T5Config(**{**SHAPE.__dict__, "num_encoder_layers": num_layers})
    costs = [score_cost.cell_flops(stack, dataset, 1) for stack in (shape, deeper)]
    assert costs[0] < costs[1]
