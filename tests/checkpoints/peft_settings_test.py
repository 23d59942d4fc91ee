"""Which modules a PEFT configuration means, by PEFT's rules."""

from elm_jax.checkpoints import peft_patterns, peft_settings
from tests.checkpoints import peft_sample

MODULES = peft_settings.modules(peft_sample.shapes())
Q = "decoder.block.2.layer.1.EncDecAttention.q"


def test_projections_have_their_points_and_sizes():
    assert len(MODULES) == 2 * 7 + 3 * 11
    module = MODULES[Q]
    assert module.point == "decoder/cross_attention/query"
    assert module.path == "decoder/layers_2/encoder_decoder_attention/query"
    assert module.shape == (16, 12)
    assert "lm_head" not in MODULES


def test_target_modules_of_an_export_choose_the_same_modules():
    points = ["decoder/cross_attention/query", "encoder/mlp/wo"]
    chosen = peft_settings.target_modules(points, MODULES)
    expected = {n for n, module in MODULES.items() if module.point in points}
    settings = {"target_modules": chosen}
    assert {n for n in MODULES if peft_patterns.is_target(settings, n)} == expected
    everywhere = [m.point for m in MODULES.values() if m.point.endswith("/query")]
    assert peft_settings.target_modules(everywhere, MODULES) == ["q"]
