"""Bases written part by part are those that Orbax writes at once."""

import os
import pathlib
import signal
import subprocess
import sys
import weakref

import jax
import ml_dtypes
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import (
    experts,
    leaf_parts,
    stores,
    streaming,
    tensors,
    written_arrays,
)
from tests.checkpoints import sample


def make_manifest(fingerprint):
    return sample.make_manifest(
        kind="base", name="tiny", adapter=None, base_fingerprint=fingerprint
    )


def save(folder, params, dtype=np.float32):
    seen = []
    info = streaming.save_base(
        folder,
        sample.leaves_of(params),
        make_manifest,
        dtype=np.dtype(dtype),
        on_bytes=seen.append,
    )
    return info, seen


def test_a_streamed_base_is_read_as_one_written_at_once(tmp_path):
    params = sample.make_params()
    info, seen = save(tmp_path / "x", params)
    read, read_info = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(read) == trees.fingerprint(params)
    assert info.base_fingerprint == trees.fingerprint(params)
    assert read_info == info
    assert seen[-1] == trees.count_bytes(params)
    experts.save_expert(tmp_path / "y", params, info)


def test_bfloat16_stays_on_disk_and_has_its_own_fingerprint(tmp_path):
    info, _ = save(tmp_path / "x", sample.make_params(), ml_dtypes.bfloat16)
    read, _ = experts.load_expert(tmp_path / "x")
    assert {leaf.dtype.name for leaf in trees.flatten(read).values()} == {"bfloat16"}
    assert info.base_fingerprint == trees.fingerprint(read)


@pytest.mark.parametrize("writer", ["orbax", "stream"])
def test_an_opened_expert_is_the_one_that_was_saved(tmp_path, writer):
    params = sample.make_params()
    if writer == "stream":
        save(tmp_path / "x", params)
    else:
        fingerprint = trees.fingerprint(params)
        experts.save_expert(tmp_path / "x", params, make_manifest(fingerprint))
    leaves, _ = streaming.open_expert(tmp_path / "x")
    read = tensors.read_all(leaves, np.float32)
    assert trees.fingerprint(read) == trees.fingerprint(params)


def test_stacks_are_written_layer_by_layer_and_unstacked_again(tmp_path):
    rng = np.random.default_rng(0)
    plain = {
        f"encoder/layers_{n}/scale": rng.normal(size=3).astype(np.float32)
        for n in range(11)
    }
    plain["decoder/scale"] = rng.normal(size=2).astype(np.float32)
    lazy = {
        name: tensors.Tensor(a.shape, a.dtype, lambda a=a: a)
        for name, a in plain.items()
    }
    leaves = tensors.stack(lazy)
    assert {name: leaf.rows for name, leaf in leaves.items()} == {
        "decoder/scale": 2,
        "encoder/layers/scale": 1,
    }
    streaming.save_base(
        tmp_path / "x",
        leaves,
        make_manifest,
        dtype=np.dtype(np.float32),
        on_bytes=lambda done: None,
    )
    opened, _ = streaming.open_expert(tmp_path / "x", block_bytes=1)
    assert opened["encoder/layers/scale"].rows == 1
    again = dict(tensors.unstack(opened))
    assert again.keys() == plain.keys() == tensors.plain_shapes(opened).keys()
    for name, array in again.items():
        np.testing.assert_array_equal(array, plain[name])


def test_zeros_are_written_and_read(tmp_path):
    save(tmp_path / "x", {"a": np.zeros((2, 3), np.float32), "b": np.float32(0)})
    leaves, _ = streaming.open_expert(tmp_path / "x")
    np.testing.assert_array_equal(tensors.read(leaves["a"]), np.zeros((2, 3)))
    assert tensors.read(leaves["b"]) == 0


def test_a_base_that_is_there_is_not_touched(tmp_path):
    save(tmp_path / "x", sample.make_params())
    with pytest.raises(errors.CheckpointError, match="there already"):
        save(tmp_path / "x", sample.make_params(1))


def test_a_part_of_another_shape_is_an_error_and_leaves_nothing(tmp_path):
    params = sample.make_params()
    leaves = sample.leaves_of(params)
    name = "encoder/layers/mlp/wi_0/kernel"
    leaves[name] = leaves[name]._replace(
        blocks=lambda: iter([np.zeros((2, 4, 9), np.float32)])
    )
    with pytest.raises(errors.CheckpointError, match="torn"):
        streaming.save_base(
            tmp_path / "x",
            leaves,
            make_manifest,
            dtype=np.dtype(np.float32),
            on_bytes=lambda done: None,
        )
    assert not list(tmp_path.iterdir())


def test_whole_numbers_are_no_weights():
    leaves = sample.leaves_of({"a": np.zeros(3, np.int8)})
    with pytest.raises(errors.CheckpointError, match="quantised"):
        tensors.storage_dtype(leaves, "source")


KILLED = """
import os, pathlib, signal, sys
import numpy as np
from elm_jax.checkpoints import streaming, tensors
from tests.checkpoints import sample, streaming_test

def kill(done):
    if done > 200:
        os.kill(os.getpid(), signal.SIGKILL)

streaming.save_base(
    pathlib.Path(sys.argv[1]) / "x", sample.leaves_of(sample.make_params()),
    streaming_test.make_manifest, dtype=np.dtype(np.float32), on_bytes=kill)
"""


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_that_looks_complete(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.")
    with pytest.raises(errors.CheckpointError):
        experts.load_expert(tmp_path / "x")
    save(tmp_path / "x", sample.make_params())
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_part_of_a_leaf_is_gone_when_its_reader_has_done_with_it(tmp_path):
    """However many leaves are read in turn, such as those of hundreds of experts."""
    info = sample.make_manifest(adapter=None)
    layers = np.ones((4, 512, 256), np.float32)  # stored apart
    experts.save_expert(tmp_path / "e", {"encoder": {"layers": {"w": layers}}}, info)
    leaves, _ = streaming.open_expert(tmp_path / "e", block_bytes=1)
    (leaf,) = leaves.values()
    parts = leaf_parts.cut(leaf, leaf.rows)
    block = next(parts)
    is_there = weakref.ref(block)
    assert block.shape == (1, 512, 256)
    del block
    assert is_there() is None
    assert len([*parts]) == 3


def test_leaves_of_which_one_ends_early_are_never_read_side_by_side():
    def leaf(length):
        array = np.zeros((length, 2), np.float32)
        return tensors.Leaf(
            array.shape, array.dtype, 1, lambda: iter(np.split(array, length))
        )

    assert len(list(leaf_parts.steps([leaf(3), leaf(3)], 1))) == 3
    parts = leaf_parts.steps([leaf(3), leaf(2)], 1)
    assert [len(next(parts)), len(next(parts))] == [2, 2]
    with pytest.raises(errors.CheckpointError, match="parts of 1 of 2 leaves"):
        next(parts)


def write(folder, params, how):
    """Writes parameters as trainings do, or part by part, in their dtype."""
    dtype = trees.flatten(params)["token_embedder/embedding"].dtype
    if how == "stream":
        save(folder, params, dtype)
    else:
        fingerprint = trees.fingerprint(params)
        experts.save_expert(folder, params, make_manifest(fingerprint))


def compressor_in(folder):
    """What the files say of the embedding."""
    root = stores.as_url(folder / experts.PARAMS)
    kvstore = {"driver": "ocdbt", "base": root, "path": "token_embedder.embedding/"}
    store = stores.start_open(kvstore).result()
    return store.spec(retain_context=False).to_json()["metadata"]["compressor"]


@pytest.mark.parametrize("how", ["orbax", "stream"])
def test_float32_is_stored_as_it_is_and_shorter_numbers_compressed(tmp_path, how):
    params = sample.make_params()
    short = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), params)
    write(tmp_path / "long", params, how)
    write(tmp_path / "short", short, how)
    assert compressor_in(tmp_path / "long") is None
    assert compressor_in(tmp_path / "short")["id"] == "zstd"
    for name, expected in (("long", params), ("short", short)):
        read, _ = experts.load_expert(tmp_path / name)
        assert trees.fingerprint(read) == trees.fingerprint(expected)


@pytest.mark.parametrize("how", ["orbax", "stream"])
def test_float32_that_earlier_releases_compressed_is_read(tmp_path, monkeypatch, how):
    zstd = written_arrays.compressor_of(np.dtype(np.float16))
    monkeypatch.setattr(written_arrays, "compressor_of", lambda _: zstd)
    params = sample.make_params()
    write(tmp_path / "x", params, how)
    assert compressor_in(tmp_path / "x")["id"] == "zstd"
    read, _ = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(read) == trees.fingerprint(params)
    leaves, _ = streaming.open_expert(tmp_path / "x")
    for name, leaf in trees.flatten(params).items():
        np.testing.assert_array_equal(np.concatenate([*leaves[name].blocks()]), leaf)
