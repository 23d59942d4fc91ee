import pathlib

import jax.numpy as jnp
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, starting_point, train_state
from tests.checkpoints import sample

T5X = (
    pathlib.Path(__file__).parents[1]
    / "fixtures"
    / "t5x_tiny"
    / "plain_legacy_opt"
    / "checkpoint_3"
)


@pytest.fixture
def store(tmp_path):
    return train_state.TrainStateStore(tmp_path / "states")


@pytest.fixture
def saved(tmp_path):
    base = sample.make_manifest(kind="base", name="tiny")
    experts.save_expert(tmp_path / "base", sample.make_params(), base)
    return tmp_path / "base"


def test_the_runs_own_state_comes_first(store, saved):
    store.save(4, {"a": jnp.ones(1)})
    point = starting_point.choose_starting_point(store, saved)
    assert str(point) == "the run's own newest state, step 4"
    assert (point.kind, point.step) == (starting_point.Kind.OWN_RUN, 4)


def test_a_saved_base_comes_second(store, saved):
    point = starting_point.choose_starting_point(store, str(saved))
    assert str(point) == f"a base or expert in {saved}"
    params = starting_point.load_initial_params(point, expected=sample.make_params())
    assert trees.fingerprint(params) == trees.fingerprint(sample.make_params())


def test_a_t5x_checkpoint_serves_as_well(store):
    point = starting_point.choose_starting_point(store, T5X)
    assert point.kind is starting_point.Kind.T5X
    params = starting_point.load_initial_params(point)
    assert params["token_embedder"]["embedding"].shape == (384, 32)
    with pytest.raises(errors.CheckpointError, match="missing: encoder/layers/mlp_ad"):
        starting_point.load_initial_params(point, expected=sample.make_params())


def test_scratch_comes_last(store):
    point = starting_point.choose_starting_point(store)
    assert str(point) == "scratch"


@pytest.mark.parametrize(
    ("made", "text"), [(False, "no such folder"), (True, "holds nothing")]
)
def test_an_initial_checkpoint_that_is_none_is_an_error(store, tmp_path, made, text):
    if made:
        (tmp_path / "x").mkdir()
    with pytest.raises(errors.CheckpointError, match=text):
        starting_point.choose_starting_point(store, tmp_path / "x")
