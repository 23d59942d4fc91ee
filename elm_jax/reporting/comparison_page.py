"""A comparison of experts as tables, and as one HTML page without scripts."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from elm_jax.reporting import page
from elm_jax.reporting.tables import TextTable


class Layer(Protocol):
    """One layer of the experts that are compared; arrays [experts, experts]."""

    name: str
    norms: np.ndarray
    products: np.ndarray
    conflict: np.ndarray
    overlap: np.ndarray


class Growth(Protocol):
    """How far means of the first experts of an order pull, [experts]."""

    @property
    def order(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def pulls(self) -> np.ndarray: ...  # noqa: D102


class Comparison(Protocol):
    """Experts layer by layer, and what follows of all layers."""

    @property
    def alike(self) -> Growth: ...  # noqa: D102
    @property
    def drawn(self) -> Growth: ...  # noqa: D102

    @property
    def in_place(self) -> np.ndarray: ...  # noqa: D102
    @property
    def layers(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def cosine(self) -> np.ndarray: ...  # noqa: D102
    @property
    def norms(self) -> np.ndarray: ...  # noqa: D102
    @property
    def forecast(self) -> np.ndarray: ...  # noqa: D102
    def mean(self, measure: str) -> np.ndarray: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two experts and measures of their difference; NaN for an undefined measure."""

    first: str
    second: str
    cosine: float
    conflict: float
    overlap: float
    in_place: float
    forecast: float


@dataclasses.dataclass(frozen=True)
class Shown:
    """The part of a comparison that is shown.

    Attributes:
      names: Of the experts.
      norms: Of what they change.
      cosine: [experts, experts].
      pairs: The one to expect most of first.
      layers: Name, mean cosine, conflict, overlap, and share of the squared change.
      growth: Of the first 1, 2, ... experts: the last of the most alike ones, how far
        their mean pulls, and the same of experts that are drawn.
    """

    names: tuple[str, ...]
    norms: tuple[float, ...]
    cosine: np.ndarray
    pairs: tuple[Pair, ...]
    layers: tuple[tuple[str, float, float, float, float], ...]
    growth: tuple[tuple[str, float, str, float], ...]

    @classmethod
    def of(cls, names: Sequence[str], comparison: Comparison) -> "Shown":
        """Returns what the page shows of a comparison of experts with these names."""
        tables = [
            comparison.cosine,
            comparison.mean("conflict"),
            comparison.mean("overlap"),
        ]
        tables += [comparison.in_place, comparison.forecast]
        upper = [*itertools.combinations(range(len(names)), 2)]
        pairs = [
            Pair(names[i], names[j], *(float(values[i, j]) for values in tables))
            for i, j in upper
        ]
        pairs.sort(key=lambda pair: (pair.forecast, pair.first, pair.second))
        total = sum(float(np.square(layer.norms).sum()) for layer in comparison.layers)
        layers = [
            (
                layer.name,
                _mean([_cosine(layer, i, j) for i, j in upper]),
                _mean([layer.conflict[pair] for pair in upper]),
                _mean([layer.overlap[pair] for pair in upper]),
                float(np.square(layer.norms).sum()) / (total or 1.0),
            )
            for layer in comparison.layers
        ]
        norms = tuple(map(float, comparison.norms))
        alike, drawn = (
            [(names[i], float(pull)) for i, pull in zip(g.order, g.pulls, strict=True)]
            for g in (comparison.alike, comparison.drawn)
        )
        growth = tuple((*a, *b) for a, b in zip(alike, drawn, strict=True))
        return cls(
            tuple(names),
            norms,
            comparison.cosine,
            tuple(pairs),
            tuple(layers),
            growth,
        )

    def tables(self, most_pairs: int | None = None) -> list[TextTable]:
        """Returns the pairs, and the layers, as text.

        Args:
          most_pairs: Of the first and last pairs that are shown; None for all.
        """
        pairs, notes = list(self.pairs), NOTES
        if most_pairs is not None and len(pairs) > most_pairs:
            num_hidden = len(pairs) - most_pairs
            pairs = pairs[: most_pairs // 2] + pairs[-(most_pairs // 2) :]
            notes = (f"{num_hidden} pairs between these are on the page.", *notes)
        rows = [
            (
                f"{pair.first} + {pair.second}",
                *map(
                    number,
                    (
                        pair.forecast,
                        pair.cosine,
                        pair.conflict,
                        pair.overlap,
                        pair.in_place,
                    ),
                ),
            )
            for pair in pairs
        ]
        header = ("", "forecast", "cosine", "conflict", "overlap", "units in place")
        experts = [
            (name, number(norm))
            for name, norm in zip(self.names, self.norms, strict=True)
        ]
        layers = [(name, *map(number, values)) for name, *values in self.layers]
        return [
            TextTable("Experts", ("", "norm of the change"), tuple(experts)),
            TextTable(
                "Pairs, the best forecast first", header, tuple(rows), notes=notes
            ),
            self._how_many(),
            TextTable(
                "Layers, means over pairs",
                ("", "cosine", "conflict", "overlap", "share of the change"),
                tuple(layers),
            ),
        ]

    def _how_many(self) -> TextTable:
        rows = [
            (f"{count}", name, number(pull), drawn, number(of_drawn))
            for count, (name, pull, drawn, of_drawn) in enumerate(self.growth, start=1)
        ]
        return TextTable(
            "How many: the mean of the first k experts",
            ("k", "most alike, with", "forecast", "drawn, with", "forecast"),
            tuple(rows),
            notes=(HOW_MANY,),
        )

    @property
    def curves(self) -> tuple[str, str] | None:
        """SVG paths of both forecasts by k, 100 wide and high; None if undefined."""
        pulls = np.array([(a, b) for _, a, _, b in self.growth])
        if np.isnan(pulls).any():
            return None
        places = np.linspace(0.0, 100.0, len(pulls))
        heights = 100.0 - 100.0 * pulls / (pulls.max() or 1.0)
        first, second = (
            "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(places, ys, strict=True))
            for ys in heights.T
        )
        return first, second


HOW_MANY = (
    "Forecast: how far the mean of the first k experts pulls the outputs of each, as a"
    " share of these. The most alike are the best pair, and then always the expert with"
    " the least mean forecast with those before; the others are drawn by a seed."
)
NOTES = (
    "Forecast: how far the mean of two experts pulls their outputs, on inputs that"
    " their own changes stand for; less is better. It orders pairs and does not say how"
    " much is lost.",
    "Cosine of what two experts change; conflict: share that they change in opposite"
    " directions; overlap: share of the first eight directions of matrices that both"
    " have.",
)


def render(shown: Shown) -> str:
    """Returns the HTML text of a comparison."""
    return page.template("comparison.html.jinja").render(
        title=f"{len(shown.names)} experts before merging",
        shown=shown,
        tables=shown.tables(),
        cosines=[
            [(number(value), _shade(value)) for value in row] for row in shown.cosine
        ],
        notes=NOTES,
        how_many=HOW_MANY,
    )


def number(value: float) -> str:
    """Returns a number with three digits; a dash for what is not defined."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def _shade(value: float) -> str:
    """Returns how strongly a cosine is coloured, in percent, and for which sign."""
    if math.isnan(value):
        return ""
    colour = "--up" if value > 0 else "--down"
    share = round(100 * min(1.0, abs(value)))
    return f"background: color-mix(in srgb, var({colour}) {share}%, transparent)"


def _cosine(layer: Layer, i: int, j: int) -> float:
    size = layer.norms[i] * layer.norms[j]
    return float(layer.products[i, j] / size) if size else math.nan


def _mean(values: Sequence[float]) -> float:
    defined = [float(value) for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
