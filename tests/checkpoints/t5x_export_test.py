"""What is exported has the names, shapes, dtypes, chunks and values of T5X's files."""

import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from elm_jax import trees
from elm_jax.checkpoints import stores, t5x, t5x_export, tensors

pytestmark = pytest.mark.slow

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "t5x_tiny"
FOLDERS = ["plain_legacy_noopt", "plain_legacy_bf16", "scan_legacy_noopt"]


def export(source, folder, file_format, dtype=None):
    checkpoint = t5x.open_t5x(FIXTURES / source / "checkpoint_3")
    leaves = checkpoint.leaves()
    seen = []
    t5x_export.save(
        folder,
        leaves,
        step=checkpoint.step,
        file_format=file_format,
        dtype=np.dtype(dtype) if dtype else tensors.storage_dtype(leaves, "source"),
        on_bytes=seen.append,
    )
    assert seen == sorted(seen)
    return folder


@pytest.mark.parametrize("source", FOLDERS)
def test_a_legacy_checkpoint_comes_out_as_t5x_wrote_it(tmp_path, source):
    """The same files with the same bytes; of the msgpack, the same content."""
    ours = export(source, tmp_path / "checkpoint_3", "legacy")
    t5x_folder = FIXTURES / source / "checkpoint_3"
    names = sorted(
        p.relative_to(t5x_folder) for p in t5x_folder.rglob("*") if p.is_file()
    )
    assert names == sorted(p.relative_to(ours) for p in ours.rglob("*") if p.is_file())
    for name in names:
        written, expected = (ours / name).read_bytes(), (t5x_folder / name).read_bytes()
        if name.name == ".zarray":
            assert json.loads(written) == json.loads(expected)
        elif name.name == "checkpoint":
            restored = [
                serialization.msgpack_restore(data) for data in (written, expected)
            ]
            steps = [r["optimizer"]["state"]["step"] for r in restored]
            assert steps[0].dtype == steps[1].dtype
            assert restored[0] == restored[1]
        else:
            assert written == expected, name


@pytest.mark.parametrize("source", ["plain_legacy_noopt", "scan_legacy_noopt"])
@pytest.mark.parametrize("file_format", ["legacy", "orbax"])
def test_round_trips_are_bit_exact(tmp_path, source, file_format):
    before, step = t5x.load_t5x(FIXTURES / source / "checkpoint_3")
    folder = export(source, tmp_path / "checkpoint_3", file_format)
    after, step_after = t5x.load_t5x(folder)
    assert step_after == step == 3
    assert trees.fingerprint(after) == trees.fingerprint(before)


def without_optimizer(facts):
    return {name: fact for name, fact in facts.items() if "param_states" not in name}


def test_an_orbax_checkpoint_describes_itself_as_t5xs_do(tmp_path):
    ours = export("plain_orbax_opt", tmp_path / "checkpoint_3", "orbax")
    t5x_folder = FIXTURES / "plain_orbax_opt" / "checkpoint_3"

    def facts(folder, name):
        return json.loads((folder / name).read_text())

    def arrays(folder):
        listed = facts(folder, "state/array_metadatas/process_0")["array_metadatas"]
        return [a for a in listed if "param_states" not in str(a)]

    written, expected = (facts(f, "state/_METADATA") for f in (ours, t5x_folder))
    assert written.pop("tree_metadata") == without_optimizer(
        expected.pop("tree_metadata")
    )
    assert written == expected
    assert arrays(ours) == arrays(t5x_folder)
    keys = "item_handlers", "metrics", "performance_metrics", "custom_metadata"
    written, expected = (facts(f, "_CHECKPOINT_METADATA") for f in (ours, t5x_folder))
    assert {k: written[k] for k in keys} == {k: expected[k] for k in keys}
    assert written.keys() == expected.keys()
    top = {path.name for path in t5x_folder.iterdir()}
    assert {path.name for path in ours.iterdir()} == top

    for name in without_optimizer(
        facts(t5x_folder, "state/_METADATA")["tree_metadata"]
    ):
        path = ".".join(eval_keys(name))
        metadata = [zarray(folder, path) for folder in (ours, t5x_folder)]
        assert metadata[0] == metadata[1]


def eval_keys(text):
    return [part.strip(" '()") for part in text.split(",") if part.strip(" '()")]


def zarray(folder, path):
    root = stores.as_url(folder / "state")
    kvstore = {"driver": "ocdbt", "base": root, "path": f"{path}/"}
    return json.loads(stores.read_bytes(kvstore, ".zarray"))


def test_orbax_itself_restores_an_export(tmp_path):
    folder = export("plain_legacy_noopt", tmp_path / "checkpoint_3", "orbax")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            folder / "state",
            args=ocp.args.PyTreeRestore(
                restore_args=jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                    checkpointer.metadata(folder / "state").item_metadata.tree,
                )
            ),
        )
    weights = {n: leaf.read() for n, leaf in t5x.open_t5x(folder).plain.items()}
    for name, array in trees.flatten(restored["target"]).items():
        np.testing.assert_array_equal(array, weights[name])
    assert int(restored["state"]["step"]) == 3


def test_bfloat16_is_written_where_it_is_asked_for(tmp_path):
    folder = export("plain_legacy_noopt", tmp_path / "x", "orbax", "bfloat16")
    opened = t5x.open_t5x(folder).plain
    stored = t5x.open_t5x(FIXTURES / "plain_legacy_bf16" / "checkpoint_3").plain
    for name, tensor in opened.items():
        assert tensor.dtype.name == "bfloat16"
        np.testing.assert_array_equal(tensor.read(), stored[name].read())
