"""Rows that were trained on are found, whatever stands around them, and no others."""

import collections
import hashlib

import numpy as np
import pytest

from elm_jax.evaluation import overlap, word_runs

NUM_PLANTED = 1000
SYLLABLES = [f"{first}{second}" for first in "bdfglmnprs" for second in "aeiou"]
WORDS = [f"{a}{b}" for a in SYLLABLES for b in SYLLABLES]


def sentences(random, count, *, least=8, most=60):
    """Texts of made-up words; no two share a run of eight."""
    lengths = random.integers(least, most + 1, count)
    drawn = random.integers(0, len(WORDS), (count, most))
    return [
        " ".join(WORDS[i] for i in row[:length])
        for row, length in zip(drawn, lengths, strict=True)
    ]


def as_questions(texts):
    return [f"Read this text: {text} Is it true or false?" for text in texts]


def summed(texts):
    return [
        f"{text}\n===\nWrite a summary of the text above in one line." for text in texts
    ]


def rows_in(training, scored):
    (rows,) = overlap.Search([overlap.Texts.of(scored)]).rows_in(
        overlap.Texts.of(training)
    )
    return rows.tolist()


def near(random, text):
    """Returns a text with other signs and case, often a passage of it in another."""
    words = text.split()
    if len(words) >= 2 * overlap.RUN_WORDS and random.random() < 0.7:
        start = random.integers(0, len(words) - overlap.RUN_WORDS)
        (before, after) = sentences(random, 2)
        words = [before, *words[start : start + overlap.RUN_WORDS], after]
    return ", ".join(words).upper()


def test_all_of_1000_planted_overlaps_are_found_and_none_is_invented():
    random = np.random.default_rng(0)
    scored = sentences(random, 2 * NUM_PLANTED)
    planted = sorted(random.choice(len(scored), NUM_PLANTED, replace=False).tolist())
    training = sentences(random, 2 * NUM_PLANTED)
    training += [near(random, scored[row]) for row in planted]
    random.shuffle(training)
    assert rows_in(summed(training), as_questions(scored)) == planted


def test_words_of_a_template_are_no_overlap():
    random = np.random.default_rng(0)
    long = (
        "You have read a text, and are to say which of all answers is right: a, b, c."
    )
    training = [f"{long} {text}" for text in sentences(random, 50)]
    scored = [f"{long} {text}" for text in sentences(random, 50)]
    assert rows_in(training, scored) == []
    assert rows_in(training, [*scored, training[7]]) == [50]


def test_short_rows_overlap_where_they_are_equal():
    assert rows_in(["Not old, but"], ["not OLD but", "not old but new"]) == [0]
    eight = "one two three four five six seven eight"
    assert rows_in([f"{eight} nine"], [eight, eight[:-6]]) == [0]


def test_empty_rows_are_no_overlap():
    assert rows_in(["", "."], ["", "!"]) == []
    assert rows_in([], ["a"]) == rows_in(["a"], []) == []


def test_several_tasks_are_sought_at_once():
    random = np.random.default_rng(0)
    first, second = sentences(random, 30), sentences(random, 30)
    search = overlap.Search(
        [overlap.Texts.of(as_questions(x)) for x in (first, second)]
    )
    rows_of_tasks = search.rows_in(overlap.Texts.of([second[3], first[1], second[20]]))
    assert [rows.tolist() for rows in rows_of_tasks] == [[1], [3, 20]]


def naive_rows_in(training, scored):
    """What `Search` finds, by sets of tuples of words."""

    def runs(row, size):
        return {tuple(row[i : i + size]) for i in range(len(row) - size + 1)}

    def own_words(texts):
        rows = [overlap.normalized(text) for text in texts]
        if len(rows) < 20:
            return rows
        padded = [[1, 1, *row, 2, 2] for row in rows]
        threes = [
            {tuple(row[i : i + 3]) for i in range(len(row) - 2)} for row in padded
        ]
        counts = collections.Counter(three for of_row in threes for three in of_row)
        kept_words = []
        for row in padded:
            drop = set()
            for i in range(len(row) - 2):
                if counts[tuple(row[i : i + 3])] > len(rows) / 2:
                    drop |= {i, i + 1, i + 2}
            kept_words.append([row[i] for i in range(2, len(row) - 2) if i not in drop])
        return kept_words

    training_words = own_words(training)
    wholes = {tuple(overlap.normalized(text)) for text in training}
    places = []
    for place, row in enumerate(own_words(scored)):
        size = min(len(row), overlap.RUN_WORDS)
        text = tuple(overlap.normalized(scored[place]))
        is_long = size >= overlap.LEAST_WORDS
        if (text and text in wholes) or (
            is_long
            and any(
                runs(row, size) & runs(trained_on, size)
                for trained_on in training_words
            )
        ):
            places.append(place)
    return places


def test_the_search_finds_what_sets_of_words_find(monkeypatch):
    monkeypatch.setattr(word_runs, "_BLOCK_WORDS", 50)  # rows of many blocks
    random = np.random.default_rng(0)
    some = 0
    for _ in range(30):
        shared = sentences(random, 8, least=0, most=30)

        def texts(number, shared=shared):
            drawn = [
                random.choice(shared) if random.random() < 0.4 else text
                for text in sentences(random, number, least=0, most=30)
            ]
            if random.random() < 0.5:
                drawn = [f"All rows of one task begin so: {text}" for text in drawn]
            return drawn

        training, scored = texts(random.integers(0, 60)), texts(25)
        expected = naive_rows_in(training, scored)
        assert rows_in(training, scored) == expected
        some += len(expected)
    assert some > 50


def test_texts_that_are_kept_are_those_that_were_made():
    texts = overlap.Texts.of(as_questions(sentences(np.random.default_rng(0), 30)))
    again = overlap.Texts.from_arrays(texts.arrays())
    assert all(
        np.array_equal(array, again.arrays()[name])
        for name, array in texts.arrays().items()
    )
    cut = {**texts.arrays(), "words": texts.words[:-1]}
    with pytest.raises(ValueError, match="do not fit"):
        overlap.Texts.from_arrays(cut)


def test_what_is_kept_changes_with_its_version_only():
    """If this fails, what is made of texts has changed: raise `overlap.VERSION`."""
    texts = overlap.Texts.of(
        as_questions(["Ünder ﬁve?", "", *(f"no {i}" for i in range(20))])
    )
    digest = hashlib.sha256()
    for array in texts.arrays().values():
        digest.update(np.ascontiguousarray(array).tobytes())
    assert (overlap.VERSION, digest.hexdigest()[:16]) == (1, "314108ef049ccedc")


def test_some_rows_keep_their_own_words_alone():
    texts = overlap.Texts.of(as_questions(sentences(np.random.default_rng(0), 30)))
    some = texts.rows([4, 7])
    assert len(some) == 2
    assert some.words[: some.offsets[1]].tolist() == (
        texts.words[texts.offsets[4] : texts.offsets[5]].tolist()
    )
    assert some.whole.tolist() == texts.whole[[4, 7]].tolist()
