"""The settings that T5X leaves beside its checkpoints are held against the model."""

import pytest

from elm_jax import errors
from elm_jax.checkpoints import t5x_config

GELU = ("gelu", "linear")
# As gin's config_str writes it: imports, macros, references, lines that go on.
WRITTEN = """
from __gin__ import dynamic_registration
from t5x import models
from t5x.examples.t5 import network

# Macros:
# ==============================================================================
ACTIVATIONS = ('gelu', 'linear')
DROPOUT_RATE = 0.0
MODEL = @models.EncoderDecoderModel()

# Parameters for network.T5Config:
# ==============================================================================
network.T5Config.dropout_rate = %DROPOUT_RATE
network.T5Config.dtype = 'bfloat16'
network.T5Config.emb_dim = 32
network.T5Config.mlp_activations = \\
    ('gelu',
     'linear')
network.Transformer.config = @network.T5Config()
utils.SaveCheckpointConfig.fns = [@first(), {'x': %DROPOUT_RATE}]
"""


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint's folder; a function that writes the file beside it gives it."""

    def write(text):
        (tmp_path / "config.gin").write_text(text)
        return tmp_path / "checkpoint_3"

    return write


def test_the_fields_of_the_network_are_read_with_their_macros(checkpoint):
    assert t5x_config.network_fields(checkpoint(WRITTEN)) == {
        "dropout_rate": 0.0,
        "dtype": "bfloat16",
        "emb_dim": 32,
        "mlp_activations": GELU,
    }
    text = "network.T5Config.mlp_activations = %A\nA = ('silu', 'linear')"
    fields = t5x_config.network_fields(checkpoint(text))
    assert fields == {"mlp_activations": ("silu", "linear")}


def test_what_fits_passes_and_so_does_no_file_or_one_without_a_network(
    checkpoint, tmp_path
):
    t5x_config.check(tmp_path / "alone" / "checkpoint_3", GELU)
    t5x_config.check(checkpoint(WRITTEN), GELU)
    t5x_config.check(f"{checkpoint(WRITTEN)}/", GELU)
    t5x_config.check(checkpoint("TRAIN_STEPS = 3"), GELU)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("network.T5Config.mlp_activations = ('silu', 'linear')", "silu"),
        ("network.T5Config.emb_dim = 32", "'relu'"),  # T5X's default
        ("network.T5Config.positions = 'rotary'", "T5Config.positions = 'rotary'"),
        ("network.T5Config.mlp_activations = @chosen()", "'@chosen()'"),
    ],
)
def test_another_network_is_refused_by_field(checkpoint, line, message):
    with pytest.raises(errors.CheckpointError) as caught:
        t5x_config.check(checkpoint(line), GELU)
    assert message in str(caught.value)
    assert "config.gin beside" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "network.T5Config.positions 'rotary'",
        "network.T5Config.mlp_activations = ('gelu',",
        "network.T5Config.mlp_activations = 'gelu",
        "network.T5Config.emb_dim = " + "[" * 9999,
        "utils.SaveCheckpointConfig.fns = [range]",
        "A = 190:20",
    ],
)
def test_a_file_that_gin_cannot_parse_is_told(checkpoint, line):
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        t5x_config.check(checkpoint(WRITTEN + line), GELU)


def test_a_block_of_the_network_counts_as_its_bindings_do(checkpoint):
    path = checkpoint("network.T5Config:\n  positions = 'rotary'\n")
    with pytest.raises(errors.CheckpointError, match="positions = 'rotary'"):
        t5x_config.check(path, GELU)


def test_a_file_that_is_no_text_is_told(checkpoint, tmp_path):
    path = checkpoint("")
    (tmp_path / "config.gin").write_bytes(b"\xff\xfe")
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        t5x_config.check(path, GELU)


def test_a_folder_in_its_place_is_told(tmp_path):
    (tmp_path / "config.gin").mkdir()
    with pytest.raises(errors.CheckpointError, match=r"config\.gin is a folder"):
        t5x_config.network_fields(tmp_path / "checkpoint_3")


def test_a_field_no_t5_has_may_be_ignored_by_name(checkpoint):
    path = checkpoint(WRITTEN + "network.T5Config.note = 1")
    with pytest.raises(errors.CheckpointError, match="T5Config.note = 1"):
        t5x_config.check(path, GELU)
    t5x_config.check(path, GELU, ["note"])
