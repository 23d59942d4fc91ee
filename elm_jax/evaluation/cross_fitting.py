"""What choosing among experts is worth: chosen on some folds, reported on the others.

The best of many experts, chosen on the rows that are reported, is better than it is:
luck is chosen, too. So the rows of every dataset are dealt out into folds; for each
fold the expert is chosen on the other folds, and its score on this fold counts. A row
stays in one fold with all its prompts. The number speaks of experts that were chosen on
`1 - 1 / folds` of the rows. Two folds are the default: with more, folds share the rows
that choose, an expert that is lucky on all rows is chosen by all folds, and the score
varies more than its interval says (by 17 % with five folds, among 40 equal experts).

Each resample of rows chooses again. What it misses is the difference between what its
choice gets on the resampled rows and what the same choice gets on all rows: in the
world of a resample, the luck of these rows is merit, so that resampled scores
themselves would lie too high.

For the same reason, resamples do not choose by the rows as they are. Of two equal
experts, one that is lucky in both halves would be chosen by both in most resamples, as
if it were better; that halves may agree on luck would hardly be seen, and intervals
would hold the truth in 92 of 100 worlds. So a resample chooses by its noise, the
difference from all rows, on top of distances from the best expert that noise does not
explain: of the square of each distance, what is left without that of 2.5 standard
errors. Halves that agree on luck make great errors upwards, others small ones
downwards; so an interval ends where errors are subtracted (the basic bootstrap's).

References: Davison and Hinkley (1997), Bootstrap methods and their application, chapter
5; Stone (1974), Cross-validatory choice and assessment of statistical
predictions; Hansen (2005), A test for superior predictive ability, and Andrews and
Soares (2010), Inference for parameters defined by moment inequalities using generalized
moment selection, who take distances within noise for none, too, and others as they are.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import controls, estimates, statistics

NUM_FOLDS = 2
_BLOCK_SIZE = 4_000_000  # Entries of sums over folds that are held at once.
_OF_NOISE = 2.5  # standard errors of a distance that is taken for none


class Chosen(NamedTuple):
    """A way to choose among experts, cross-fitted.

    Attributes:
      estimate: The score on the folds that did not choose.
      columns: Each row's result by the expert that the other folds chose; of each
        training, as far as all experts have as many.
      counts: On how many folds, of all tasks, each expert was chosen; most first.
    """

    estimate: estimates.Estimate
    columns: tuple[statistics.Columns, ...]
    counts: tuple[tuple[str, int], ...]


class CrossFitted(NamedTuple):
    """The two ways to choose: one expert for all tasks, and one for each task."""

    best_single: Chosen
    best_per_prompt: Chosen


def cross_fit(
    trainings: Mapping[str, Sequence[statistics.Columns]],
    draws: estimates.Draws,
    *,
    num_folds: int = NUM_FOLDS,
) -> CrossFitted | None:
    """Returns what choosing among experts is worth on rows that did not choose.

    Args:
      trainings: Results of each training of each expert, in the order in which equals
        are preferred. An expert is chosen by its mean over trainings.
      draws: How rows are resampled.
      num_folds: Parts of the rows of each dataset, at most as many as it has rows.

    Returns:
      None if the experts have not all the same rows, or a dataset has a single one.
    """
    experts = {name: controls.mean_of(own) for name, own in trainings.items()}
    datasets = sorted({key[0] for one in experts.values() for key in one})
    parts = [_part(experts, name) for name in datasets]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(datasets):
        return None
    folds = min(num_folds, *(len(part.ids) for part in known))
    known = [part.with_folds(draws, folds) for part in known]
    point = _Choice(known, [np.ones((1, len(part.ids))) for part in known])
    world = _World(known, point)
    size = max(
        max(part.shape[1] * part.shape[2], part.shape[1] * len(known)) for part in known
    )
    block = max(1, _BLOCK_SIZE // (folds * size))
    missed: list[list[np.ndarray]] = [[], []]
    for start in range(0, draws.num_resamples, block):
        times = [
            draws.times(part.dataset, len(part.ids))[start : start + block]
            for part in known
        ]
        found = _Choice(known, [one.astype(np.float32) for one in times], world)
        missed[0].append(found.single - found.single_on_all)
        missed[1].append(found.each - found.each_on_all)
    singles = [np.tile(point.singles, (1, len(part.tasks))) for part in known]
    return CrossFitted(
        _chosen(known, singles, trainings, draws, (point.single, missed[0])),
        _chosen(known, point.eachs, trainings, draws, (point.each, missed[1])),
    )


def _chosen(
    parts: Sequence["_Part"],
    chosen: Sequence[np.ndarray],
    trainings: Mapping[str, Sequence[statistics.Columns]],
    draws: estimates.Draws,
    scores: tuple[np.ndarray, list[np.ndarray]],
) -> Chosen:
    """Returns what is told of a choice [folds, prompts] in each dataset."""
    means, missed = scores
    names = tuple(trainings)
    columns = tuple(
        _columns(parts, chosen, {name: own[place] for name, own in trainings.items()})
        for place in range(min(map(len, trainings.values())))
    )
    of_rows = estimates.Estimate(
        tuple(part.dataset for part in parts),
        means[0],
        np.concatenate(missed)
        * np.array([estimates.scale_up(len(part.ids)) for part in parts]),
        tuple(len(part.ids) for part in parts),
        tuple(part.rows for part in parts),
        is_mirrored=True,
    )
    by_training = [
        [statistics.mean(statistics.of_dataset(one, part.dataset)) for part in parts]
        for one in columns
    ]
    best = [names[int(place)] for own in chosen for place in own.ravel()]
    who = collections.Counter(best).most_common()
    return Chosen(
        estimates.of_trainings(of_rows, np.array(by_training), draws, who=who[0][0]),
        columns,
        tuple(who),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """The results of all experts on one dataset."""

    dataset: str
    tasks: tuple[tuple[str, str], ...]
    ids: np.ndarray
    table: np.ndarray  # float32 [rows, experts, prompts], 0 where a prompt lacks a row
    known: np.ndarray  # float32 [rows, prompts]
    rows: int
    folds: tuple[np.ndarray, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.shape

    def with_folds(self, draws: estimates.Draws, number: int) -> "_Part":
        of = draws.folds(self.dataset, len(self.ids), number)
        folds = tuple(np.flatnonzero(of == k) for k in range(number))
        return dataclasses.replace(self, folds=folds)


def _part(
    experts: Mapping[str, statistics.Columns],
    dataset: str,
) -> _Part | None:
    table = known = ids = None
    tasks: list[tuple[str, str]] = []
    for place, one in enumerate(experts.values()):
        own = statistics.of_dataset(one, dataset)
        if not own:
            return None
        own_ids, values = statistics.table(own)
        if table is None or known is None or ids is None:
            if len(own_ids) < 2:
                return None
            tasks, ids, known = sorted(own), own_ids, np.isfinite(values)
            table = np.empty((len(ids), len(experts), len(tasks)), np.float32)
        same = sorted(own) == tasks and np.array_equal(ids, own_ids)
        if not same or not np.array_equal(known, np.isfinite(values)):
            return None
        table[:, place] = np.where(known, values, 0.0)
    if table is None or known is None or ids is None:
        return None
    rows = estimates.rows_key(tasks, ids, np.where(known, 0.0, np.nan))
    return _Part(dataset, tuple(tasks), ids, table, known.astype(np.float32), rows)


class _World:
    """How good experts are where rows are resampled: as on all rows, noise aside.

    Args:
      parts: The results, by dataset.
      all_of: The choice by all rows once.

    Attributes:
      all_of: The same.
      each: float32 [folds, 1, experts, prompts] of each dataset: what scores of a
        resample on the other folds have to be shifted by to become these, noise aside.
      single: [folds, 1, experts], the same of the sums over datasets.
    """

    def __init__(self, parts: Sequence[_Part], all_of: "_Choice") -> None:
        self.all_of = all_of
        self.each: list[np.ndarray] = []
        scores, spreads = [], []
        for j, (part, (sums, counts)) in enumerate(
            zip(parts, all_of.sums, strict=True)
        ):
            count = np.maximum(counts.sum(axis=0)[0], 1)
            mean = sums.sum(axis=0)[0] / count
            # What each row adds to the error of a mean.
            apart = part.table - mean.astype(np.float32)
            spread = apart * (part.known[:, np.newaxis] / count.astype(np.float32))
            self.each.append(_beyond_noise(mean, [spread]) - all_of.scores[j])
            scores.append(mean.mean(axis=1))
            spreads.append(spread.mean(axis=2))
        distance = _beyond_noise(np.sum(scores, axis=0), spreads)
        self.single = distance - sum(own.mean(axis=-1) for own in all_of.scores)


def _beyond_noise(scores: np.ndarray, spreads: Sequence[np.ndarray]) -> np.ndarray:
    """Returns minus the distances from the best that noise does not explain.

    Args:
      scores: [experts, ...].
      spreads: [rows, experts, ...] of each dataset, what rows add to their errors.
    """
    best = scores.argmax(axis=0)[np.newaxis]
    distance = np.take_along_axis(scores, best, axis=0) - scores
    variance = np.zeros_like(scores)
    for spread in spreads:
        of_best = np.take_along_axis(spread, best[np.newaxis], axis=1)
        scale = estimates.scale_up(len(spread))
        variance += ((spread - of_best) ** 2).sum(axis=0) * scale**2
    rest = np.maximum(distance**2 - _OF_NOISE**2 * variance, 0.0)
    return -np.sqrt(rest).astype(np.float32)


class _Choice:
    """Choices by some resamples, and what they get.

    Args:
      parts: The results, by dataset.
      times: [resamples, rows] of each dataset.
      world: How good experts are; without, the rows as they are choose.

    Attributes:
      single, each: [resamples, datasets], scores on the folds that did not choose.
      single_on_all, each_on_all: What the same choices get on all rows; with `world`.
      singles: [folds, 1], the first resample's expert for all tasks.
      eachs: [folds, prompts] for each dataset, its expert for each.
    """

    def __init__(
        self,
        parts: Sequence[_Part],
        times: Sequence[np.ndarray],
        world: _World | None = None,
    ) -> None:
        num_folds, num_experts = len(parts[0].folds), parts[0].shape[1]
        train = np.zeros((num_folds, len(times[0]), num_experts), times[0].dtype)
        tested, each, each_on_all = [], [], []
        self.eachs: list[np.ndarray] = []
        self.sums: list[tuple[np.ndarray, np.ndarray]] = []
        self.scores: list[np.ndarray] = []
        for j, (part, drawn) in enumerate(zip(parts, times, strict=True)):
            sums, counts = _sums(part, drawn)  # [folds, B, E, P], [folds, B, P]
            total, count = sums.sum(axis=0), counts.sum(axis=0)
            weight = (count > 0) / np.maximum(count, 1)  # of a row in its prompt's mean
            weight = weight / (count > 0).sum(axis=1, keepdims=True)
            left = (count - counts)[:, :, np.newaxis]
            scores = (total - sums) / np.maximum(left, 1)
            if world is None:
                self.sums.append((sums, counts))
                self.scores.append(scores.astype(np.float32))
                by = scores
            else:
                by = scores + world.each[j]
                if not left.all():
                    by = np.where(left > 0, by, 0)
                    scores = np.where(left > 0, scores, world.all_of.scores[j])
            # Of a prompt whose rows all lie in this fold nothing is known: it is 0 for
            # all experts, and without noise.
            train += scores.mean(axis=-1)
            best = by.argmax(axis=2)  # [folds, B, P]
            each.append(_taken(sums, best, weight))
            tested.append((sums * weight[:, np.newaxis]).sum(axis=-1))
            self.eachs.append(best[:, 0])
            if world is not None:
                whole, num = world.all_of.sums[j]
                once = num.sum(axis=0)[0]
                mean = whole[:, 0] / np.maximum(once, 1) / (once > 0).sum()
                each_on_all.append(_taken_of_all(mean, best))
        if world is not None:
            train += world.single
        best = train.argmax(axis=2)  # [folds, B]
        self.singles = best[:, :1]
        place = best[:, :, np.newaxis]
        self.single = np.stack(
            [np.take_along_axis(one, place, 2)[..., 0].sum(axis=0) for one in tested],
            axis=1,
        )
        self.each = np.stack(each, axis=1)
        if world is not None:
            fold = np.arange(num_folds)[:, np.newaxis]
            self.each_on_all = np.stack(each_on_all, axis=1)
            self.single_on_all = np.stack(
                [one[:, 0][fold, best].sum(axis=0) for one in world.all_of.tested],
                axis=1,
            )
        self.tested = tested


def _sums(part: _Part, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns sums of results and counts of rows, of each fold."""
    sums, counts = [], []
    for fold in part.folds:
        drawn = times[:, fold]
        flat = part.table[fold].astype(drawn.dtype, copy=False)
        found = drawn @ flat.reshape(len(fold), -1)
        sums.append(found.reshape(len(drawn), *part.shape[1:]))
        counts.append(drawn @ part.known[fold].astype(drawn.dtype, copy=False))
    return np.stack(sums), np.stack(counts)


def _taken(sums: np.ndarray, best: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns [B], the scores of the experts [folds, B, P] on their folds."""
    own = np.take_along_axis(sums, best[:, :, np.newaxis], axis=2)[:, :, 0]
    return (own * weight).sum(axis=(0, 2))


def _taken_of_all(mean: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Returns the same of the contributions [folds, E, P] of all rows."""
    fold = np.arange(len(mean))[:, np.newaxis, np.newaxis]
    return mean[fold, best, np.arange(mean.shape[2])].sum(axis=(0, 2))


def _columns(
    parts: Sequence[_Part],
    chosen: Sequence[np.ndarray],
    experts: Mapping[str, statistics.Columns],
) -> statistics.Columns:
    found = {}
    names = tuple(experts)
    for part, best in zip(parts, chosen, strict=True):
        for p, key in enumerate(part.tasks):
            is_there = part.known[:, p] > 0
            values = np.empty(len(part.ids))
            for k, fold in enumerate(part.folds):
                column = experts[names[int(best[k, p])]][key]
                whole = np.full(len(part.ids), np.nan)
                whole[np.searchsorted(part.ids, column.example_ids)] = column.values
                values[fold] = whole[fold]
            found[key] = statistics.Column(part.ids[is_there], values[is_there])
    return found
