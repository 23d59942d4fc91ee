import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import digests, experts, manifest, stores, streaming
from tests.checkpoints import sample

BASE = trees.fingerprint(sample.make_params())


def test_an_expert_comes_back_bit_for_bit(tmp_path):
    written = sample.make_expert()
    experts.save_expert(tmp_path / "a" / "b", written, sample.make_manifest())
    params, facts = experts.load_expert(tmp_path / "a" / "b", base_fingerprint=BASE)
    assert trees.fingerprint(params) == trees.fingerprint(written)
    assert facts == dataclasses.replace(
        sample.make_manifest(),
        params_fingerprint=trees.fingerprint(written),
        digests=digests.of_tree(written),
    )


def test_device_arrays_come_back_as_host_arrays(tmp_path):
    on_device = jax.tree.map(jnp.asarray, sample.make_expert())
    experts.save_expert(tmp_path / "x", on_device, sample.make_manifest())
    params, _ = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(params) == trees.fingerprint(sample.make_expert())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))


def test_the_folder_holds_a_manifest_and_an_orbax_item(tmp_path):
    experts.save_expert(tmp_path / "x", sample.make_expert(), sample.make_manifest())
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == [
        "manifest.json",
        "params",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_expert_of_another_base_is_refused(tmp_path):
    experts.save_expert(tmp_path / "x", sample.make_expert(), sample.make_manifest())
    with pytest.raises(errors.FingerprintError, match="dream_answer.*tiny"):
        experts.load_expert(tmp_path / "x", base_fingerprint="0123456789abcdef")


def test_a_base_is_held_to_its_own_fingerprint(tmp_path):
    base = sample.make_manifest(kind="base", name="tiny")
    experts.save_expert(tmp_path / "good", sample.make_params(), base)
    with pytest.raises(errors.CheckpointError, match="'tiny' has fingerprint"):
        experts.save_expert(tmp_path / "bad", sample.make_params(seed=1), base)
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


def test_all_tensors_that_do_not_fit_are_named_at_once(tmp_path):
    experts.save_expert(tmp_path / "x", sample.make_expert(), sample.make_manifest())
    expected = trees.unflatten(
        {
            "encoder/layers/mlp_adapter/down/kernel": jax.ShapeDtypeStruct(
                (2, 4, 3), jnp.float32
            ),
            "encoder/layers/mlp_adapter/down/bias": jax.ShapeDtypeStruct(
                (2, 3), jnp.float32
            ),
        }
    )
    with pytest.raises(errors.CheckpointError) as caught:
        experts.load_expert(tmp_path / "x", expected=expected)
    message = str(caught.value)
    assert "missing: encoder/layers/mlp_adapter/down/bias" in message
    assert "extra: encoder/layers/pre_mlp_layer_norm/scale" in message
    assert "down/kernel (2, 4, 2) instead of (2, 4, 3)" in message


def test_a_saved_expert_is_never_overwritten(tmp_path):
    experts.save_expert(tmp_path / "x", sample.make_expert(), sample.make_manifest())
    with pytest.raises(errors.CheckpointError, match="there already"):
        experts.save_expert(
            tmp_path / "x", sample.make_expert(1), sample.make_manifest()
        )
    params, _ = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(params) == trees.fingerprint(sample.make_expert())


def test_an_expert_without_tensors_is_refused(tmp_path):
    with pytest.raises(errors.CheckpointError, match="no tensors"):
        experts.save_expert(tmp_path / "x", {}, sample.make_manifest())


FULL_DISK = """
import pathlib, sys
import numpy as np
from elm_jax import errors
from elm_jax.checkpoints import experts
from tests.checkpoints import sample

folder = pathlib.Path(sys.argv[1])
params = {"kernel": np.random.default_rng(0).normal(size=(64, 64))}
for at_bytes in (0, 200, 3000):
    try:
        with sample.full_disk(at_bytes):
            experts.save_expert(folder / "x", params, sample.make_manifest())
    except errors.CheckpointError as error:
        print("Free space" in str(error), list(folder.iterdir()))
experts.save_expert(folder / "x", params, sample.make_manifest())
"""


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_behind(tmp_path):
    lines = sample.run_script(FULL_DISK, tmp_path)
    assert lines == ["True []"] * 3
    experts.load_expert(tmp_path / "x")


LOSE_PARTS = """
import pathlib, sys
from elm_jax import errors
from elm_jax.checkpoints import experts
from tests.checkpoints import sample

folder = pathlib.Path(sys.argv[1])
for n, lost in enumerate(("params", "params/_METADATA", "params/d")):
    path = folder / str(n)
    experts.save_expert(path, sample.make_expert(), sample.make_manifest())
    (path / lost).rename(folder / f"lost_{n}")
    try:
        experts.load_expert(path)
    except errors.CheckpointError as error:
        print(f"{path / 'params'} cannot be read" in str(error))
"""


@pytest.mark.slow
def test_a_torn_expert_is_an_error(tmp_path):
    assert sample.run_script(LOSE_PARTS, tmp_path) == ["True"] * 3


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(errors.CheckpointError, match=r"(?s)/proc/nowhere.*permission"):
        experts.save_expert(
            "/proc/nowhere/x", sample.make_expert(), sample.make_manifest()
        )


@pytest.mark.slow
def test_saving_can_be_killed_at_any_moment(tmp_path):
    """Whatever folders are there after a SIGKILL load; the next save works."""
    script = (
        "import itertools, pathlib, sys\n"
        "from elm_jax.checkpoints import experts\n"
        "from tests.checkpoints import sample\n"
        "for n in itertools.count():\n"
        "    print(n, flush=True)\n"
        "    experts.save_expert(pathlib.Path(sys.argv[1]) / str(n),\n"
        "        sample.make_expert(), sample.make_manifest())\n"
    )
    root = pathlib.Path(__file__).parents[2]
    for delay_secs in (0.01, 0.04):
        folder = tmp_path / str(delay_secs)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            stdout=subprocess.PIPE,
            cwd=root,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        with process:
            assert process.stdout is not None
            while process.stdout.readline() != b"2\n":
                pass
            time.sleep(delay_secs)
            process.send_signal(signal.SIGKILL)
            process.wait()
        whole = [path for path in folder.iterdir() if not path.name.startswith(".")]
        assert len(whole) >= 2
        for path in whole:
            experts.load_expert(path)
        experts.save_expert(
            folder / "next", sample.make_expert(), sample.make_manifest()
        )
        assert not list(folder.glob(".*"))


def test_a_manifest_is_readable_without_the_tensors(tmp_path):
    experts.save_expert(tmp_path / "x", sample.make_expert(), sample.make_manifest())
    facts = json.loads((tmp_path / "x" / manifest.FILE_NAME).read_text())
    assert facts["tasks"] == ["dream_answer"]


def test_a_large_layer_is_read_without_the_rest_and_a_small_stack_at_once(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(experts, "LAYER_BYTES", 128)  # of mlp/wi_0, and no other
    params = sample.make_params()
    experts.save_expert(tmp_path / "x", params, sample.make_manifest())
    leaves, _ = streaming.open_expert(tmp_path / "x", block_bytes=1)
    rows = {name: leaf.rows for name, leaf in leaves.items()}
    assert rows.pop("encoder/layers/mlp/wi_0/kernel") == 1
    assert rows == {n: leaves[n].shape[0] for n in rows}
    read, _ = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(read) == trees.fingerprint(params)
    first = next(leaves["encoder/layers/mlp/wi_0/kernel"].blocks())
    np.testing.assert_array_equal(
        first, params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"][:1]
    )


@pytest.mark.parametrize("shape", [(3, 64, 128), (3, 128, 64), (61, 64), (64, 61)])
def test_what_is_larger_than_a_chunk_is_cut_evenly_or_not_at_all(
    tmp_path, monkeypatch, shape
):
    """Orbax would cut a prime length into single rows, each a chunk of its own."""
    monkeypatch.setattr(stores, "CHUNK_BYTES", 1 << 13)
    monkeypatch.setattr(experts, "LAYER_BYTES", 1 << 12)
    rng = np.random.default_rng(0)
    name = "encoder/layers/wi" if len(shape) > 2 else "token_embedder/embedding"
    params = {name: rng.normal(size=shape).astype(np.float32)}
    info = sample.make_manifest()
    experts.save_expert(tmp_path / "x", trees.unflatten(params), info)
    root = stores.as_url(tmp_path / "x" / experts.PARAMS)
    kvstore = {"driver": "ocdbt", "base": root, "path": f"{name.replace('/', '.')}/"}
    chunk = stores.start_open(kvstore).result().chunk_layout.read_chunk.shape
    assert all(n % part == 0 for n, part in zip(shape, chunk, strict=True))
    assert 1 << 9 <= 4 * np.prod(chunk) <= 1 << 15
    read, _ = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(read) == trees.fingerprint(trees.unflatten(params))
