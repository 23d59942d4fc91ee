import hypothesis
import numpy as np
from hypothesis import strategies as st

from elm_jax.evaluation import batching


@hypothesis.given(st.integers(0, 5000), st.sampled_from([2, 4, 32]))
def test_a_size_rounds_up_to_less_than_half_of_waste(size, least):
    rounded = batching.round_up(size, least=least)
    assert rounded >= size
    assert rounded == least or rounded < 1.5 * size


def test_sizes_up_to_1024_have_few_static_shapes():
    assert len({batching.round_up(n, least=32) for n in range(1025)}) == 11


@hypothesis.given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 7))
def test_batches_hold_every_position_and_only_repeat_the_last(keys, batch_size):
    batches = batching.cut(keys, batch_size)
    assert {len(batch) for batch in batches} == {batch_size}
    flat = np.concatenate(batches).tolist()
    assert sorted(flat[: len(keys)]) == list(range(len(keys)))
    assert set(flat[len(keys) :]) <= {flat[len(keys) - 1]}
    assert [keys[i] for i in flat[: len(keys)]] == sorted(keys)


def test_a_result_is_read_after_the_next_batch_is_dispatched():
    log = []

    class Result:
        def __init__(self, name):
            self.name = name

        def __array__(self, dtype=None, copy=None):
            log.append(f"read {self.name}")
            return np.zeros(1)

    def fn(batch):
        log.append(f"dispatch {batch}")
        return Result(batch)

    batches = [np.array([0]), np.array([1])]
    outcomes = batching.run(fn, batches, lambda b: (b[0],), total=2, progress=None)
    assert [position for position, _ in outcomes] == [0, 1]
    assert log == ["dispatch 0", "dispatch 1", "read 0", "read 1"]


def test_progress_ends_at_the_total_even_if_the_last_batch_is_filled_up():
    seen = []
    batches = batching.cut([0, 1, 2], 2)
    results = batching.run(
        lambda b: b,
        batches,
        lambda b: (b,),
        total=3,
        progress=lambda *now: seen.append(now),
    )
    assert len(list(results)) == 4
    assert seen == [(2, 3), (3, 3)]
