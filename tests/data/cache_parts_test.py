import itertools
import pathlib

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import cache_parts, sources, tasks, token_store
from tests.data.conftest import PROMPT, colour_rows

FEATURES = tasks.Features(inputs_length=30, targets_length=8)


@pytest.fixture
def job(vocab, tmp_path):
    def make(name, start=0, template=PROMPT):
        return cache_parts.PartJob(
            *(tmp_path / name, start, "train", template, "", vocab, FEATURES)
        )

    return make


def test_rows_are_dealt_out_by_place():
    rows = ({"i": i} for i in range(2 * cache_parts.PART_ROWS + 3))
    dealt = list(cache_parts.deal(rows))
    assert [start for start, _ in dealt] == [
        0,
        cache_parts.PART_ROWS,
        2 * cache_parts.PART_ROWS,
    ]
    assert [row["i"] for _, some in dealt for row in some] == list(
        range(2 * cache_parts.PART_ROWS + 3)
    )
    assert list(cache_parts.deal(iter(()))) == []


def test_shards_joined_are_the_shard_of_all_rows(job):
    rows = [*colour_rows("train"), sources.Skipped("why"), {"text": "no choices"}]
    cache_parts.build(job("whole"), rows)
    for number, cut in enumerate(itertools.pairwise([0, 10, 11, 40, len(rows)])):
        cache_parts.build(job(f"part{number}", start=cut[0]), rows[slice(*cut)])
    whole = cache_parts.read(job("whole").folder)
    parts = [cache_parts.read(job(f"part{number}").folder) for number in range(4)]
    expected = whole.columns.arrays()
    joined = cache_parts.joined(parts)
    assert joined.keys() == expected.keys()
    for name, pieces in joined.items():
        np.testing.assert_array_equal(cache_parts.concatenated(pieces), expected[name])
    assert sum(part.num_rows for part in parts) == whole.num_rows == 62
    assert whole.dropped == {"skipped: why": 1, "bad: missing field": 1}
    assert whole.first_bad == parts[3].first_bad
    assert "row 61" in whole.first_bad["bad: missing field"]
    pieces = {name: [array] for name, array in expected.items()}
    assert cache_parts.fingerprint(joined) == cache_parts.fingerprint(pieces)
    # As before there was this column, so that earlier results and states stay known.
    assert cache_parts.fingerprint(joined) == cache_parts.fingerprint(
        {name: array for name, array in pieces.items() if name != "inputs_cut"}
    )
    assert whole.lengths["inputs"].max() > 30
    assert whole.columns.inputs.lengths.max() == 30


def test_a_shard_without_examples_joins_too(job):
    cache_parts.build(job("some"), list(colour_rows("train"))[:3])
    cache_parts.build(job("none", start=3), [sources.Skipped("why")])
    parts = [cache_parts.read(job(name).folder) for name in ("some", "none")]
    arrays = {
        n: cache_parts.concatenated(p) for n, p in cache_parts.joined(parts).items()
    }
    columns = token_store.Columns.from_arrays(arrays)
    assert len(columns.labels) == 3
    assert columns.choices_of[-1] == len(columns.choices.lengths)


def test_a_place_that_cannot_be_written_is_told(vocab):
    folder = pathlib.Path("/proc/none")
    bad = cache_parts.PartJob(folder, 0, "train", PROMPT, "", vocab, FEATURES)
    with pytest.raises(errors.DataError, match="cannot be written"):
        cache_parts.build(bad, list(colour_rows("train")))
