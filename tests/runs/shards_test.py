"""Shards of a list of experts: disjoint, complete, even, and the same every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elm_jax import errors
from elm_jax.cli import gin_flags
from elm_jax.runs import shards, train

NAMES = st.lists(st.text(min_size=1), unique=True)


@given(NAMES, st.integers(1, 40))
def test_the_shards_are_disjoint_complete_and_even(names, count):
    parts = [shards.parse(f"{i}/{count}").choose(names) for i in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(NAMES, st.randoms())
def test_the_order_of_the_list_does_not_change_a_shard(names, random):
    mixed = random.sample(names, len(names))
    shard = shards.parse("1/3")
    assert shard.choose(mixed) == shard.choose(names)


def test_no_shard_means_everything():
    assert shards.parse("").choose(["b", "a"]) == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["4/4", "1/0", "0/0", "-1/4", "1", "1/", "/4", "a/b", "1/2/3", "0 / 4"]
)
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(errors.ConfigError, match="the first shard is 0"):
        shards.parse(text)


def build(shard):
    run, _, _ = gin_flags.build_run(
        (train.Train,),
        gin_files=["gin/pocket/prompt_experts.gin"],
        bindings=["MODEL_DIR = 'anywhere'", f"SHARD = '{shard}'"],
    )
    return run


def test_a_wrong_shard_is_an_error_of_the_configuration():
    with pytest.raises(errors.ConfigError, match="shard = '9/4'"):
        build("9/4")


@pytest.mark.parametrize("kind", ["prompt_experts", "dataset_experts"])
def test_a_gin_file_that_trains_many_experts_takes_a_shard(kind):
    run, _, _ = gin_flags.build_run(
        (train.Train,),
        gin_files=[f"gin/pocket/{kind}.gin"],
        bindings=["MODEL_DIR = 'anywhere'", "SHARD = '1/4'"],
    )
    assert run.shard == "1/4"


def test_shards_need_locks_to_share_a_file_or_files_of_their_own(tmp_path, monkeypatch):
    shared = tmp_path / "not yet" / "results.jsonl"
    own_file = tmp_path / "results_1_of_4.jsonl"
    shards.check_file(shards.Shard(1, 4), shared)

    def refuse(_):
        raise NotImplementedError("no locks")

    monkeypatch.setattr(shards.locks, "try_take", refuse)
    shards.check_file(shards.WHOLE, shared)
    shards.check_file(shards.Shard(1, 4), own_file)
    with pytest.raises(errors.ConfigError, match=r"results_1_of_4\.jsonl"):
        shards.check_file(shards.Shard(1, 4), shared)
