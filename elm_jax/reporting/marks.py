"""Letters beside numbers that need care, and the legend that explains them.

Cut prompts, and choices that cannot be told apart, are properties of the data, so their
letters stand beside columns. Ties, generated answers without an end, and rows that
an expert was trained on are properties of one score.
"""

from collections.abc import Iterable, Iterator, Sequence

from elm_jax.evaluation import results, row_columns
from elm_jax.evaluation.row_columns import RowColumns
from elm_jax.reporting import text

# Percent of the examples above which a letter is shown; fewer change a score by less.
MOST_PERCENT = 1.0
CUT, UNDISTINGUISHED, TIES, NO_END, OVERLAP, PART = "c", "u", "t", "e", "o", "p"
_OF_SCORES = (TIES, NO_END, OVERLAP)
PART_LEGEND = f"{PART}: a mean over fewer tasks than the table has, not to be compared."
# The field of a row that tells the share of its examples.
_FIELDS = {
    CUT: "inputs_cut",
    UNDISTINGUISHED: "undistinguished",
    TIES: "ties",
    NO_END: "answers_cut",
    OVERLAP: "overlap",
}
_MEANINGS = {
    CUT: "prompts that are cut to the model's input",
    UNDISTINGUISHED: "answer choices that no model can tell apart (of one text they"
    " count as one answer, else a fair draw among them is counted)",
    TIES: "several answers with the best score, of which a fair draw is counted",
    NO_END: "written answers that are cut: no end at the greatest length",
    OVERLAP: "the text of rows that the expert was trained on, or nearly",
}

_OTHERS = {
    "base": "rows that the base was trained on",
    "queries": "rows that asked the library for experts",
    "keys": "rows behind the library's keys",
}


def of_data(rows: Iterable[results.Facts]) -> str:
    """Returns the letters for the data of some rows."""
    return _letters(rows, (CUT, UNDISTINGUISHED))


def of_scores(rows: Iterable[results.Facts]) -> str:
    """Returns the letters for the scores of some rows."""
    return _letters(rows, _OF_SCORES)


def of_each_score(rows: Sequence[results.ResultRow]) -> list[str]:
    """Returns `of_scores` of each row by itself."""
    names = [_FIELDS[letter] for letter in _OF_SCORES]
    letters = row_columns.of(rows).derived(lambda row: of_scores([row]), *names)
    return letters.listed()


def beside(name: str, letters: str) -> str:
    """Returns a number or a name with its letters.

    >>> beside("55.0", "ct"), beside("55.0", ""), beside("", "")
    ('55.0 (c, t)', '55.0', '')
    """
    return f"{name} ({', '.join(letters)})" if letters else name


def joined(letters: str, more: str) -> str:
    """Returns the letters of both, each once, in a fixed order.

    >>> joined("t", "ct")
    'ct'
    """
    return "".join(letter for letter in (*_FIELDS, PART) if letter in letters + more)


def legend(rows: Sequence[results.ResultRow], *, shown: int = 3) -> tuple[str, ...]:
    """Returns a sentence for each letter that applies, worst tasks named."""
    columns = row_columns.of(rows)
    sentences = []
    for letter, field in _FIELDS.items():
        worst: dict[str, tuple[float, results.ResultRow]] = {}
        for row in columns.take(columns.coded(field).are(_is_marked)):
            share = getattr(row, field)
            worst_yet = worst.get(row.task)
            if worst_yet is None or share > worst_yet[0]:
                worst[row.task] = share, row
        if worst:
            order = sorted(worst, key=lambda task: (-worst[task][0], task))
            texts = [_named(letter, *worst[task]) for task in order[:shown]]
            if len(order) > shown:
                texts.append(f"{len(order) - shown} more tasks")
            sentences.append(
                f"{letter}: more than {MOST_PERCENT:g} % of the rows of a task have"
                f" {_MEANINGS[letter]}: {'; '.join(texts)}."
            )
    sentences += _of_others(columns, shown=shown)
    unknown = columns.take(columns.coded("overlap_unknown").are(bool))
    if len(unknown):
        sentences.append(
            f"Not compared with their training rows ({OVERLAP}), or with some alone,"
            f" since these were not at hand: {len(unknown.distinct('expert'))} of"
            f" {len(columns.distinct('expert'))} candidates."
        )
    return tuple(sentences)


def _of_others(rows: RowColumns, *, shown: int) -> Iterator[str]:
    """Yields sentences about rows that are also training rows, or were not compared."""
    missing = []
    compared = rows.take(rows.coded("overlap_with").are(bool))
    for name, phrase in _OTHERS.items():
        worst: dict[str, float] = {}
        for row in compared:
            share = row.overlap_with.get(name, 0.0)
            if share is None:
                missing.append(phrase)
            elif share > MOST_PERCENT:
                worst[row.task] = max(share, worst.get(row.task, 0.0))
        if worst:
            order = sorted(worst, key=lambda task: (-worst[task], task))
            texts = [f"{task} {text.number(worst[task])} %" for task in order[:shown]]
            if len(order) > shown:
                texts.append(f"{len(order) - shown} more tasks")
            yield (
                f"More than {MOST_PERCENT:g} % of the rows of a task are also, or"
                f" nearly, {phrase}: {'; '.join(texts)}."
            )
    if missing:
        names = ", nor with ".join(dict.fromkeys(missing))
        yield f"Not compared with {names}: these were not at hand."


def _named(letter: str, share: float, row: results.ResultRow) -> str:
    phrase = f"{row.task} {text.number(share)} %"
    if letter in _OF_SCORES:
        phrase += f" of {row.expert}"
    if letter == UNDISTINGUISHED and row.undistinguished_reasons:
        reasons = row.undistinguished_reasons.items()
        phrase += f" ({', '.join(f'{n} rows: {reason}' for reason, n in reasons)})"
    return phrase


def _letters(rows: Iterable[results.Facts], among: Sequence[str]) -> str:
    fields = {letter: _FIELDS[letter] for letter in among}
    if isinstance(rows, RowColumns):
        marked = [
            c for c, field in fields.items() if rows.coded(field).are(_is_marked).any()
        ]
    else:
        every = list(rows)
        marked = [
            letter
            for letter, field in fields.items()
            if any(_is_marked(getattr(row, field)) for row in every)
        ]
    return "".join(marked)


def _is_marked(share: float | None) -> bool:
    return share is not None and share > MOST_PERCENT
