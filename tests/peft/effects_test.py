"""A sum of adapters adds what they add; a neutral one adds nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import task_arithmetic
from elm_jax.model import t5
from elm_jax.peft import adapters, bottleneck, effects, expert_parts, ia3, lora, points
from tests.peft.sample import SHAPE, random_params

SPECS = {
    "bottleneck": bottleneck.Bottleneck(reduction_factor=16, points=points.SUB_LAYERS),
    "relu": bottleneck.Bottleneck(reduction_factor=16, activation="relu"),
    "parallel": bottleneck.Bottleneck(reduction_factor=16, parallel=True),
    "sum": bottleneck.BottleneckSum(reduction_factor=16, count=3),
    "lora": lora.Lora(rank=3, alpha=5.0, targets="/"),
    "stable_lora": lora.Lora(rank=3, alpha=5.0, rank_stabilized=True, dropout=0.1),
    "ia3": ia3.Ia3(targets="/"),
}
KINDS = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in ("sum", "lora") else pytest.mark.slow)
        for kind in SPECS
    ],
)


def build(spec):
    return t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim))


def make(spec, seeds):
    """A base of random numbers, and experts on it."""
    wholes = [random_params(build(spec), seed) for seed in seeds]
    base = trees.split(random_params(build(spec), 99), expert_parts.ADAPTERS)[1]
    return base, [trees.split(whole, expert_parts.PROMPT_EXPERT)[0] for whole in wholes]


def merge(base, parts, scale=1.0, weights=()):
    start = trees.split(base, expert_parts.PROMPT_EXPERT)[0]
    method = task_arithmetic.TaskArithmetic(weights=tuple(weights), scale=scale)
    merged = method.merge(
        parts,
        base=trees.join(start, effects.neutral(parts[0])),
        beside=effects.beside(parts[0]),
    )
    return merged.params, merged.num_beside


def fits(params, spec):
    shapes = t5.param_shapes(build(spec))
    return not trees.diff(params, trees.split(shapes, expert_parts.PROMPT_EXPERT)[0])


@KINDS
def test_one_expert_merges_to_itself_bit_for_bit(kind):
    base, (expert,) = make(SPECS[kind], [0])
    merged, count = merge(base, [expert])
    assert trees.fingerprint(merged) == trees.fingerprint(expert)
    assert effects.repeated(SPECS[kind], count) == SPECS[kind]


@KINDS
def test_an_order_changes_no_bit_and_a_weight_of_zero_leaves_an_expert_out(kind):
    base, parts = make(SPECS[kind], [0, 1, 2])
    merged, count = merge(base, parts, weights=[0.5, 2.0, 0.0], scale=0.7)
    again, _ = merge(base, parts[::-1], weights=[0.0, 2.0, 0.5], scale=0.7)
    assert trees.fingerprint(again) == trees.fingerprint(merged)
    assert fits(merged, effects.repeated(SPECS[kind], count))
    assert count == 2
    alone, _ = merge(base, parts[:2], weights=[0.5, 2.0], scale=0.7)
    assert trees.fingerprint(alone) == trees.fingerprint(merged)
    last, _ = merge(base, parts, weights=[0.0, 0.0, 1.0])
    assert trees.fingerprint(last) == trees.fingerprint(parts[2])


# Sums in another order: a few roundings of the greatest number.
LIMITS = {np.float32: 1e-6, np.float64: 2e-15}


@pytest.mark.parametrize("dtype", LIMITS, ids=lambda dtype: dtype.__name__)
@KINDS
def test_what_an_adapter_adds_is_the_weighted_sum(kind, dtype):
    """Adapters alone: one module, the same inputs, one layer of each expert."""
    with jax.enable_x64(dtype is np.float64):
        check_sum(SPECS[kind], dtype)


def check_sum(spec, dtype):
    rng = np.random.default_rng(5)
    inputs, outputs = rng.normal(size=(2, 4, 3, SHAPE.emb_dim)).astype(dtype)
    point = "encoder/mlp"
    if not isinstance(spec, bottleneck.Bottleneck):
        point, outputs = "encoder/self_attention/value", outputs[..., :16]

    def adapt(spec, params):
        module = spec.adapter_fn(SHAPE.emb_dim)(point, name=None)
        adapted = module.apply({"params": params}, inputs, outputs)
        assert adapted.dtype == dtype
        return adapted

    module = spec.adapter_fn(SHAPE.emb_dim)(point, name=None)
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs, outputs)["params"]
    parts = [
        jax.tree.map(lambda s: rng.normal(size=s.shape).astype(dtype), shapes)
        for _ in range(3)
    ]
    named = [{"encoder_adapter": part} for part in parts]
    merged, count = merge({}, named, weights=[1, -2, 3])
    added = adapt(effects.repeated(spec, count), merged["encoder_adapter"]) - outputs
    each = [adapt(spec, part) - outputs for part in parts]
    expected = each[0] - 2 * each[1] + 3 * each[2]
    assert np.abs(added - expected).max() <= LIMITS[dtype] * np.abs(expected).max()
    nothing, count = merge({}, named, scale=0.0)
    assert effects.repeated(spec, count) == spec
    assert np.array_equal(adapt(spec, nothing["encoder_adapter"]), outputs)


@KINDS
def test_layer_norms_are_added_up_as_differences_from_the_base(kind):
    base, parts = make(SPECS[kind], [0, 1])
    merged, _ = merge(base, parts, scale=0.5)
    name = "decoder/decoder_norm/scale"
    start, first, second = (trees.flatten(tree)[name] for tree in (base, *parts))
    expected = start + 0.5 * (first - start) + 0.5 * (second - start)
    np.testing.assert_allclose(trees.flatten(merged)[name], expected, rtol=1e-6)


def test_the_scale_of_a_lora_stays_as_ranks_add_up():
    for kind in ("lora", "stable_lora"):
        wider = effects.repeated(SPECS[kind], 4)
        assert wider.rank == 12
        assert wider.scale == pytest.approx(SPECS[kind].scale, rel=1e-12)
        assert wider.dropout == SPECS[kind].dropout


def test_a_sum_of_sums_of_bottlenecks_counts_all():
    assert effects.repeated(SPECS["sum"], 2).count == 6
    wider = effects.repeated(SPECS["parallel"], 2)
    assert (wider.count, wider.parallel, wider.kind) == (2, True, "bottleneck_sum")
    fields = dataclasses.asdict(wider) | {"points": wider.points}
    assert adapters.spec_type(fields["kind"])(**fields) == wider
    with pytest.raises(errors.ConfigError, match="count = 0"):
        bottleneck.BottleneckSum(count=0)


def test_adapters_whose_sum_is_not_defined_are_refused_by_name():
    expert = {"encoder_adapter": {"prefix": np.zeros(3, np.float32)}}
    with pytest.raises(errors.ConfigError, match="encoder_adapter/prefix"):
        effects.beside(expert)


def test_loras_of_several_ranks_and_scales_do_the_same_in_their_common_spec():
    specs = [
        lora.Lora(rank=2, alpha=3.0, targets="/"),
        lora.Lora(rank=4, alpha=5.0, targets="/", rank_stabilized=True),
    ]
    common_spec = effects.common(specs)
    assert common_spec == effects.common(specs[::-1]) == specs[1]
    rng = np.random.default_rng(0)
    for spec in specs:
        a, b = rng.normal(size=(2, 3, 6, spec.rank)).astype(np.float32)
        b = np.swapaxes(b, -1, -2)
        expert = {"layers": {"query_adapter": {"lora_a": a, "lora_b": b}}}
        widened = trees.flatten(effects.widened(expert, spec, to=common_spec))
        wide_a, wide_b = widened.values()
        assert wide_a.shape == (3, 6, 4)
        assert wide_a.dtype == np.float32
        np.testing.assert_allclose(
            common_spec.scale * (wide_a @ wide_b), spec.scale * (a @ b), rtol=2e-6
        )


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_bottlenecks_of_several_widths_do_the_same_in_their_common_spec(activation):
    wide = bottleneck.Bottleneck(reduction_factor=4, activation=activation)
    narrow = dataclasses.replace(wide, reduction_factor=16, start_at_identity=True)
    common_spec = effects.common([narrow, wide])
    assert common_spec == effects.common([wide, narrow]) == wide
    rng = np.random.default_rng(0)
    inputs, outputs = rng.normal(size=(2, 5, 64)).astype(np.float32)
    module = narrow.adapter_fn(64)("encoder/mlp", name="x")
    like = module.init(jax.random.key(0), inputs, outputs)["params"]
    expert = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), like)
    wider = effects.widened({"x_adapter": expert}, narrow, to=wide)["x_adapter"]
    assert wider["down"]["kernel"].shape == (64, 16)
    assert wider["up"]["kernel"].dtype == np.float32
    effect = narrow.effect(module, expert, inputs, outputs)
    padded = wide.effect(module, wider, inputs, outputs)
    # A sum with zeros behind it may be added up in another order.
    np.testing.assert_allclose(padded, effect, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"parallel": True}, {"activation": "relu"}, {"points": ("encoder/mlp",)}]
)
def test_bottlenecks_that_differ_in_more_than_width_have_no_common_spec(change):
    narrow = bottleneck.Bottleneck(reduction_factor=16)
    other = bottleneck.Bottleneck(reduction_factor=8, **change)
    with pytest.raises(errors.ConfigError, match="differ in width"):
        effects.common([narrow, other])
    with pytest.raises(errors.ConfigError, match="differ in width"):
        effects.common([SPECS["sum"], SPECS["bottleneck"]])


def test_adapters_of_several_kinds_have_no_common_spec():
    for another in (SPECS["ia3"], lora.Lora(rank=3), SPECS["bottleneck"]):
        with pytest.raises(errors.ConfigError, match="one spec, or LoRAs"):
            effects.common([SPECS["lora"], another])


def test_a_rank_is_chosen_with_the_scale_that_adapters_have():
    for kind in ("lora", "stable_lora"):
        cut = effects.repeated(SPECS[kind], 5, rank=2)
        assert cut.rank == 2
        assert cut.scale == pytest.approx(SPECS[kind].scale, rel=1e-12)
    with pytest.raises(errors.ConfigError, match="Leave the rank out"):
        effects.repeated(SPECS["bottleneck"], 5, rank=2)
