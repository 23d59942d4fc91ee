import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import train_state
from tests.checkpoints import sample

CONFIG = {"optimizer": {"rate": 0.1, "eps": 1e-8}, "tasks": ("a", "b"), "seed": 1}


def make_state(seed=0):
    """Parameters, an Optax state (named tuples, empty ones), a step and a key."""
    params = jax.tree.map(jnp.asarray, sample.make_params(seed))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    key = jax.random.key_data(jax.random.key(seed))
    return (params, tx.init(params), jnp.int32(seed), {"rng": key, "none": None})


def make_store(tmp_path, **kwargs):
    return train_state.TrainStateStore(
        tmp_path / "states", **({"config": CONFIG} | kwargs)
    )


def save_one(store, step, state):
    store.save(step, state)
    store.close()


def assert_same_bits(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_state_comes_back_bit_for_bit_in_another_store(tmp_path):
    store = make_store(tmp_path)
    store.save(3, make_state(3))
    store.close()
    again = make_store(tmp_path)
    assert again.latest_step() == 3
    restored = again.restore(make_state(0))
    assert_same_bits(restored, make_state(3))
    assert isinstance(restored[2], jax.Array)


def test_an_empty_store_has_no_state_and_makes_no_folder(tmp_path):
    store = make_store(tmp_path)
    assert store.latest_step() is None
    assert store.restore(make_state()) is None
    store.close()
    assert not list(tmp_path.iterdir())


def test_sums_of_metrics_come_back_with_the_newest_state(tmp_path):
    store = make_store(tmp_path)
    assert store.read_sums() is None
    sums = {"loss": 0.1 + 0.2, "num_steps": 3.0}
    store.save(3, make_state(3), sums)
    assert store.read_sums() == sums
    store.save(4, make_state(4))
    store.close()
    assert make_store(tmp_path).read_sums() == {}


def test_a_state_of_release_0_1_has_no_sums(tmp_path):
    save_one(make_store(tmp_path), 3, make_state(3))
    shutil.rmtree(tmp_path / "states" / "3" / "sums")
    store = make_store(tmp_path)
    assert store.read_sums() is None
    assert_same_bits(store.restore(make_state()), make_state(3))


@pytest.mark.parametrize("content", ["{", "[1]", '{"loss": "x"}', '{"loss": NaN}'])
def test_sums_that_were_damaged_say_what_to_remove(tmp_path, content):
    save_one(make_store(tmp_path), 3, make_state(3))
    folder = tmp_path / "states" / "3"
    path = folder / "sums" / "metadata"
    assert path.is_file()
    path.write_text(content)
    with pytest.raises(errors.CheckpointError, match=f"Remove {folder}"):
        make_store(tmp_path).read_sums()


def test_the_last_good_state_is_named_with_those_to_remove(tmp_path):
    store = make_store(tmp_path, keep_last=3)
    assert store.name_last_good(9) == "none was saved"
    for step in (2, 4, 6):
        store.save(step, make_state(step))
    folder = tmp_path / "states"
    assert store.name_last_good(6) == "6"
    assert store.name_last_good(5) == f"4; remove {folder}/6 to go on from it"
    message = f"none was saved; remove {folder}/2, {folder}/4, {folder}/6 to begin anew"
    assert store.name_last_good(1) == message


@pytest.mark.slow
def test_only_the_newest_states_are_kept(tmp_path):
    store = make_store(tmp_path, keep_last=2)
    for step in (1, 2, 3, 4):
        store.save(step, make_state(step))
    store.close()
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["3", "4"]
    assert_same_bits(make_store(tmp_path).restore(make_state()), make_state(4))


@pytest.mark.slow
def test_every_kth_state_is_kept_as_well(tmp_path):
    store = make_store(tmp_path, keep_last=2, keep_every_steps=4)
    for step in range(2, 15, 2):
        store.save(step, {"a": jnp.full(3, step)})
    store.close()
    saved_steps = {int(p.name) for p in (tmp_path / "states").iterdir()}
    assert saved_steps == {4, 8, 12, 14}


def test_a_state_is_whole_although_the_training_goes_on_in_its_memory(tmp_path):
    """Saved while its buffers are donated, step after step, as the train loop does."""
    next_one = jax.jit(lambda a: a * 1.5 + 1, donate_argnums=0)
    size = (1024, 1024)  # 4 MB, so that writing takes longer than some steps
    now, store = jnp.ones(size), make_store(tmp_path, keep_last=9)
    expected = {}
    for step in range(12):
        if step % 4 == 0:
            expected[step] = np.array(now)
            store.save(step, {"a": now})
        now = next_one(now)
    now.block_until_ready()
    store.close()
    for step, values in expected.items():
        store = make_store(tmp_path / f"{step}")
        (tmp_path / f"{step}" / "states").mkdir(parents=True)
        (tmp_path / "states" / str(step)).rename(
            tmp_path / f"{step}" / "states" / str(step)
        )
        restored = store.restore({"a": jnp.zeros(size)})
        assert np.asarray(restored["a"]).tobytes() == values.tobytes()


@pytest.mark.slow
def test_training_goes_on_while_a_state_is_written(tmp_path):
    values = np.random.default_rng(0).normal(size=(4096, 4096)).astype(np.float32)
    store = make_store(tmp_path)
    store.save(1, {"a": jnp.asarray(values)})  # 64 MB that do not compress
    assert not (tmp_path / "states" / "1").exists()
    store.wait()
    assert (tmp_path / "states" / "1").is_dir()
    store.close()


def test_a_state_counts_only_when_it_is_on_disk(tmp_path):
    """`latest_step` waits: another reader of the folder finds the same."""
    store = make_store(tmp_path)
    for step in (1, 2):
        store.save(step, {"a": jnp.ones((512, 512))})
        assert store.latest_step() == step
        assert make_store(tmp_path).latest_step() == step
    store.close()


def test_a_sharded_state_comes_back_sharded(tmp_path):
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    state = {"a": jax.device_put(jnp.arange(16.0), sharding)}
    store = make_store(tmp_path)
    store.save(1, state)
    restored = store.restore({"a": jax.device_put(jnp.zeros(16), sharding)})
    assert restored["a"].sharding == sharding
    assert_same_bits(restored, state)


def test_a_changed_configuration_is_refused_by_name(tmp_path):
    save_one(make_store(tmp_path), 1, make_state())
    changed = {"optimizer": {"rate": 0.2, "eps": 1e-8}, "tasks": ["a", "b"], "steps": 7}
    store = make_store(tmp_path, config=changed)
    with pytest.raises(errors.CheckpointError) as caught:
        store.restore(make_state())
    message = str(caught.value)
    assert "optimizer/rate: 0.1 before, 0.2 now" in message
    assert "seed: 1 before, None now" in message
    assert "steps: None before, 7 now" in message
    assert "tasks" not in message
    assert "optimizer/eps" not in message
    assert_same_bits(
        store.restore(make_state(), allow_changed_config=True), make_state()
    )


def test_what_a_killed_save_left_behind_is_removed(tmp_path):
    save_one(make_store(tmp_path), 1, make_state())
    left_over = tmp_path / "states" / "2.orbax-checkpoint-tmp"
    (left_over / "state").mkdir(parents=True)
    store = make_store(tmp_path)
    assert store.latest_step() == 1
    save_one(store, 3, make_state())
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["3"]


def test_another_models_state_is_refused_with_all_differences(tmp_path):
    save_one(make_store(tmp_path), 1, {"a": jnp.zeros(2), "b": {"c": jnp.zeros(3)}})
    with pytest.raises(errors.CheckpointError) as caught:
        make_store(tmp_path).restore({"a": jnp.zeros(5), "d": jnp.zeros(1)})
    message = str(caught.value)
    assert "missing: d; extra: b/c; misshapen: a (2,) instead of (5,)" in message


FULL_DISK = """
import pathlib, sys
import jax.numpy as jnp
from elm_jax import errors
from elm_jax.checkpoints import train_state
from tests.checkpoints import sample

folder, verb = pathlib.Path(sys.argv[1]), sys.argv[2]
store = train_state.TrainStateStore(folder, keep_last=1)
store.save(1, {"a": jnp.ones(3)})
store.wait()
with sample.full_disk(50):
    try:
        store.save(2, {"a": jnp.zeros(3)})
        if verb == "save":
            store.save(3, {"a": jnp.zeros(3)})
        getattr(store, verb)()
    except errors.CheckpointError as error:
        print("Free space" in str(error), [path.name for path in folder.iterdir()])
print(store.latest_step(), store.restore({"a": jnp.zeros(3)})["a"].tolist())
store.save(2, {"a": jnp.zeros(3)})
store.close()
print([path.name for path in folder.iterdir()])
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["save", "close"])
def test_a_full_disk_leaves_the_state_before_and_nothing_else(tmp_path, verb):
    lines = sample.run_script(FULL_DISK, tmp_path / "states", verb)
    assert lines == ["True ['1']", "1 [1.0, 1.0, 1.0]", "['2']"]


LOSE_DATA = """
import pathlib, sys
import jax.numpy as jnp
from elm_jax import errors
from elm_jax.checkpoints import train_state

folder = pathlib.Path(sys.argv[1])
store = train_state.TrainStateStore(folder)
store.save(5, {"a": jnp.ones(3)})
store.close()
(folder / "5" / "state" / "d").rename(folder / "lost")
try:
    train_state.TrainStateStore(folder).restore({"a": jnp.ones(3)})
except errors.CheckpointError as error:
    print(f"Remove {folder / '5'}" in str(error))
"""


@pytest.mark.slow
def test_a_torn_state_says_what_to_remove(tmp_path):
    assert sample.run_script(LOSE_DATA, tmp_path / "states") == ["True"]


def test_a_folder_that_cannot_be_written_is_named():
    store = train_state.TrainStateStore("/proc/nowhere/states")
    with pytest.raises(errors.CheckpointError, match="/proc/nowhere"):
        store.save(1, make_state())


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match="keep_last = 0"):
        make_store(tmp_path, keep_last=0)


def test_parameters_lie_under_their_names(tmp_path):
    named = train_state._name_leaves(make_state())
    params = trees.flatten(sample.make_params())
    assert [n for n in named if n.startswith("0/")] == [f"0/{n}" for n in params]


def test_a_state_of_other_values_than_were_saved_is_refused_with_their_names(tmp_path):
    save_one(make_store(tmp_path), 3, make_state(3))
    another_store = make_store(tmp_path / "other")
    save_one(another_store, 3, make_state(4))
    saved = tmp_path / "states" / "3" / "state"
    shutil.rmtree(saved)
    shutil.copytree(tmp_path / "other" / "states" / "3" / "state", saved)
    with pytest.raises(errors.CheckpointError, match="(?s)other values.*Remove") as e:
        make_store(tmp_path).restore(make_state())
    message = str(e.value).splitlines()[0].removesuffix(".")
    names = {*message.rpartition(": ")[2].split(", ")}
    assert names == {
        name
        for name, leaf in train_state._name_leaves(make_state(3)).items()
        if not np.array_equal(leaf, train_state._name_leaves(make_state(4))[name])
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_no_flipped_bit_of_a_state_is_believed(tmp_path):
    save_one(make_store(tmp_path), 3, make_state(3))
    state = tmp_path / "states" / "3" / "state"
    file = max(
        state.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size
    )
    content = file.read_bytes()
    refused = 0
    for place in range(0, 8 * len(content), 8 * len(content) // 24):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            restored = make_store(tmp_path).restore(make_state())
        except errors.CheckpointError:
            refused += 1
        else:  # a byte between the values
            assert_same_bits(restored, make_state(3))
    assert refused


def test_a_state_without_checksums_of_release_0_1_is_restored(tmp_path):
    save_one(make_store(tmp_path), 3, make_state(3))
    shutil.rmtree(tmp_path / "states" / "3" / "checksums")
    assert_same_bits(make_store(tmp_path).restore(make_state()), make_state(3))
