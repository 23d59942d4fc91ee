"""An expert that is written leaf by leaf is the one that is written at once."""

import os
import pathlib
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, resumable, streaming, tensors
from tests.checkpoints import sample


def save(folder, leaves, *, recipe="one", on_bytes=lambda done: None):
    return resumable.save_expert(
        folder,
        leaves,
        sample.make_manifest(),
        recipe=recipe,
        on_bytes=on_bytes,
        attached={"card.md": b"a card"},
    )


def counted(leaves, reads):
    """Leaves that count how often each is read."""

    def blocks_of(name, leaf):
        reads.append(name)
        yield from leaf.blocks()

    return {
        name: leaf._replace(blocks=lambda n=name, x=leaf: blocks_of(n, x))
        for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_it_has_the_bits_fingerprint_and_digests_of_one_in_memory(tmp_path, dtype):
    params = trees.unflatten(
        {
            **{
                n: a.astype(dtype)
                for n, a in trees.flatten(sample.make_params()).items()
            },
            "scalar": np.asarray(0.0, dtype),
        }
    )
    seen = []
    streamed = save(tmp_path / "x", sample.leaves_of(params), on_bytes=seen.append)
    experts.save_expert(tmp_path / "y", params, sample.make_manifest())
    read, info = experts.load_expert(tmp_path / "x")
    _, expected = experts.load_expert(tmp_path / "y")
    assert info == expected == streamed
    assert info.fingerprint == expected.fingerprint
    assert trees.fingerprint(read) == trees.fingerprint(params)
    opened, _ = streaming.open_expert(tmp_path / "x")
    assert trees.fingerprint(tensors.read_all(opened, dtype)) == trees.fingerprint(read)
    assert seen[-1] == trees.count_bytes(params)
    assert (tmp_path / "x" / "card.md").read_bytes() == b"a card"


KILLED = """
import os, signal, sys
from elm_jax.checkpoints import resumable, tensors
from tests.checkpoints import resumable_test, sample

def kill(done):
    if done > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

resumable._LIST_SECS = -1.0  # every leaf is listed
resumable_test.save(sys.argv[1] + "/x", sample.leaves_of(sample.make_params()),
                    on_bytes=kill)
"""


def kill(tmp_path, at):
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), f"{at}"],
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.")
    return left


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_a_killed_writer_is_gone_on_with_and_leaves_the_files_of_one_that_was_not(
    tmp_path,
):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    kill(killed, at=400)
    with pytest.raises(errors.CheckpointError):
        experts.load_expert(killed / "x")
    leaves, reads = sample.leaves_of(sample.make_params()), []
    save(killed / "x", counted(leaves, reads))
    assert reads == sorted(leaves)[3:]  # three were finished
    assert [path.name for path in killed.iterdir()] == ["x"]
    save(whole / "x", leaves)
    assert content(killed / "x") == content(whole / "x")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["other", "missing", "list"])
def test_a_finished_leaf_that_is_not_as_listed_is_written_again(tmp_path, damage):
    left = kill(tmp_path, at=400)
    leaves, reads = sample.leaves_of(sample.make_params()), []
    name = sorted(leaves)[0]
    chunk = left / "content/params" / name.replace("/", ".") / "0.0.0"
    if damage == "other":
        another_leaf = sorted(leaves)[1].replace("/", ".")
        chunk.write_bytes(
            (left / "content/params" / another_leaf / "0.0.0").read_bytes()
        )
    elif damage == "missing":
        chunk.unlink()
    else:
        (left / "content/finished.json").write_text(
            '{"leaves": {"a": "b"}, "digest": 3}'
        )
    save(tmp_path / "x", counted(leaves, reads))
    assert reads == sorted(leaves)
    read, _ = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(read) == trees.fingerprint(sample.make_params())


@pytest.mark.slow
def test_another_recipe_takes_nothing_of_what_was_left(tmp_path):
    kill(tmp_path, at=400)
    leaves, reads = sample.leaves_of(sample.make_params(1)), []
    save(tmp_path / "x", counted(leaves, reads), recipe="two")
    assert reads == sorted(leaves)
    read, _ = experts.load_expert(tmp_path / "x")
    assert trees.fingerprint(read) == trees.fingerprint(sample.make_params(1))


def test_what_a_source_says_is_told_and_nothing_is_left(tmp_path):
    leaves = sample.leaves_of(sample.make_params())
    name = sorted(leaves)[2]

    def refuse():
        yield leaves[name].blocks().__next__()[:1]
        raise errors.ConfigError(found="a", expected="b", do="c")

    with pytest.raises(errors.ConfigError, match="Found: a"):
        save(tmp_path / "x", {**leaves, name: leaves[name]._replace(blocks=refuse)})
    assert not list(tmp_path.iterdir())
    nan = np.full((7, 4), np.nan, np.float32)
    with pytest.raises(errors.CheckpointError, match="NaN"):
        save(tmp_path / "x", sample.leaves_of({"a": nan}))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(100, 100)).astype(np.float32)}
    with sample.full_disk(20_000), pytest.raises(errors.CheckpointError, match="space"):
        save(tmp_path / "x", sample.leaves_of(params))
    assert not list(tmp_path.iterdir())
