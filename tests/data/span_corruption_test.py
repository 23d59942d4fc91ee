import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import span_corruption, tasks, vocabulary

FEATURES = tasks.Features(inputs_length=64, targets_length=32)


@pytest.fixture
def documents(make_dataset):
    """Documents of 1 to 90 tokens; each token occurs once in the whole text."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.integers(1, 90, 100))
    starts = np.concatenate([[0], ends[:-1]])
    rows = [list(range(1000 + a, 1000 + b)) for a, b in zip(starts, ends, strict=True)]
    return make_dataset([], rows, text=True)


@pytest.fixture
def source(documents, vocab):
    return span_corruption.SpanCorruptionBatches(
        [documents], batch_size=8, features=FEATURES, vocabulary=vocab, seed=4
    )


def restored(inputs, targets, vocab):
    """Puts the target's spans back where their sentinels stand in the inputs."""
    lowest = vocab.sentinel_id(vocab.extra_ids - 1)
    spans, current = {}, None
    for token in targets[:-1]:
        if lowest <= token < vocab.size:
            current = spans.setdefault(int(token), [])
        else:
            current.append(int(token))
    out = []
    for token in inputs[:-1]:
        out += spans[int(token)] if int(token) in spans else [int(token)]
    return out


def test_inputs_and_targets_together_are_the_text(source, vocab, documents):
    text = documents.columns.targets.values
    following = dict(zip(text[:-1], text[1:], strict=True))
    within = set(text[documents.columns.targets.offsets[1:] - 1])
    batch = source.batch(0)
    for inputs, targets in zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    ):
        chunk = restored(inputs, targets, vocab)
        assert len(chunk) == span_corruption.chunk_length(FEATURES)
        for token, next_token in zip(chunk[:-1], chunk[1:], strict=True):
            assert token in within or following[token] == next_token


def test_batches_are_the_same_with_sentinels_that_the_file_brings(
    source, documents, bring_sentinels, tmp_path
):
    path = bring_sentinels(tmp_path / "own.model", reversed(range(100)))
    for extra_ids in (100, 0):
        with_sentinels = span_corruption.SpanCorruptionBatches(
            [documents],
            batch_size=8,
            features=FEATURES,
            vocabulary=vocabulary.SentencePiece(path, extra_ids),
            seed=4,
        )
        jax.tree.map(
            np.testing.assert_array_equal, with_sentinels.batch(0), source.batch(0)
        )


def test_there_is_no_padding_and_one_shape(source):
    for step in range(5):
        batch = source.batch(step)
        assert (batch["encoder_input_tokens"] > 0).all()
        assert batch["decoder_loss_weights"].all()
        assert batch["encoder_input_tokens"].shape == (8, source.shapes[0][0])
        assert batch["decoder_target_tokens"].shape == (8, source.shapes[0][1])


def test_an_epoch_repeats_no_token(source, vocab):
    seen = []
    for step in range(source.num_batches_per_epoch - 1):
        batch = source.batch(step)
        for pair in zip(
            batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
        ):
            seen += restored(*pair, vocab)
    assert len(seen) == len(set(seen))


def test_batches_depend_on_seed_and_step_alone(source, documents, vocab):
    again = span_corruption.SpanCorruptionBatches(
        [documents], batch_size=8, features=FEATURES, vocabulary=vocab, seed=4
    )
    for step in (30, 2, 11):
        first, second = source.batch(step), again.batch(step)
        assert all(np.array_equal(first[name], second[name]) for name in first)
    later = source.batch(source.num_batches_per_epoch)["encoder_input_tokens"]
    assert not np.array_equal(later, source.batch(0)["encoder_input_tokens"])


def test_shards_together_are_the_whole_batch(source, documents, vocab):
    parts = [
        span_corruption.SpanCorruptionBatches(
            [documents],
            batch_size=8,
            features=FEATURES,
            vocabulary=vocab,
            seed=4,
            batch_part=(i, 2),
        )
        for i in range(2)
    ]
    part_batches = [part.batch(7) for part in parts]
    for name, array in source.batch(7).items():
        np.testing.assert_array_equal(
            np.concatenate([m[name] for m in part_batches]), array
        )


@hypothesis.given(st.integers(16, 600), st.integers(8, 200))
def test_the_longest_chunk_is_chosen_that_fits(inputs_length, targets_length):
    features = tasks.Features(inputs_length, targets_length)
    length = span_corruption.chunk_length(features)
    rng = np.random.default_rng(0)
    noise, spans = round(length * 0.15), max(round(round(length * 0.15) / 3), 1)
    mask = span_corruption.noise_mask(length, max(noise, 1), spans, rng=rng)
    inputs, targets = span_corruption.corrupt(
        np.arange(5, 5 + length), mask, first_sentinel=9999
    )
    assert len(inputs) <= inputs_length
    assert len(targets) <= targets_length


def test_t5_lengths_are_t5s():
    # T5 trains on 512 inputs with 568 tokens of text and 114 targets.
    assert span_corruption.chunk_length(tasks.Features(512, 114)) == 568


@hypothesis.given(st.integers(2, 300), st.data())
def test_a_mask_has_the_asked_for_tokens_and_spans(length, data):
    num_noise = data.draw(st.integers(1, length - 1))
    num_spans = data.draw(st.integers(1, min(num_noise, length - num_noise)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = span_corruption.noise_mask(length, num_noise, num_spans, rng=rng)
    assert mask.shape == (length,)
    assert mask.sum() == num_noise
    assert (np.diff(mask.astype(int), prepend=0) == 1).sum() == num_spans
    assert not mask[0]


def test_too_few_sentinels_are_told(documents, vocab):
    few = vocabulary.SentencePiece(vocab.path, extra_ids=1)
    with pytest.raises(errors.ConfigError, match="sentinel"):
        span_corruption.SpanCorruptionBatches(
            [documents], batch_size=8, features=FEATURES, vocabulary=few, seed=4
        )


def test_too_little_text_is_told(make_dataset, vocab):
    with pytest.raises(errors.DataError, match="3 tokens of text"):
        span_corruption.SpanCorruptionBatches(
            [make_dataset([], [[7, 8, 9]], text=True)],
            batch_size=8,
            features=FEATURES,
            vocabulary=vocab,
            seed=4,
        )


@pytest.mark.parametrize("wrong", [{"noise_density": 1.0}, {"mean_span_length": 0.5}])
def test_shares_out_of_range_are_refused(wrong):
    with pytest.raises(errors.ConfigError, match="noise_density"):
        span_corruption.chunk_length(FEATURES, **wrong)


@pytest.fixture
def asking(make_dataset):
    """Rows with inputs of 1 to 40 tokens and an end token."""
    rng = np.random.default_rng(1)
    rows = [[*rng.integers(3, 40, length), 1] for length in range(1, 41)]
    return make_dataset(rows, [[7, 1]] * 40)


def test_missing_spans_are_those_of_the_rows_inputs(asking, vocab):
    examples = span_corruption.missing_spans(
        asking, range(40), vocabulary=vocab, seed=3
    )
    # Those of two tokens or more.
    assert [example.example_id for example in examples] == [*range(1, 40)]
    for example in examples:
        tokens = asking[example.example_id].inputs[:-1].tolist()
        (spans,) = example.choices
        assert restored(example.inputs, spans, vocab) == tokens
        assert (example.inputs[-1], spans[-1]) == (1, 1)
        np.testing.assert_array_equal(example.targets, spans)
        num_spans = sum(token >= vocab.sentinel_id(99) for token in spans)
        assert len(spans) - 1 - num_spans == max(round(0.15 * len(tokens)), 1)


def test_missing_spans_of_a_row_hang_on_its_place_and_the_seed_alone(asking, vocab):
    def spans_of(rows, seed):
        dataset = span_corruption.missing_spans(
            asking, rows, vocabulary=vocab, seed=seed
        )
        spans = {x.example_id: x.inputs.tolist() for x in dataset}
        return spans, dataset.fingerprint

    (spans, mark), (few, other_mark) = spans_of([30, 35, 39], 0), spans_of([39, 35], 0)
    assert {row: spans[row] for row in few} == few
    assert mark != other_mark
    again, another_mark = spans_of([30, 35, 39], 1)
    assert again != spans
    assert another_mark != mark


def test_other_sentinels_or_other_random_numbers_are_other_rows(
    asking, vocab, monkeypatch
):
    def mark(**changes):
        pieces = dataclasses.replace(vocab, **changes)
        dataset = span_corruption.missing_spans(asking, [35], vocabulary=pieces, seed=0)
        return dataset.fingerprint

    first = mark()
    assert mark() == first
    assert mark(extra_ids=50) != first
    plain = span_corruption.noise_mask
    monkeypatch.setattr(
        span_corruption,
        "noise_mask",
        lambda *sizes, rng: plain(*sizes, rng=np.random.default_rng(rng.integers(9))),
    )
    assert mark() != first


def test_inputs_of_single_tokens_are_left_out_and_told(asking, vocab, capsys):
    span_corruption.missing_spans(asking, [0, 9], vocabulary=vocab, seed=0)
    assert "1 of 2 rows" in capsys.readouterr().out
    span_corruption.missing_spans(asking, [8, 9], vocabulary=vocab, seed=0)
    assert not capsys.readouterr().out


def test_inputs_of_single_tokens_can_miss_no_span(asking, vocab):
    with pytest.raises(errors.DataError, match="none with two tokens"):
        span_corruption.missing_spans(asking, [0], vocabulary=vocab, seed=0)


def test_too_few_sentinels_for_an_input_are_refused(asking, vocab):
    few = vocabulary.SentencePiece(vocab.path, extra_ids=1)
    with pytest.raises(errors.ConfigError):
        span_corruption.missing_spans(asking, [39], vocabulary=few, seed=0)
