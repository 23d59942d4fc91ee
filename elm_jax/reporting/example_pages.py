"""A page of a task's examples: what was asked, and what each model answered.

It runs no script and makes no request. An address that ends with `#way-2` marks the
answers of the second model.
"""

import dataclasses
import urllib.parse
from collections.abc import Sequence

from elm_jax.reporting import page, text


@dataclasses.dataclass(frozen=True)
class Way:
    """A model or strategy whose answers are shown.

    Attributes:
      label: The name of the model or strategy.
      score: On all rows of the task, in percent.
      note: What it is, in a few words.
    """

    label: str
    score: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer of a model.

    Attributes:
      score: Percent; None where the metric has none for single examples.
      chosen: The place of the choice; -1 where a text was written.
      log_probabilities: Of the choices, in nats.
      written: The text; "" where a choice was made.
      is_cut: Whether that had no end at the greatest length.
    """

    score: float | None
    chosen: int = -1
    log_probabilities: tuple[float, ...] = ()
    written: str = ""
    is_cut: bool = False

    @property
    def verdict(self) -> str:
        """Whether the answer is right, in words; else its score."""
        if self.score is None:
            return "–"
        words = {100.0: "✓ right", 0.0: "✕ wrong"}
        return words.get(self.score, text.number(self.score))


@dataclasses.dataclass(frozen=True)
class Example:
    """One row of a dataset under a prompt.

    Attributes:
      example_id: Place of the row in its source.
      inputs: The prompt, whole.
      num_read: Tokens of the prompt that models read, if it was cut; else None.
      target: What is right.
      choices: Texts of the choices; empty where answers are written.
      label: Place of the right choice; -1 where there is none.
      answers: Of each way, in order; None where it has none.
    """

    example_id: int
    inputs: str
    num_read: int | None
    target: str
    choices: tuple[str, ...]
    label: int
    answers: tuple[Answer | None, ...]


@dataclasses.dataclass(frozen=True)
class Page:
    """The examples of a task.

    Attributes:
      task: Its full name.
      dataset: The task's dataset.
      split: Which was scored.
      metric: Of the scores.
      num_rows: All that were scored.
      ways: Whose answers are shown.
      examples: The first ones, by id.
      siblings: The tasks of the dataset that have a page, in order.
      report: Address of the report.
    """

    task: str
    dataset: str
    split: str
    metric: str
    num_rows: int
    ways: tuple[Way, ...]
    examples: tuple[Example, ...]
    siblings: tuple[str, ...]
    report: str


def render(shown: Page) -> str:
    """Returns the HTML text of a page."""
    return page.template("examples.html.jinja").render(
        page=shown, nats=_nats, file_name=file_name, address=address
    )


def file_name(task: str) -> str:
    """Returns the name of a task's page."""
    return f"{task}.html"


def address(task: str, way: int | None = None) -> str:
    """Returns the address of a task's page, seen from its folder.

    >>> address("copa_p#1", 0)
    './copa_p%231.html#way-1'
    """
    place = "" if way is None else f"#way-{way + 1}"
    return f"./{urllib.parse.quote(file_name(task))}{place}"


def links(
    folder: str, tasks: Sequence[tuple[str, Sequence[str]]]
) -> dict[tuple[str, str], str]:
    """Returns where a report finds answers, by (label, task).

    Args:
      folder: That of the pages, seen from the report.
      tasks: Names, with the labels of their ways in order.
    """
    return {
        (label, task): f"{folder}/{address(task, place).removeprefix('./')}"
        for task, labels in tasks
        for place, label in enumerate(labels)
    }


def _nats(value: float) -> str:
    """Returns a log-probability with a true minus sign.

    >>> _nats(-3.456), _nats(-0.001)
    ('−3.46', '0.00')
    """
    return "0.00" if abs(value) < 0.005 else f"{value:.2f}".replace("-", "−")
