"""Tasks as one HTML page: counts, lengths and rendered examples.

Like the report's page, it has no script and makes no request, and the template engine
escapes every text.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from elm_jax.reporting import page

PERCENTS = ("0", "50", "90", "99", "100")


@dataclasses.dataclass(frozen=True)
class TaskExample:
    """One rendered row.

    Attributes:
      inputs: The prompt.
      targets: The target.
      choices: Answer choices; empty where the task has none.
      label: Index of the correct choice, -1 where there are none.
      example_id: Place of the row in its source.
    """

    inputs: str
    targets: str
    choices: tuple[str, ...]
    label: int
    example_id: int


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of one column, by percent of the rows; and how many rows are cut.

    Attributes:
      column: `inputs`, `targets` or `choices`.
      percentiles: Tokens at each of `PERCENTS`.
      limit: The most tokens that a run takes.
      cut_share: Fraction of the column's texts that are longer, in [0, 1].
      unknown_share: Fraction of the examples with a token here that stands for
        characters that the vocabulary lacks, in [0, 1].
    """

    column: str
    percentiles: tuple[int, ...]
    limit: int
    cut_share: float
    unknown_share: float = 0.0


@dataclasses.dataclass(frozen=True)
class TaskCard:
    """Facts about one split of a task.

    Attributes:
      name: The task.
      split: The split that was read.
      facts: Names and values, such as dataset and cluster.
      num_rows: Rows that were read.
      num_examples: Rows that became examples.
      is_whole: Whether these are all rows of the split.
      dropped: Reasons and counts, the commonest first.
      first_bad: Place of the first row that is dropped for a reason and what is wrong
        with it, by reason; not of rows that are left out on purpose.
      indistinct: Why choices of an example cannot be told apart, and in how many; the
        commonest first. Empty without a vocabulary.
      no_choice_share: Fraction of rows without a correct choice, in [0, 1].
      lengths: By column; empty without a vocabulary.
      examples: The first few.
      problem: Why the task cannot be read, or "".
    """

    name: str
    split: str
    facts: tuple[tuple[str, str], ...]
    num_rows: int = 0
    num_examples: int = 0
    is_whole: bool = True
    dropped: tuple[tuple[str, int], ...] = ()
    first_bad: Mapping[str, str] = dataclasses.field(default_factory=dict)
    indistinct: tuple[tuple[str, int], ...] = ()
    no_choice_share: float = 0.0
    lengths: tuple[Lengths, ...] = ()
    examples: tuple[TaskExample, ...] = ()
    problem: str = ""

    @property
    def dropped_share(self) -> float:
        """Fraction of the rows that became no example, in [0, 1]."""
        return 1 - self.num_examples / self.num_rows if self.num_rows else 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about problems that make scores on this task less meaningful."""
        sentences = []
        if self.num_rows and not self.num_examples:
            sentences.append(
                f"No example is left: all {self.num_rows} rows are dropped."
            )
        if self.num_examples and self.cut_share("inputs") == 1:
            sentences.append("Every input is cut.")
        if self.indistinct:
            count = sum(n for _, n in self.indistinct)
            part = share(count / self.num_examples)
            sentences.append(f"{part} % have choices that cannot be told apart.")
        return tuple(sentences)

    def cut_share(self, column: str) -> float | None:
        """Returns the fraction of a column that is cut, or None if not known."""
        shares = {length.column: length.cut_share for length in self.lengths}
        return shares.get(column)


def render(title: str, cards: Sequence[TaskCard]) -> str:
    """Returns the HTML text of a page of tasks."""
    template = page.template("tasks.html.jinja")
    return template.render(title=title, cards=cards, percents=PERCENTS, share=share)


def share(value: float | None) -> str:
    """Returns a fraction in percent, or a dash where it is not known.

    >>> share(0.0), share(0.1234), share(0.00001), share(None)
    ('0', '12.3', '<0.1', '–')
    """
    if value is None:
        return "–"
    if value == 0:
        return "0"
    return "<0.1" if value < 0.001 else f"{100 * value:.1f}"
