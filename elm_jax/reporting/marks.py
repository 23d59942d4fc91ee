"""Letters beside numbers that need care, and the legend that explains them.

Cut prompts, and choices that cannot be told apart, are properties of the data, so their
letters stand beside columns. Ties, generated answers without an end, and rows that
an expert was trained on are properties of one score.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from elm_jax.evaluation import results
from elm_jax.reporting import text

# Percent of the examples above which a letter is shown; fewer change a score by less.
MOST_PERCENT = 1.0
CUT, UNDISTINGUISHED, TIES, NO_END, OVERLAP, PART = "c", "u", "t", "e", "o", "p"
_OF_SCORES = (TIES, NO_END, OVERLAP)
PART_LEGEND = f"{PART}: a mean over fewer tasks than the table has, not to be compared."
_SHARES: dict[str, Callable[[results.Facts], float | None]] = {
    CUT: lambda row: row.inputs_cut,
    UNDISTINGUISHED: lambda row: row.undistinguished,
    TIES: lambda row: row.ties,
    NO_END: lambda row: row.answers_cut,
    OVERLAP: lambda row: row.overlap,
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
    return "".join(letter for letter in (*_SHARES, PART) if letter in letters + more)


def legend(rows: Sequence[results.ResultRow], *, shown: int = 3) -> tuple[str, ...]:
    """Returns a sentence for each letter that applies, worst tasks named."""
    sentences = []
    for letter, share_of in _SHARES.items():
        worst: dict[str, tuple[float, results.ResultRow]] = {}
        for row in rows:
            share = share_of(row)
            if share is not None and share > MOST_PERCENT:
                worst_yet = worst.get(row.task)
                if worst_yet is None or share > worst_yet[0]:
                    worst[row.task] = share, row
        if worst:
            order = sorted(worst, key=lambda task: (-worst[task][0], task))
            named = [_named(letter, *worst[task]) for task in order[:shown]]
            if len(order) > shown:
                named.append(f"{len(order) - shown} more tasks")
            sentences.append(
                f"{letter}: more than {MOST_PERCENT:g} % of the rows of a task have"
                f" {_MEANINGS[letter]}: {'; '.join(named)}."
            )
    sentences += _of_others(rows, shown=shown)
    unknown = {row.expert for row in rows if row.overlap_unknown}
    if unknown:
        sentences.append(
            f"Not compared with their training rows ({OVERLAP}), or with some alone,"
            f" since these were not at hand: {len(unknown)} of"
            f" {len({row.expert for row in rows})} candidates."
        )
    return tuple(sentences)


def _of_others(rows: Sequence[results.ResultRow], *, shown: int) -> Iterator[str]:
    """Yields sentences about rows that are among others, or were not compared."""
    missing = []
    for name, others in _OTHERS.items():
        worst: dict[str, float] = {}
        for row in rows:
            share = row.overlap_with.get(name, 0.0)
            if share is None:
                missing.append(others)
            elif share > MOST_PERCENT:
                worst[row.task] = max(share, worst.get(row.task, 0.0))
        if worst:
            order = sorted(worst, key=lambda task: (-worst[task], task))
            named = [f"{task} {text.number(worst[task])} %" for task in order[:shown]]
            if len(order) > shown:
                named.append(f"{len(order) - shown} more tasks")
            yield (
                f"More than {MOST_PERCENT:g} % of the rows of a task are also, or"
                f" nearly, {others}: {'; '.join(named)}."
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
    all_rows = list(rows)

    def is_marked(letter: str) -> bool:
        shares = [_SHARES[letter](row) for row in all_rows]
        return any(share is not None and share > MOST_PERCENT for share in shares)

    return "".join(letter for letter in among if is_marked(letter))
