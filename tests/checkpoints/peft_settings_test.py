"""Which modules a PEFT configuration means, by PEFT's rules."""

import pytest

from elm_jax.checkpoints import peft_settings
from elm_jax.model import t5
from tests.checkpoints import peft_sample

MODULES = peft_settings.modules(t5.param_shapes(t5.T5(peft_sample.CONFIG)))
Q = "decoder.block.2.layer.1.EncDecAttention.q"


def chosen(**settings):
    return {n for n in MODULES if peft_settings.is_target(settings, n)}


def test_projections_have_their_points_and_sizes():
    assert len(MODULES) == 2 * 7 + 3 * 11
    module = MODULES[Q]
    assert module.point == "decoder/cross_attention/query"
    assert module.path == "decoder/layers_2/encoder_decoder_attention/query"
    assert module.shape == (16, 12)
    assert "lm_head" not in MODULES


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"target_modules": ["q"]}, 2 + 2 * 3),
        ({"target_modules": [Q]}, 1),
        ({"target_modules": ["SelfAttention.q"]}, 5),
        ({"target_modules": ["elfAttention.q"]}, 0),  # whole names between dots only
        ({"target_modules": "all-linear"}, len(MODULES)),
        ({"target_modules": r".*\.q"}, 8),
        ({"target_modules": r"\.q"}, 0),  # the whole name must match
        ({"target_modules": ["q"], "exclude_modules": ["EncDecAttention.q"]}, 5),
        ({"target_modules": "all-linear", "exclude_modules": r"encoder.*"}, 33),
        ({"target_modules": ["q"], "layers_to_transform": 1}, 3),
        ({"target_modules": ["q"], "layers_to_transform": [0, 2]}, 5),
        (
            {
                "target_modules": ["q"],
                "layers_to_transform": [2],
                "layers_pattern": ["h", "block"],
            },
            2,
        ),
        (
            {
                "target_modules": ["q"],
                "layers_to_transform": [2],
                "layers_pattern": "h",
            },
            0,
        ),
    ],
)
def test_targets_are_chosen_as_peft_chooses_them(settings, count):
    assert len(chosen(**settings)) == count


def test_the_first_pattern_that_ends_a_name_gives_its_rank_and_alpha():
    settings = {
        "r": 8,
        "lora_alpha": 16,
        "rank_pattern": {"q": 4, "EncDecAttention.q": 2},
        "alpha_pattern": {r"decoder\..*": 2},
    }
    assert peft_settings.rank(settings, Q) == 4
    assert peft_settings.scale(settings, Q) == 0.5
    stable = settings | {"use_rslora": True}
    assert peft_settings.scale(stable, Q) == 1.0
    other = "encoder.block.0.layer.0.SelfAttention.k"
    assert peft_settings.rank(settings, other) == 8
    assert peft_settings.scale(settings, other) == 2.0


def test_target_modules_of_an_export_choose_the_same_modules():
    points = ["decoder/cross_attention/query", "encoder/mlp/wo"]
    found = peft_settings.target_modules(points, MODULES)
    wanted = {n for n, module in MODULES.items() if module.point in points}
    assert chosen(target_modules=found) == wanted
    everywhere = [m.point for m in MODULES.values() if m.point.endswith("/query")]
    assert peft_settings.target_modules(everywhere, MODULES) == ["q"]
