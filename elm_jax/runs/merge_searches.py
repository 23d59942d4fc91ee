"""Searches for the coefficients of a merge, by what merges get on rows that choose."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from elm_jax import errors, fields
from elm_jax.evaluation import cross_fitting, estimates, statistics
from elm_jax.merging import affine, averages, by_name, searching, task_arithmetic
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import search_problems, searches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(searches.Search):
    """Tries the merge with several values of one option, and takes the best.

    Attributes:
      option: Of the method, such as `scale` or `density`.
      values: To try, in the order in which equals are preferred.
    """

    kind: ClassVar[str] = "sweep"
    cross_fits: ClassVar[bool] = True
    option: str = "scale"
    values: tuple[fields.Finite, ...] = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1)

    def check_method(self, method: MergeMethod) -> None:
        """Raises ConfigError for a method without this option, or values it refuses."""
        names = [field.name for field in dataclasses.fields(method)]
        if self.option not in names or not self.values:
            raise errors.ConfigError(
                found=f"a sweep of {self.option!r} in {list(self.values)} of"
                f" {method.name}",
                expected=f"one or more values of {', '.join(names) or 'no option'}",
                do="Sweep an option that the method has, or take another method",
            )
        if len({*self.values}) < len(self.values):
            raise errors.ConfigError(
                found=f"a sweep of {self.option!r} in {list(self.values)}",
                expected="each value once",
                do="Leave repeats out",
            )
        for value in self.values:
            self._of(method, value)

    def num_merges(self, num_experts: int) -> int:
        """Returns how many merges it scores at most."""
        del num_experts
        return len(self.values)

    def find(self, problem: search_problems.Problem) -> searches.Found:
        """Returns the method with the best value."""
        columns, progress = {}, problem.progress(len(self.values))
        for done, value in enumerate(self.values, 1):
            columns[repr(value)] = problem.columns(self._of(problem.method, value))
            progress(done)
        scores = [statistics.mean(scored) for scored in columns.values()]
        best = int(np.argmax(scores))
        facts = {
            "chosen": self.values[best],
            "tried": [list(pair) for pair in zip(self.values, scores, strict=True)],
        }
        if self.rows.cross_fit:
            facts["cross_fitted"] = _cross_fitted(columns)
        return searches.Found(self._of(problem.method, self.values[best]), facts)

    def _of(self, method: MergeMethod, value: float) -> MergeMethod:
        kind = type(getattr(method, self.option))
        option_value: Any = int(value) if kind is int and value == int(value) else value
        return dataclasses.replace(method, **{self.option: option_value})


def _cross_fitted(columns: dict[str, Any]) -> dict[str, Any]:
    """Returns the score on each half of the rows of the value that the other chose."""
    fitted = cross_fitting.cross_fit(
        {name: [values] for name, values in columns.items()}, estimates.Draws()
    )
    if fitted is None:
        return {"score": None, "why": "a dataset has a single row that chooses"}
    single = fitted.best_single
    interval = single.estimate.interval
    return {
        "score": float(np.mean(single.estimate.means)),
        "interval": [float(interval.low), float(interval.high)],
        "chosen": dict(single.counts),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class GreedySoup(searches.Search):
    """The mean of those experts that do not make it worse, the best one first.

    `sum x_t / n` over the n experts of the soup, with parameters x_t: experts join by
    falling score of their own, if the mean's score with them is not lower than without.

    Tools: the same rule; here the split that is reported never chooses.

    Reference: Wortsman et al. 2022, arXiv:2203.05482; `searching.greedy_soup`.
    """

    kind: ClassVar[str] = "greedy_soup"

    def check_method(self, method: MergeMethod) -> None:
        """Raises ConfigError for a method that is no average."""
        if not isinstance(method, averages.Uniform | averages.Weighted):
            _refuse(self.kind, method, "uniform")

    def num_merges(self, num_experts: int) -> int:
        """Returns how many merges it scores at most."""
        return 2 * num_experts - 1

    def find(self, problem: search_problems.Problem) -> searches.Found:
        """Returns a mean with weights 1 and 0."""
        count = len(problem.folders)
        progress, tried = problem.progress(self.num_merges(count)), []

        def score(places: Sequence[int]) -> float:
            weights = tuple(float(place in places) for place in range(count))
            value = problem.score(averages.Weighted(weights=weights))
            tried.append([list(weights), value])
            progress(len(tried))
            return value

        singles = [score([place]) for place in range(count)]
        soup = searching.greedy_soup(singles, score)
        weights = [float(weight) for weight in soup.coefficients]
        method = averages.Weighted(weights=tuple(weights))
        return searches.Found(method, {"chosen": weights, "tried": tried})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraHub(searches.Search):
    """Weights of a sum of what experts change, by the loss of labelled rows.

    The base and `sum w_t d_t`, d_t what the experts change, with the weights from 0 in
    `[-bound, bound]` that have the least `loss + penalty * mean |w_t|`. The loss is
    minus the log-probability of the right answer among the choices, in nats.

    Tools: the authors' searches by Nevergrad's NGOpt, 40 steps in its examples, and
    multiplies A and B of LoRAs apart; here a weight multiplies what an expert does.

    Reference: Huang et al. 2023, arXiv:2307.13269; `searching.lorahub`.

    Attributes:
      by: A `search` without gradients (COBYQA), or Adam's `gradient`. With the weights
        of three experts Adam mostly stayed near 0, at a greater loss, where the search
        did not (`elm_jax/merging/README.md`).
      max_steps: How many weights are tried.
      bound: Of each weight.
      penalty: On the mean size of the weights.
      learning_rate: Adam's learning rate.
    """

    kind: ClassVar[str] = "lorahub"
    by_probability: ClassVar[bool] = True
    by: Literal["search", "gradient"] = "search"
    max_steps: fields.Count = 40
    bound: fields.Positive = 1.5
    penalty: fields.NotNegative = 0.05
    learning_rate: fields.Positive = 0.1

    def __post_init__(self) -> None:
        """Raises ConfigError for a learning rate that nothing reads."""
        super().__post_init__()
        if self.by != "gradient" and self.learning_rate != type(self).learning_rate:
            fields.refuse(self, {"learning_rate": "the default, or by = 'gradient'"})

    def check_method(self, method: MergeMethod) -> None:
        """Raises ConfigError for a method that is no sum."""
        _check_sum(self.kind, method)

    def num_merges(self, num_experts: int) -> int:
        """Returns how many merges it scores at most."""
        del num_experts
        return self.max_steps + 1 if self.by == "gradient" else max(2, self.max_steps)

    def find(self, problem: search_problems.Problem) -> searches.Found:
        """Returns the sum with the best weights."""
        slope, count = problem.slope_fn("loss"), len(problem.folders)
        progress, tried = problem.progress(self.num_merges(count)), []

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            value, slopes = slope({affine.ALL: weights})
            tried.append([weights.tolist(), value])
            progress(len(tried))
            return value, slopes[affine.ALL]

        names = ("max_steps", "bound", "penalty")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.by == "gradient":
            rate = self.learning_rate
            best = searching.lorahub_by_gradient(
                loss, count, learning_rate=rate, **options
            )
        else:
            best = searching.lorahub(lambda w: loss(w)[0], count, **options)
        weights = best.coefficients.tolist()
        method = problem.method.with_weights(weights)
        return searches.Found(method, {"chosen": weights, "tried": tried})


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaMerging(searches.Search):
    """Weights of a sum of what experts change, by the entropy of unlabelled rows.

    The base and `sum w_t d_t`, d_t what the experts change, with weights that make the
    mean of `-sum p log p` small, p the distribution over a row's answer choices. No
    label is read.

    Tools: FusionBench starts at 0.3, too, with 1,000 steps of Adam at 1e-3, as the
    paper. For Flan-T5 it takes the entropy of the mean of a batch's logits, after a
    decoder that begins with the end-of-text token.

    Reference: Yang et al. 2023, arXiv:2310.02575; `searching.adamerging`.

    Attributes:
      by: One weight for each `expert`, or for each expert in each `layer`; what is in
        no layer has weights of its own.
      start: All weights at the beginning.
      max_steps: Greatest number of Adam's steps.
      learning_rate: Of Adam; the paper takes 1e-3 and 1,000 steps.
    """

    kind: ClassVar[str] = "adamerging"
    by_probability: ClassVar[bool] = True
    by: Literal["expert", "layer"] = "expert"
    start: fields.Finite = 0.3
    max_steps: fields.Count = 100
    learning_rate: fields.Positive = 1e-2

    def check_method(self, method: MergeMethod) -> None:
        """Raises ConfigError for a method that is no sum."""
        _check_sum(self.kind, method)

    def num_merges(self, num_experts: int) -> int:
        """Returns how many merges it scores at most."""
        del num_experts
        return self.max_steps + 1

    def find(self, problem: search_problems.Problem) -> searches.Found:
        """Returns the sum with the best weights, by name where layers have theirs."""
        slope, count = problem.slope_fn("entropy"), len(problem.folders)
        groups = problem.layer_groups if self.by == "layer" else []
        names = [*groups, affine.ALL]
        progress, tried = problem.progress(self.num_merges(count)), []

        def entropy(weights: np.ndarray) -> tuple[float, np.ndarray]:
            columns = np.moveaxis(weights, -1, 0)
            value, slopes = slope(dict(zip(names, columns, strict=True)))
            tried.append([weights.tolist(), value])
            progress(len(tried))
            return value, np.stack([slopes[name] for name in names], axis=-1)

        best = searching.adamerging(
            entropy,
            (count, len(names)),
            start=self.start,
            max_steps=self.max_steps,
            learning_rate=self.learning_rate,
        )
        of_group = dict(zip(names, best.coefficients.T.tolist(), strict=True))
        method = problem.method.with_weights(of_group.pop(affine.ALL))
        if groups:
            weights_of = {
                f"^{name}": tuple(weights) for name, weights in of_group.items()
            }
            method = by_name.ByName(method=method, weights_of=weights_of)
        facts = {"chosen": best.coefficients.tolist(), "groups": names, "tried": tried}
        return searches.Found(method, facts)


def _check_sum(kind: str, method: MergeMethod) -> None:
    if method != task_arithmetic.TaskArithmetic():
        _refuse(kind, method, "task_arithmetic, with its weights and scale by default")


def _refuse(kind: str, method: MergeMethod, instead: str) -> None:
    raise errors.ConfigError(
        found=f"{kind} for {method}",
        expected=f"a method whose weights it can choose: {instead}",
        do=f"Set the method to {instead}",
    )
