"""Axis rules: every parameter has one, and a stranger is refused."""

import dataclasses

import pytest

from elm_jax import errors, trees
from elm_jax.model import config, int8_kernels, precision, t5
from elm_jax.partitioning import rules
from elm_jax.peft import bottleneck, ia3, lora, points

SPECS = (
    bottleneck.Bottleneck(points=points.SUB_LAYERS),
    lora.Lora(rank=1, targets="/"),
    ia3.Ia3(targets="/"),
)


FIELDS = {
    "vocab_size": 64,
    "emb_dim": 32,
    "num_heads": 4,
    "head_dim": 8,
    "mlp_dim": 128,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}


def shapes_of(**changes):
    shapes = {}
    for spec in SPECS:
        model = t5.T5(config.T5Config(**(FIELDS | changes)), spec.adapter_fn(32))
        shapes |= trees.flatten(t5.param_shapes(model))
    return shapes


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"mlp_activations": ("relu",), "logits_via_embedding": True}]
)
def test_every_parameter_of_a_model_has_a_rule_that_fits_its_size(changes):
    sizes = {
        "layers": 2,
        "vocab": 64,
        "embed": 32,
        "heads": 4,
        "joined_kv": 32,
        "mlp": 128,
        "relpos_buckets": 32,
        "adapter": 1,
    }
    for name, leaf in shapes_of(**changes).items():
        axes = rules.logical_axes(name, leaf.shape)
        assert leaf.shape == tuple(sizes[axis] for axis in axes), name


@pytest.mark.parametrize("activations", [("gelu", "linear"), ("relu",)])
def test_scales_of_int8_matrices_lie_as_the_outputs_of_these(activations):
    shape = config.T5Config(**FIELDS | {"mlp_activations": activations})
    shape = dataclasses.replace(shape, base_dtype="int8")
    held = precision.in_compute_dtype(shape, t5.param_shapes(t5.T5(shape)))
    leaves = trees.flatten(held)
    scales = [name for name in leaves if name.endswith("/kernel_scale")]
    assert len(scales) == 3 * 4 + 2 * (len(activations) + 1)
    for name in scales:
        of_kernel = rules.logical_axes(
            int8_kernels.matrix_of(name), leaves[int8_kernels.matrix_of(name)].shape
        )
        axes = rules.logical_axes(name, leaves[name].shape)
        assert axes == (of_kernel[0], of_kernel[2])


def test_every_table_places_every_logical_axis():
    for table in rules.TABLES.values():
        for name, leaf in shapes_of().items():
            assert len(rules.partition_spec(name, leaf.shape, table)) == leaf.ndim
        assert table["batch"] == ("data", "fsdp")


@pytest.mark.parametrize("table", rules.TABLES)
def test_no_parameter_is_split_twice_by_one_mesh_axis(table):
    for name, leaf in shapes_of().items():
        spec = rules.partition_spec(name, leaf.shape, rules.TABLES[table])
        used = [axis for axis in spec if axis]
        assert len(used) == len(set(used)), name


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("decoder/logits_dens/kernel", (32, 64)),
        ("encoder/layers/mlp/wo/kernel", (128, 32)),  # a layer's own, not stacked
        ("surprise", (1,)),
    ],
)
def test_a_parameter_without_a_rule_is_refused_by_name_and_shape(name, shape):
    with pytest.raises(errors.ConfigError) as caught:
        rules.logical_axes(name, shape)
    assert f"{name} {shape}" in str(caught.value)


def test_an_unknown_table_is_refused_with_the_nearest_one():
    with pytest.raises(errors.ConfigError, match="Did you mean: data_model"):
        rules.axis_table("data_modle")


@pytest.mark.parametrize(
    ("table", "num_fsdp", "num_model", "advice"),
    [
        ("data", 4, 1, "'fsdp' or 'fsdp_model'"),
        ("data", 1, 2, "'data_model' or 'fsdp_model'"),
        ("data_model", -1, 2, "'fsdp' or 'fsdp_model'"),
        ("fsdp", 2, 2, "'data_model' or 'fsdp_model'"),
        ("data", 2, 2, "'fsdp_model'"),
    ],
)
def test_devices_that_would_share_no_parameter_are_refused(
    table, num_fsdp, num_model, advice
):
    with pytest.raises(errors.ConfigError, match="keep parameters whole") as caught:
        rules.check_axes(table, num_fsdp=num_fsdp, num_model=num_model)
    assert advice in str(caught.value)


@pytest.mark.parametrize("table", rules.TABLES)
def test_every_table_serves_one_device(table):
    rules.check_axes(table, num_fsdp=1, num_model=1)
