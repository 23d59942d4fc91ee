"""Letters beside numbers that need care, and the legend that explains them.

Prompts that are cut and choices that cannot be told apart belong to the data, whoever
is scored on it; ties, and written answers without an end, belong to one score.
"""

from collections.abc import Callable, Iterable, Sequence

from elm_jax.evaluation import results
from elm_jax.reporting import text

# More percent of the examples than this are marked: fewer move a score by less.
MOST_PERCENT = 1.0
CUT, UNDISTINGUISHED, TIES, NO_END, PART = "c", "u", "t", "e", "p"
PART_LEGEND = f"{PART}: a mean over fewer tasks than the table has, not to be compared."
_SHARES: dict[str, Callable[[results.Facts], float | None]] = {
    CUT: lambda row: row.inputs_cut,
    UNDISTINGUISHED: lambda row: row.undistinguished,
    TIES: lambda row: row.ties,
    NO_END: lambda row: row.answers_cut,
}
_MEANINGS = {
    CUT: "prompts that are cut to the model's input",
    UNDISTINGUISHED: "answer choices that no model can tell apart (of one text they"
    " count as one answer, else a fair draw among them is counted)",
    TIES: "several answers with the best score, of which a fair draw is counted",
    NO_END: "written answers that are cut: no end at the greatest length",
}


def of_data(rows: Iterable[results.Facts]) -> str:
    """Returns the letters that the data behind some rows needs."""
    return _letters(rows, (CUT, UNDISTINGUISHED))


def of_scores(rows: Iterable[results.Facts]) -> str:
    """Returns the letters that the scores of some rows need."""
    return _letters(rows, (TIES, NO_END))


def beside(name: str, letters: str) -> str:
    """Returns a number or a name with its letters.

    >>> beside("55.0", "ct"), beside("55.0", ""), beside("", "")
    ('55.0 (c, t)', '55.0', '')
    """
    return f"{name} ({', '.join(letters)})" if letters else name


def joined(one: str, other: str) -> str:
    """Returns the letters of both, each once, in a fixed order.

    >>> joined("t", "ct")
    'ct'
    """
    return "".join(letter for letter in (*_SHARES, PART) if letter in one + other)


def legend(rows: Sequence[results.ResultRow], *, shown: int = 3) -> tuple[str, ...]:
    """Returns a sentence for each letter that some rows need, worst tasks named."""
    found = []
    for letter, share_of in _SHARES.items():
        worst: dict[str, tuple[float, results.ResultRow]] = {}
        for row in rows:
            share = share_of(row)
            if share is not None and share > MOST_PERCENT:
                known = worst.get(row.task)
                if known is None or share > known[0]:
                    worst[row.task] = share, row
        if worst:
            order = sorted(worst, key=lambda task: (-worst[task][0], task))
            named = [_named(letter, *worst[task]) for task in order[:shown]]
            if len(order) > shown:
                named.append(f"{len(order) - shown} more tasks")
            found.append(
                f"{letter}: more than {MOST_PERCENT:g} % of the rows of a task have"
                f" {_MEANINGS[letter]}: {'; '.join(named)}."
            )
    return tuple(found)


def _named(letter: str, share: float, row: results.ResultRow) -> str:
    found = f"{row.task} {text.number(share)} %"
    if letter in (TIES, NO_END):
        found += f" of {row.expert}"
    if letter == UNDISTINGUISHED and row.undistinguished_reasons:
        reasons = row.undistinguished_reasons.items()
        found += f" ({', '.join(f'{n} rows: {reason}' for reason, n in reasons)})"
    return found


def _letters(rows: Iterable[results.Facts], among: Sequence[str]) -> str:
    known = list(rows)

    def is_marked(letter: str) -> bool:
        shares = [_SHARES[letter](row) for row in known]
        return any(share is not None and share > MOST_PERCENT for share in shares)

    return "".join(letter for letter in among if is_marked(letter))
