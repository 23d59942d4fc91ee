"""A page of where a task's tokens went: experts by places, and a few inputs.

It runs no script and makes no request.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from elm_jax.reporting import page


@dataclasses.dataclass(frozen=True)
class Routed:
    """What one router weighed on some rows.

    Attributes:
      label: Of the way that was scored.
      score: On all rows of the task, in percent.
      num_rows: Whose tokens these are.
      experts: Names of the experts.
      places: Names, the encoder's first, each place with all of its layers.
      weights: Of each place, of each expert: mean weight.
      inputs: Of a few inputs, of each token: its text and each expert's mean weight.
    """

    label: str
    score: float
    num_rows: int
    experts: tuple[str, ...]
    places: tuple[str, ...]
    weights: Sequence[Sequence[float]]
    inputs: tuple[tuple[tuple[str, Sequence[float]], ...], ...]

    @property
    def entropy(self) -> float:
        """Mean over places of the entropy of mean weights, in bits."""
        shares = np.clip(np.asarray(self.weights, float), 1e-12, None)
        shares = shares / shares.sum(axis=-1, keepdims=True)
        return float(-(shares * np.log2(shares)).sum(axis=-1).mean())


@dataclasses.dataclass(frozen=True)
class Page:
    """The routers of a task.

    Attributes:
      task: Its full name.
      split: Which was scored.
      metric: Of the scores.
      routers: What each weighed.
      report: Address of the report.
    """

    task: str
    split: str
    metric: str
    routers: tuple[Routed, ...]
    report: str


@dataclasses.dataclass(frozen=True)
class _Token:
    """A token as the page shows it.

    Attributes:
      text: Its text, visible also where it is blank.
      expert: The place of the expert with the greatest weight.
      title: What a pointer is told: the three greatest weights.
      share: The greatest weight in percent, of 10, 20, ... 100.
    """

    text: str
    expert: int
    title: str
    share: int


def render(shown: Page) -> str:
    """Returns the HTML text of a page."""
    most = max((len(router.experts) for router in shown.routers), default=0)
    return page.template("routing.html.jinja").render(
        page=shown,
        hues=[_hue(place) for place in range(most)],
        steps=range(10, 101, 10),
        step_of=_step,
        tokens=_tokens,
    )


def _hue(place: int) -> int:
    """Returns an angle far from those of the places before it.

    >>> [_hue(place) for place in range(4)]
    [0, 137, 275, 52]
    """
    return int(place * 137.508) % 360


def _step(weight: float) -> int:
    """Returns a weight as 0, 10, ... 100 percent.

    >>> _step(0.0), _step(0.26), _step(1.2)
    (0, 30, 100)
    """
    return int(min(10, max(0, round(weight * 10)))) * 10


def _tokens(
    experts: Sequence[str], tokens: Sequence[tuple[str, Sequence[float]]]
) -> list[_Token]:
    drawn = []
    for text, weights in tokens:
        order = sorted(range(len(experts)), key=lambda e: -weights[e])
        title = ", ".join(f"{experts[e]} {weights[e]:.2f}" for e in order[:3])
        share = max(10, _step(weights[order[0]]))
        drawn.append(_Token(text.strip() or "␣", order[0], title, share))
    return drawn
