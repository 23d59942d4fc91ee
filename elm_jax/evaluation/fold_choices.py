"""Choices among experts by all folds but one, as rows are and as resamples have them.

`cross_fitting` says what this is for. A fold is a part of the rows of each dataset and,
where experts were trained several times, one training: a choice is made by the other
trainings' mean on the other rows, and counts on this training's results on these rows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import estimates, statistics

_OF_NOISE = 2.5  # standard errors of a distance that is taken for none


@dataclasses.dataclass(frozen=True)
class Part:
    """The results of all experts on one dataset.

    Attributes:
      dataset: The dataset's name.
      tasks: (dataset, prompt) of each prompt.
      ids: Ids of the rows, in order.
      tables: float32 [rows, experts, prompts] of each training, 0 where a prompt lacks
        a row.
      is_there: float32 [rows, prompts], 1 where a prompt has a row.
      rows: What tells these rows from others.
      folds: Places of the rows of each fold.
    """

    dataset: str
    tasks: tuple[tuple[str, str], ...]
    ids: np.ndarray
    tables: tuple[np.ndarray, ...]
    is_there: np.ndarray
    rows: int
    folds: tuple[np.ndarray, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, experts and prompts."""
        return self.tables[0].shape

    def with_folds(self, draws: estimates.Draws, number: int) -> "Part":
        """Returns the part with its rows divided into this many folds."""
        fold_of = draws.folds(self.dataset, len(self.ids), number)
        folds = tuple(np.flatnonzero(fold_of == k) for k in range(number))
        return dataclasses.replace(self, folds=folds)

    def by_training(self) -> np.ndarray:
        """Returns [trainings, experts, prompts], means over rows."""
        counts = np.maximum(self.is_there.sum(axis=0), 1)
        sums = [table.sum(axis=0, dtype=np.float64) for table in self.tables]
        return np.stack(sums) / counts


def part(
    trainings: Mapping[str, Sequence[statistics.Columns]], dataset: str
) -> Part | None:
    """Returns the results on one dataset; None if experts have not the same rows.

    Args:
      trainings: Results of each training of each expert, as many of each.
      dataset: With two rows at least, or None is returned.
    """
    num_trainings = len(next(iter(trainings.values())))
    first_results = statistics.of_dataset(next(iter(trainings.values()))[0], dataset)
    if not first_results:
        return None
    tasks = sorted(first_results)
    ids, values = statistics.table(first_results)
    is_there = np.isfinite(values)
    if len(ids) < 2:
        return None
    shape = (len(ids), len(trainings), len(tasks))
    tables = tuple(np.empty(shape, np.float32) for _ in range(num_trainings))
    for place, results in enumerate(trainings.values()):
        for table, columns in zip(tables, results, strict=True):
            on_dataset = statistics.of_dataset(columns, dataset)
            if sorted(on_dataset) != tasks:
                return None
            other_ids, values = statistics.table(on_dataset)
            has_same_ids = np.array_equal(ids, other_ids)
            if not has_same_ids or not np.array_equal(is_there, np.isfinite(values)):
                return None
            table[:, place] = np.where(is_there, values, 0.0)
    rows = estimates.rows_key(tasks, ids, np.where(is_there, 0.0, np.nan))
    return Part(dataset, tuple(tasks), ids, tables, is_there.astype(np.float32), rows)


class World:
    """How good experts are where rows are resampled: as on all rows, noise aside.

    Args:
      parts: The results, by dataset.
      all_of: The choice by all rows once.

    Attributes:
      all_of: The choice by all rows once.
      each: float32 [trainings, folds, 1, experts, prompts] of each dataset: what scores
        of a resample on the other folds have to be shifted by to become these, noise
        aside.
      single: [trainings, folds, 1, experts], the same of the sums over datasets.
    """

    def __init__(self, parts: Sequence[Part], all_of: "Choice") -> None:
        self.all_of = all_of
        self.each: list[np.ndarray] = []
        scores, spreads, spreads_of_trainings = [], [], []
        for j, dataset_part in enumerate(parts):
            by_training = dataset_part.by_training()
            mean = by_training.mean(axis=0)
            counts = np.maximum(dataset_part.is_there.sum(axis=0), 1)
            # What each row, and each training, adds to the error of a mean.
            table = sum(dataset_part.tables[1:], dataset_part.tables[0]) / np.float32(
                len(dataset_part.tables)
            )
            deviations = table - mean.astype(np.float32)
            spread = deviations * (
                dataset_part.is_there[:, np.newaxis] / counts.astype(np.float32)
            )
            spread_of_trainings = (by_training - mean) / len(by_training)
            distance = beyond_noise(mean, [spread, spread_of_trainings])
            self.each.append(distance - all_of.scores[j])
            scores.append(mean.mean(axis=1))
            spreads.append(spread.mean(axis=2))
            spreads_of_trainings.append(spread_of_trainings.mean(axis=2))
        spreads.append(np.sum(spreads_of_trainings, axis=0))
        distance = beyond_noise(np.sum(scores, axis=0), spreads)
        self.single = distance - sum(
            part_scores.mean(axis=-1) for part_scores in all_of.scores
        )


def beyond_noise(scores: np.ndarray, spreads: Sequence[np.ndarray]) -> np.ndarray:
    """Returns minus the distances from the best that noise does not explain, float32.

    Args:
      scores: [experts, ...].
      spreads: [rows, experts, ...] of each dataset, what rows add to their errors; or
        what trainings add. A single one adds nothing that could be known.
    """
    best = scores.argmax(axis=0)[np.newaxis]
    distance = np.take_along_axis(scores, best, axis=0) - scores
    variance = np.zeros_like(scores)
    for spread in spreads:
        if len(spread) > 1:
            of_best = np.take_along_axis(spread, best[np.newaxis], axis=1)
            scale = estimates.scale_up(len(spread))
            variance += ((spread - of_best) ** 2).sum(axis=0) * scale**2
    rest = np.maximum(distance**2 - _OF_NOISE**2 * variance, 0.0)
    return -np.sqrt(rest).astype(np.float32)


class Drawn(NamedTuple):
    """What other trainings would have added to results, in some resamples.

    Attributes:
      added: float32 [trainings, resamples, experts, prompts] of each dataset.
      to_choose: float32 [experts, 1], what these are multiplied by where they choose.
    """

    added: Sequence[np.ndarray]
    to_choose: np.ndarray


class Luck:
    """What other trainings would have added to results, as far as resamples tell.

    Each training of an expert gets a normal draw of its own with the covariance that
    the expert's trainings have, over datasets and prompts. The draws are those of
    `Draws.trainings`, so that they go out of differences from the expert itself. Few
    trainings estimate a variance poorly, and a choice prefers experts whose variance
    is estimated too high. So all experts choose with one variance: the mean over them.

    Args:
      parts: The results, by dataset, of two trainings or more.
      names: Of each expert, the name of its trainings; equal names share their draws.
      draws: Of all resamples.

    Attributes:
      apart: [trainings, experts, prompts] of each dataset, distances of trainings from
        their mean.
    """

    def __init__(
        self, parts: Sequence[Part], names: Sequence[str], draws: estimates.Draws
    ) -> None:
        by_training = [dataset_part.by_training() for dataset_part in parts]
        means = np.mean(
            [means_of_part.mean(axis=2) for means_of_part in by_training], axis=0
        )
        variances = means.var(axis=0, ddof=1)
        mean = max(float(variances.mean()), np.finfo(np.float32).tiny)
        to_choose = np.sqrt(mean / np.where(variances > 0, variances, mean))
        self._to_choose = to_choose[:, np.newaxis].astype(np.float32)
        self.apart = [
            means_of_part - means_of_part.mean(axis=0) for means_of_part in by_training
        ]
        # What resamples miss is scaled up for their rows later; trainings need no more.
        self._scale = [
            estimates.scale_up(len(dataset_part.ids)) for dataset_part in parts
        ]
        self._weights = [
            draws.each_training(name, len(means)).astype(np.float32) for name in names
        ]

    def draw(self, start: int, size: int) -> Drawn:
        """Returns the draws of so many resamples."""
        weights = np.stack(
            [part_weights[start : start + size] for part_weights in self._weights]
        )
        added = [
            np.einsum(
                "ebtu,uep->tbep", weights, (deviations / scale).astype(np.float32)
            )
            for deviations, scale in zip(self.apart, self._scale, strict=True)
        ]
        return Drawn(added, self._to_choose)


class Choice:
    """Choices of experts by some resamples, and the scores of these choices.

    Args:
      parts: The results, by dataset.
      times: [resamples, rows] of each dataset.
      world: How good experts are; without, the rows as they are choose.
      luck: What other trainings would have added, if there are several.

    Attributes:
      single, each: [resamples, datasets], scores on the folds that did not choose.
      single_on_all, each_on_all: What the same choices get on all rows; with `world`.
      single_kept, each_kept: What the choice by all rows gets in these resamples; the
        same.
      singles: [trainings, folds, 1], the first resample's expert for all tasks.
      eachs: [trainings, folds, prompts] for each dataset, its expert for each.
      sums, counts: [trainings, folds, resamples, experts, prompts] and [folds,
        resamples, prompts] of each dataset; without `world`.
      scores: Means on the other folds, shaped as `sums`, of each dataset; the same.
      tested: [trainings, folds, resamples, experts] of each dataset: what an expert
        adds to the score of a dataset if this fold counts for it.
      single_shares, each_shares: [2, experts, datasets], an expert's share of the
        choices for a training, and the square of it; sums over resamples of means over
        trainings.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        times: Sequence[np.ndarray],
        world: World | None = None,
        luck: Drawn | None = None,
    ) -> None:
        each_scores, each_on_all, each_kept, each_shares = [], [], [], []
        num_experts = parts[0].shape[1]
        self.eachs: list[np.ndarray] = []
        self.sums: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []
        self.scores: list[np.ndarray] = []
        self.tested: list[np.ndarray] = []
        by_all: np.ndarray | float = 0.0 if world is None else world.single
        for j, (dataset_part, drawn) in enumerate(zip(parts, times, strict=True)):
            sums, counts = _sums(dataset_part, drawn)
            choosing_sums = sums
            if luck is not None:
                added = luck.added[j][:, np.newaxis] * counts[:, :, np.newaxis]
                choosing_sums = sums + added * luck.to_choose
                sums = sums + added
            count = counts.sum(axis=0)
            weight = (count > 0) / np.maximum(count, 1)  # of a row in its prompt's mean
            weight = weight / (count > 0).sum(axis=1, keepdims=True)
            num_left = (count - counts)[:, :, np.newaxis]
            choosing_sums = _of_other_trainings(choosing_sums)
            choosing_sums = choosing_sums.sum(axis=1, keepdims=True) - choosing_sums
            scores = choosing_sums / np.maximum(num_left, 1)
            if world is None:
                self.sums.append(sums)
                self.counts.append(counts)
                self.scores.append(scores.astype(np.float32))
                criterion = scores
            else:
                criterion = scores + world.each[j]
                if not num_left.all():
                    criterion = np.where(num_left > 0, criterion, 0)
                    scores = np.where(num_left > 0, scores, world.all_of.scores[j])
            # Of a prompt whose rows all lie in this fold nothing is known: it is 0 for
            # all experts, and without noise.
            by_all = by_all + scores.mean(axis=-1)
            best = criterion.argmax(axis=3)  # [S, folds, B, P]
            each_scores.append(_chosen_scores(sums, best, weight))
            self.tested.append((sums * weight[:, np.newaxis]).sum(axis=-1))
            self.eachs.append(best[:, :, 0])
            each_shares.append(_shares(best, num_experts))
            if world is not None:
                each_on_all.append(_chosen_scores_of_all(world.all_of, j, best))
                kept_experts = world.all_of.eachs[j][:, :, np.newaxis]
                each_kept.append(_chosen_scores(sums, kept_experts, weight))
        best = np.asarray(by_all).argmax(axis=3)  # [S, folds, B]
        self.singles = best[:, :, :1]
        self.single = _of_one(self.tested, best)
        self.each = np.stack(each_scores, axis=1)
        self.each_shares = np.stack(each_shares, axis=2)
        shares = _shares(best[..., np.newaxis], num_experts)[..., np.newaxis]
        self.single_shares = np.repeat(shares, len(parts), axis=2)
        if world is not None:
            self.each_on_all = np.stack(each_on_all, axis=1)
            self.single_on_all = _of_one(world.all_of.tested, best)
            self.each_kept = np.stack(each_kept, axis=1)
            self.single_kept = _of_one(self.tested, world.all_of.singles)


def _sums(of: Part, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums of results and the numbers of rows, by fold and resample.

    These are `Choice.sums`, which are by training too, and `Choice.counts`.
    """
    shape = (len(of.tables), len(of.folds), len(times), *of.shape[1:])
    sums, counts = np.empty(shape, times.dtype), []
    for k, fold in enumerate(of.folds):
        drawn = times[:, fold]
        for s, table in enumerate(of.tables):
            flat = table[fold].astype(drawn.dtype, copy=False).reshape(len(fold), -1)
            sums[s, k] = (drawn @ flat).reshape(shape[2:])
        counts.append(drawn @ of.is_there[fold].astype(drawn.dtype, copy=False))
    return sums, np.stack(counts)


def _of_other_trainings(sums: np.ndarray) -> np.ndarray:
    """Returns, for each training, the mean over the others; for a single one itself."""
    if len(sums) == 1:
        return sums
    return (sums.sum(axis=0) - sums) / (len(sums) - 1)


def _shares(best: np.ndarray, num_experts: int) -> np.ndarray:
    """Returns [2, experts], the `Choice.single_shares` of choices [S, folds, B, P]."""
    num_trainings, num_folds, num_resamples, num_prompts = best.shape
    place = np.arange(num_trainings * num_resamples) * num_experts
    place = place.reshape(num_trainings, 1, num_resamples, 1)
    counts = np.bincount(
        (best + place).ravel(), minlength=num_trainings * num_resamples * num_experts
    ).reshape(num_trainings, num_resamples, num_experts)
    shares = counts / (num_folds * num_prompts)
    return np.stack([shares, shares**2]).sum(axis=2).mean(axis=1)


def _chosen_scores(
    sums: np.ndarray, best: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Returns [B], the scores of the experts [S, folds, B, P] on their folds."""
    place = np.broadcast_to(best, (*sums.shape[:3], best.shape[3]))
    scores = np.take_along_axis(sums, place[:, :, :, np.newaxis], axis=3)[:, :, :, 0]
    return (scores * weight).sum(axis=(1, 3)).mean(axis=0)


def _chosen_scores_of_all(all_of: Choice, j: int, best: np.ndarray) -> np.ndarray:
    """Returns what `_chosen_scores` does, where each row counts once."""
    once = all_of.counts[j].sum(axis=0)[0]
    means = all_of.sums[j][:, :, 0] / np.maximum(once, 1) / (once > 0).sum()
    training = np.arange(means.shape[0])[:, np.newaxis, np.newaxis, np.newaxis]
    fold = np.arange(means.shape[1])[:, np.newaxis, np.newaxis]
    scores = means[training, fold, best, np.arange(means.shape[3])]
    return scores.sum(axis=(1, 3)).mean(axis=0)


def _of_one(tested: Sequence[np.ndarray], best: np.ndarray) -> np.ndarray:
    """Returns [B, datasets], the scores of one expert [S, folds, B] for all tasks."""
    num_resamples = max(best.shape[2], tested[0].shape[2])
    shape = (*best.shape[:2], num_resamples)
    place = np.broadcast_to(best, shape)[..., np.newaxis]
    scores = []
    for by_expert in tested:
        by_expert = np.broadcast_to(by_expert, (*shape, by_expert.shape[-1]))
        sums = np.take_along_axis(by_expert, place, axis=3)[..., 0]
        scores.append(sums.sum(axis=1).mean(axis=0))
    return np.stack(scores, axis=1)
