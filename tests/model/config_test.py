"""Model shapes refuse what no model can have."""

import dataclasses
import json

import pytest

from elm_jax import errors
from elm_jax.model import config

GOOD = {
    "vocab_size": 384,
    "emb_dim": 32,
    "num_heads": 2,
    "head_dim": 16,
    "mlp_dim": 64,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
}


def test_a_config_survives_json():
    shape = config.T5Config(**GOOD, dtype="bfloat16")
    fields = json.loads(json.dumps(dataclasses.asdict(shape)))
    fields["mlp_activations"] = tuple(fields["mlp_activations"])
    assert config.T5Config(**fields) == shape


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("emb_dim", 0),
        ("num_heads", 2.0),
        ("num_decoder_layers", -1),
        ("scan_unroll", True),
        ("dtype", "float16"),
        ("remat", "all"),
        ("attention", "flash"),
        ("base_dtype", "int4"),
        ("attention", "cudnn"),  # dtype is float32
        ("relpos_per_layer", 1),
        ("logits_via_embedding", "yes"),
        ("dropout_rate", 1.0),
        ("mlp_activations", ("geglu",)),
        ("mlp_activations", ["gelu"]),
        ("mlp_activations", ()),
        ("relpos_buckets", 30),
        ("relpos_max_distance", 16),
    ],
)
def test_a_wrong_field_is_named_with_its_value(name, value):
    with pytest.raises(errors.ConfigError, match=f"{name} = ") as caught:
        config.T5Config(**(GOOD | {name: value}))
    assert repr(value) in str(caught.value)


def test_how_a_base_is_held_is_recorded_where_it_is_not_as_ever():
    plain = config.T5Config(**GOOD)
    assert "base_dtype" not in config.recorded(plain)
    held = dataclasses.replace(plain, base_dtype="int8")
    assert config.recorded(held) == config.recorded(plain) | {"base_dtype": "int8"}
    completed = config.completed(config.T5Config, config.recorded(plain))
    assert completed == dataclasses.asdict(plain)
    way = config.Execution()
    assert config.completed(config.Execution, config.recorded(way)) == (
        dataclasses.asdict(way)
    )


def test_a_run_computes_a_model_in_its_own_way():
    shape = config.T5Config(**GOOD)
    assert config.Execution().applied_to(shape) == shape
    way = {"dtype": "bfloat16", "remat": "layer", "attention": "cudnn"}
    changed = config.Execution(**way, scan_unroll=2).applied_to(shape)
    assert changed == dataclasses.replace(shape, **way, scan_unroll=2)
    with pytest.raises(errors.ConfigError, match="remat = 'all'"):
        config.Execution(remat="all").applied_to(shape)
