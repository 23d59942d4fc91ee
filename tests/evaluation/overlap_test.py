"""Rows that were trained on are found, whatever stands around them, and no others."""

import numpy as np

from elm_jax.evaluation import overlap

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


def asked(texts):
    return [f"Read this text: {text} Is it true or false?" for text in texts]


def summed(texts):
    return [
        f"{text}\n===\nWrite a summary of the text above in one line." for text in texts
    ]


def rows_in(training, scored):
    (found,) = overlap.Search([overlap.Texts.of(scored)]).rows_in(
        overlap.Texts.of(training)
    )
    return found.tolist()


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
    assert rows_in(summed(training), asked(scored)) == planted


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
    search = overlap.Search([overlap.Texts.of(asked(x)) for x in (first, second)])
    found = search.rows_in(overlap.Texts.of([second[3], first[1], second[20]]))
    assert [rows.tolist() for rows in found] == [[1], [3, 20]]
