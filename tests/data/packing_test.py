import collections

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import packing, shapes, tasks
from tests.data import batch_tokens

FEATURES = tasks.Features(inputs_length=256, targets_length=64)
ROW = shapes.Lengths(256, 64)


def segments_of(batch):
    """Pairs of inputs and targets as tuples, taken apart by segment ids."""
    pairs = []
    for row in range(len(batch["encoder_input_tokens"])):
        sides = []
        for side, tokens in (
            ("encoder", batch["encoder_input_tokens"][row]),
            ("decoder", batch["decoder_target_tokens"][row]),
        ):
            ids = batch[f"{side}_segment_ids"][row]
            sides.append({i: tuple(tokens[ids == i]) for i in range(1, ids.max() + 1)})
        assert sides[0].keys() == sides[1].keys()
        pairs += [(sides[0][i], sides[1][i]) for i in sides[0]]
    return pairs


def epoch_of(source, epoch):
    count = source.num_batches_per_epoch
    return [source.batch(epoch * count + i) for i in range(count)]


@pytest.fixture
def packed(natural_dataset):
    return packing.PackedBatches([natural_dataset(700)], batch_size=8, row=ROW, seed=1)


def test_an_epoch_has_every_example_once_and_whole(natural_dataset, packed):
    expected = [(tuple(e.inputs), tuple(e.targets)) for e in natural_dataset(700)]
    for epoch in range(2):
        seen = [s for batch in epoch_of(packed, epoch) for s in segments_of(batch)]
        assert collections.Counter(seen) == collections.Counter(expected)


def lengths_of(dataset):
    columns = dataset.columns
    return np.stack([columns.inputs.lengths, columns.targets.lengths], axis=1)


def test_a_row_chosen_by_the_data_wastes_little(natural_dataset):
    dataset = natural_dataset(700)
    row = packing.choose_row(lengths_of(dataset), FEATURES)
    assert row.inputs_length in (256, 512)
    source = packing.PackedBatches([dataset], batch_size=8, row=row, seed=1)
    assert batch_tokens.real_share(source) > 0.9
    assert batch_tokens.num_real(source) == lengths_of(dataset).sum()


@pytest.mark.parametrize("longest", [1, 63, 64])
def test_a_chosen_row_has_room_for_every_example(longest):
    lengths = np.array([[256, 2], [3, longest]] * 5)
    row = packing.choose_row(lengths, FEATURES)
    assert (lengths <= np.array(row)).all()
    assert sorted(sum(packing.pack(lengths, row, seed=0), [])) == list(range(10))


def test_examples_without_targets_are_packed():
    rows = packing.pack(np.array([[4, 0]] * 5), shapes.Lengths(8, 4), seed=0)
    assert sorted(map(len, rows)) == [1, 2, 2]


def test_segments_do_not_see_each_other(packed):
    batch = packed.batch(0)
    for side in ("encoder", "decoder"):
        ids, positions = batch[f"{side}_segment_ids"], batch[f"{side}_positions"]
        starts = (ids > 0) & (np.diff(ids, axis=1, prepend=0) > 0)
        assert not positions[starts].any()
        inside = (ids > 0) & ~starts
        np.testing.assert_array_equal(
            positions[inside], np.roll(positions, 1, axis=1)[inside] + 1
        )
    starts = np.diff(batch["decoder_segment_ids"], axis=1, prepend=0) > 0
    assert not batch["decoder_input_tokens"][starts].any()


def test_batches_depend_on_seed_and_step_alone(natural_dataset, packed):
    again = packing.PackedBatches([natural_dataset(700)], batch_size=8, row=ROW, seed=1)
    for step in (9, 0, 30):
        first, second = packed.batch(step), again.batch(step)
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_shards_together_are_the_whole_batch(natural_dataset, packed):
    parts = [
        packing.PackedBatches(
            [natural_dataset(700)],
            batch_size=8,
            row=ROW,
            seed=1,
            batch_part=(i, 2),
        )
        for i in range(2)
    ]
    whole, part_batches = packed.batch(5), [part.batch(5) for part in parts]
    for name, array in whole.items():
        np.testing.assert_array_equal(
            np.concatenate([m[name] for m in part_batches]), array
        )


def test_an_example_longer_than_a_row_is_an_error(natural_dataset):
    short = shapes.Lengths(16, 64)
    with pytest.raises(errors.ConfigError, match="room in one of the shapes"):
        packing.PackedBatches([natural_dataset(50)], batch_size=8, row=short, seed=1)
