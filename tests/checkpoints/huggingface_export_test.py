import dataclasses
import json
import logging

import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors, trees
from elm_jax.checkpoints import (
    huggingface_export,
    huggingface_files,
    huggingface_import,
)
from elm_jax.model import config, t5
from tests.checkpoints import huggingface_sample as sample
from tests.checkpoints import in_memory

TIED = dataclasses.replace(
    sample.CONFIG, logits_via_embedding=True, mlp_activations=("relu",)
)
SHAPES = pytest.mark.parametrize("shape", [sample.CONFIG, TIED], ids=["untied", "tied"])


def export(folder, shape=sample.CONFIG, max_shard_bytes=10**9, dtype=np.float32):
    huggingface_export.save(
        folder,
        in_memory.leaves_of(sample.make_params(shape)),
        dataclasses.asdict(shape),
        dtype=np.dtype(dtype),
        max_shard_bytes=max_shard_bytes,
        on_bytes=lambda done: None,
    )
    return folder


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("max_shard_bytes", [10**9, 2000])
def test_round_trips_are_bit_exact(tmp_path, shape, max_shard_bytes):
    folder = export(tmp_path / "x", shape, max_shard_bytes)
    model = huggingface_files.open_folder(folder)
    fields = config.T5Config(**huggingface_import.model_fields(model))
    shapes = t5.param_shapes(t5.T5(fields))
    leaves = huggingface_import.open_leaves(model, shapes, of="x")
    assert fields == shape
    assert sample.fingerprint(leaves) == trees.fingerprint(sample.make_params(shape))


@SHAPES
def test_files_are_those_that_safetensors_writes(tmp_path, shape):
    folder = export(tmp_path / "x", shape)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    expected = sample.to_theirs(sample.make_params(shape))
    assert tensors.keys() == expected.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, expected[name])


def test_names_shapes_and_settings_are_the_golden_ones(tmp_path):
    """Listed by transformers 5.23 from a model of this shape; see the script there."""
    folder = export(tmp_path / "x")
    golden = json.loads(sample.GOLDEN.read_text())
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {n: list(a.shape) for n, a in tensors.items()} == golden["shapes"]
    settings = json.loads((folder / "config.json").read_text())
    # transformers makes it true for every T5, and keeps its meaning in
    # scale_decoder_outputs; older versions need false.
    assert settings.pop("tie_word_embeddings") is False
    unknown = settings.keys() - golden["config"].keys()
    assert unknown == set()
    differ = {n for n in settings if settings[n] != golden["config"][n]}
    assert differ <= {"dropout_rate"}


def test_shards_are_no_larger_than_asked_and_listed(tmp_path):
    folder = export(tmp_path / "x", max_shard_bytes=2000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("model-*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == [path.name for path in files]
    sizes = [
        sum(array.nbytes for array in safetensors.numpy.load_file(path).values())
        for path in files
    ]
    assert max(sizes) <= 2000
    assert sum(sizes) == index["metadata"]["total_size"]


def test_relative_positions_per_layer_have_no_place(tmp_path):
    table = {"encoder/layers/relpos_bias/rel_embedding": np.zeros((2, 2, 32))}
    with pytest.raises(errors.CheckpointError, match="T5X"):
        huggingface_export.save(
            tmp_path / "x",
            in_memory.leaves_of(trees.unflatten(table)),
            dataclasses.asdict(sample.CONFIG),
            dtype=np.dtype(np.float32),
            max_shard_bytes=1,
            on_bytes=lambda done: None,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@SHAPES
def test_transformers_loads_it_and_computes_our_logits(tmp_path, shape):
    """Tolerance: 1e-5 of the largest logit, float32 sums in another order."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = export(tmp_path / "x", shape)
    said: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = said.append
    logging.getLogger("transformers").addHandler(handler)
    model, report = transformers.T5ForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    logging.getLogger("transformers").removeHandler(handler)
    assert not any(report.values())
    # transformers 5 takes every T5 for tied, and says that this file's is not; what it
    # saves itself of an untied T5 makes it say the same.
    assert all("we will NOT tie them" in record.getMessage() for record in said)
    assert len(said) <= (0 if shape is TIED else 1)
    inputs, targets = np.array([[3, 4, 5, 1]]), np.array([[0, 7, 8]])
    with torch.no_grad():
        expected = model(
            input_ids=torch.from_numpy(inputs),
            decoder_input_ids=torch.from_numpy(targets),
        ).logits.numpy()
    params = sample.make_params(shape)
    network = t5.T5(shape)
    ours = network.apply({"params": params}, inputs, targets)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
