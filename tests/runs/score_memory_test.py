"""What a plan says that scoring takes of each device."""

import jax
import pytest

from elm_jax import errors, trees
from elm_jax.model import decoding_spec, t5
from elm_jax.runs.run import show_size
from tests.runs import scored

# By hand, of a row on each device: inputs of 24 tokens are filled up to 32, targets are
# of 8; two heads of 8, float32. Logits of 4 choices over 1,024 tokens are most of it.
RANKING = 4 * 4 * 8 * 1024
# Of the encoder: for each pair of positions logits and bias of 4 bytes and one of the
# mask in each head, and four arrays of 16 numbers for each position.
DECODING = (4 + 4 + 1) * 2 * 32 * 32 + 4 * 4 * 32 * 16


def sizes_text(kind, plan):
    return plan[f"bytes per device of {kind}, about"]


def test_a_plan_tells_the_bytes_of_ranking_and_decoding(tmp_path):
    assert jax.device_count() == 8
    scored.save_base(tmp_path)
    with scored.registered():
        plan = scored.make_run(tmp_path, "plain").plan()
    parameters = trees.count_bytes(t5.param_shapes(t5.T5(scored.SHAPE)))
    for kind, size in {"ranking": RANKING, "decoding": DECODING}.items():
        assert sizes_text(kind, plan).startswith(
            f"{show_size(parameters + size)}: parameters {show_size(parameters)},"
            f" activations {show_size(size)}"
        )
    assert sizes_text("ranking", plan).endswith(" (4 choices as long as targets)")
    assert f"{plan['devices']}" == "8 (data) x 1 (fsdp) x 1 (model) by rules 'data'"


@pytest.mark.slow
def test_more_rows_and_beams_take_more(tmp_path):
    scored.save_base(tmp_path)
    beams = decoding_spec.BeamSearch(num_beams=64)
    with scored.registered():
        few, many, wide = (
            scored.make_run(tmp_path, "plain", batch_size=size, decoding=spec).plan()
            for size, spec in (
                (8, decoding_spec.GREEDY),
                (64, decoding_spec.GREEDY),
                (8, beams),
            )
        )
    assert f"activations {show_size(8 * RANKING)}" in sizes_text("ranking", many)
    assert f"activations {show_size(8 * DECODING)}" in sizes_text("decoding", many)
    # Keys and values of 16 numbers: of 32 inputs, and of what 64 beams write twice, and
    # once more their half, which is moved.
    position = 2 * 16 * 4
    size = 32 * position + 64 * 8 * position * 5 // 2
    assert f"activations {show_size(size)}" in sizes_text("decoding", wide)
    assert sizes_text("ranking", wide) == sizes_text("ranking", few)


def test_a_batch_that_the_devices_do_not_divide_is_refused_in_the_plan(tmp_path):
    scored.save_base(tmp_path)
    with scored.registered(), pytest.raises(errors.ConfigError, match="6 rows for 8"):
        scored.make_run(tmp_path, "plain", batch_size=6).plan()
