import collections

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import batches
from tests.data import batch_tokens


def examples_of(batch):
    """Pairs of inputs and targets as tuples, padding rows left out."""
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    return [
        (tuple(row[row > 0]), tuple(target[target > 0]))
        for row, target in zip(inputs, targets, strict=True)
        if row.any()
    ]


def epoch_of(source, epoch):
    count = source.num_batches_per_epoch
    return [source.batch(epoch * count + i) for i in range(count)]


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize(("num_examples", "batch_size"), [(1, 4), (64, 16), (203, 16)])
def test_an_epoch_has_every_example_once(natural_dataset, num_examples, batch_size):
    dataset = natural_dataset(num_examples)
    source = batches.Batches([dataset], batch_size=batch_size, seed=3)
    for epoch in range(3):
        seen = [e for batch in epoch_of(source, epoch) for e in examples_of(batch)]
        expected = [(tuple(e.inputs), tuple(e.targets)) for e in dataset]
        assert collections.Counter(seen) == collections.Counter(expected)


def test_batches_depend_on_seed_and_step_alone(natural_dataset):
    source = batches.Batches([natural_dataset(100)], batch_size=8, seed=5)
    of_same_seed = batches.Batches([natural_dataset(100)], batch_size=8, seed=5)
    steps = [40, 3, 3, 17, 0]
    forward = {step: source.batch(step) for step in sorted(steps)}
    assert all(same(of_same_seed.batch(step), forward[step]) for step in steps)
    third = batches.Batches([natural_dataset(100)], batch_size=8, seed=6)
    assert not all(same(third.batch(step), forward[step]) for step in steps)


def test_epochs_differ_in_order(natural_dataset):
    source = batches.Batches([natural_dataset(100)], batch_size=8, seed=5)
    first, second = epoch_of(source, 0), epoch_of(source, 1)
    assert not all(same(a, b) for a, b in zip(first, second, strict=True))


def test_shapes_are_the_announced_ones(natural_dataset):
    source = batches.Batches([natural_dataset(300)], batch_size=8, seed=0, num_shapes=4)
    shapes_made = {
        (b["encoder_input_tokens"].shape, b["decoder_target_tokens"].shape)
        for b in epoch_of(source, 0)
    }
    assert len(source.shapes) <= 4
    assert shapes_made <= {((8, s), (8, t)) for s, t in source.shapes}


def test_no_token_is_lost_and_few_shapes_waste_little(natural_dataset):
    dataset = natural_dataset(3000)
    of_one_shape, of_many = (
        batches.Batches([dataset], batch_size=16, seed=0, num_shapes=n) for n in (1, 16)
    )
    real = sum(len(e.inputs) + len(e.targets) for e in dataset)
    assert batch_tokens.num_real(of_many) == batch_tokens.num_real(of_one_shape) == real
    assert batch_tokens.real_share(of_one_shape) < 0.4
    assert batch_tokens.real_share(of_many) > 0.85


def test_padding_has_no_loss_and_decoder_inputs_are_shifted(natural_dataset):
    source = batches.Batches([natural_dataset(30)], batch_size=16, seed=0)
    for batch in epoch_of(source, 0):
        targets = batch["decoder_target_tokens"]
        weights = batch["decoder_loss_weights"]
        assert weights.dtype == np.float32
        np.testing.assert_array_equal(weights, targets > 0)
        shifted = batch["decoder_input_tokens"]
        np.testing.assert_array_equal(shifted[:, 1:], targets[:, :-1])
        assert not shifted[:, 0].any()


def test_shards_together_are_the_whole_batch(natural_dataset):
    dataset = natural_dataset(90)
    whole = batches.Batches([dataset], batch_size=8, seed=1)
    parts = [
        batches.Batches([dataset], batch_size=8, seed=1, batch_part=(i, 4))
        for i in range(4)
    ]
    for step in range(15):
        part_batches = [part.batch(step) for part in parts]
        joined = {
            name: np.concatenate([m[name] for m in part_batches])
            for name in part_batches[0]
        }
        assert same(joined, whole.batch(step))


def test_a_cap_gives_the_same_random_subset_in_any_mixture(natural_dataset):
    capped, beside = (
        natural_dataset(50, name="a"),
        natural_dataset(70, name="b", seed=1),
    )
    alone = batches.Batches([capped], batch_size=4, seed=2, max_examples=20)
    mixed = batches.Batches([beside, capped], batch_size=4, seed=2, max_examples=20)
    subset = {e for b in epoch_of(alone, 0) for e in examples_of(b)}
    union = [e for b in epoch_of(mixed, 0) for e in examples_of(b)]
    assert len(subset) == 20
    assert len(union) == 40
    assert subset <= set(union)
    first = {(tuple(e.inputs), tuple(e.targets)) for e in capped[:20]}
    assert subset != first


def test_plain_text_is_refused(make_dataset):
    text = make_dataset([], [[5, 6, 7]], text=True)
    with pytest.raises(errors.DataError, match="span corruption"):
        batches.Batches([text], batch_size=2, seed=0)
    with pytest.raises(errors.DataError, match="no datasets"):
        batches.Batches([], batch_size=2, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"seed": -1}, {"batch_part": (0, 3)}, {"batch_part": (4, 4)}],
)
def test_impossible_sizes_are_refused(natural_dataset, wrong):
    options = {"batch_size": 4, "seed": 0, "batch_part": (0, 1)} | wrong
    with pytest.raises(errors.ConfigError, match="batch_size="):
        batches.Batches([natural_dataset(4)], **options)
