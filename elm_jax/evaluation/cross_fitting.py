"""What choosing among experts is worth: chosen on some folds, reported on the others.

The best of many experts, chosen on the rows that are reported, is better than it is:
luck is chosen, too. So the rows of every dataset are dealt out into folds; for each
fold the expert is chosen on the other folds, and its score on this fold counts. A row
stays in one fold with all its prompts. The number speaks of experts that were chosen on
`1 - 1 / folds` of the rows. Two folds are the default: with more, folds share the rows
that choose, an expert that is lucky on all rows is chosen by all folds, and the score
varies more than its interval says (by 17 % with five folds, among 40 equal experts).

Where each expert was trained with several seeds, luck of a training is chosen like luck
of rows. So trainings are folds, too: an expert is chosen by the mean over the other
trainings on the other rows, and this training's score on these rows counts. The number
speaks of experts that were chosen by all trainings but one.

Each resample of rows chooses again. What it misses is the difference between what its
choice gets on the resampled rows and what the same choice gets on all rows: in the
world of a resample, the luck of these rows is merit, so that resampled scores
themselves would lie too high. Trainings are resampled as `estimates` says, by normal
draws, one for each training of each expert.

For the same reason, resamples do not choose by the rows as they are. Of two equal
experts, one that is lucky in both halves would be chosen by both in most resamples, as
if it were better; that halves may agree on luck would hardly be seen, and intervals
would hold the truth in 92 of 100 worlds. So a resample chooses by its noise, the
difference from all rows, on top of distances from the best expert that noise does not
explain: of the square of each distance, what is left without that of 2.5 standard
errors. Halves that agree on luck make great errors upwards, others small ones
downwards; so an interval ends where errors are subtracted (the basic bootstrap's).

A choice of resamples may also fall on experts that vary less than the one that was
chosen, above all by their trainings. So errors are those of the choice as it was made,
on each dataset where these are greater.

References: Davison and Hinkley (1997), Bootstrap methods and their application, chapter
5; Stone (1974), Cross-validatory choice and assessment of statistical
predictions; Hansen (2005), A test for superior predictive ability, and Andrews and
Soares (2010), Inference for parameters defined by moment inequalities using generalized
moment selection, who take distances within noise for none, too, and others as they are.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import controls, estimates, fold_choices, statistics

NUM_FOLDS = 2
_BLOCK_SIZE = 4_000_000  # Entries of sums over folds that are held at once.


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
    shared: str = "",
) -> CrossFitted | None:
    """Returns what choosing among experts is worth on folds that did not choose.

    Args:
      trainings: Results of each training of each expert, in the order in which equals
        are preferred. Of experts with unequal numbers of trainings, the first ones
        count, as many as all have; where one expert has a single training, the mean
        over each expert's trainings counts as one.
      draws: How rows and trainings are resampled.
      num_folds: Parts of the rows of each dataset, at most as many as it has rows.
      shared: Whose trainings these are, if all share them, as settings of one strategy
        do; an estimate of the same `who` shares their errors. Else, each has its own.

    Returns:
      None if the experts have not all the same rows, or a dataset has a single one.
    """
    equally = _equally_many(trainings)
    datasets = sorted({key[0] for results in equally.values() for key in results[0]})
    parts = []
    for name in datasets:
        part = fold_choices.part(equally, name)
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return None
    folds = min(num_folds, *(len(part.ids) for part in parts))
    parts = [part.with_folds(draws, folds) for part in parts]
    point = fold_choices.Choice(parts, [np.ones((1, len(part.ids))) for part in parts])
    single, by_task = _resampled(parts, point, draws, tuple(equally), shared)
    singles = [np.repeat(point.singles, len(part.tasks), axis=2) for part in parts]
    return CrossFitted(
        _chosen(parts, singles, equally, point.single[0], single),
        _chosen(parts, point.eachs, equally, point.each[0], by_task),
    )


def _equally_many(
    trainings: Mapping[str, Sequence[statistics.Columns]],
) -> dict[str, tuple[statistics.Columns, ...]]:
    number = min(map(len, trainings.values()), default=0)
    if number == 1:
        return {
            name: (controls.mean_of(columns),) for name, columns in trainings.items()
        }
    return {name: tuple(columns[:number]) for name, columns in trainings.items()}


class _Resampled(NamedTuple):
    """What resamples tell of one way to choose.

    Attributes:
      missed: [resamples, datasets], by how much they miss the score.
      trainings: As those of an estimate; none where there is one of each expert.
    """

    missed: np.ndarray
    trainings: Mapping[tuple[str, int], np.ndarray]


def _resampled(
    parts: Sequence[fold_choices.Part],
    point: fold_choices.Choice,
    draws: estimates.Draws,
    names: Sequence[str],
    shared: str,
) -> tuple[_Resampled, _Resampled]:
    """Returns the resamples of one expert for all tasks, and of one for each.

    Of each dataset, those that choose again, or those that keep the choice, whichever
    miss by more.
    """
    num_trainings = len(parts[0].tables)
    world = fold_choices.World(parts, point)
    luck = None
    if num_trainings > 1:
        luck = fold_choices.Luck(parts, [shared or name for name in names], draws)
    widest = max(len(parts), *(part.shape[2] for part in parts))
    entries = num_trainings * len(parts[0].folds) * len(names) * widest
    block = max(1, _BLOCK_SIZE // entries)
    missed: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    missed_by_kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    shares = np.zeros((2, 2, len(names), len(parts)))
    for start in range(0, draws.num_resamples, block):
        times = [
            draws.times(part.dataset, len(part.ids))[start : start + block]
            for part in parts
        ]
        resampled = fold_choices.Choice(
            parts,
            [drawn.astype(np.float32) for drawn in times],
            world,
            None if luck is None else luck.draw(start, len(times[0])),
        )
        missed[0].append(resampled.single - resampled.single_on_all)
        missed[1].append(resampled.each - resampled.each_on_all)
        missed_by_kept[0].append(resampled.single_kept - point.single)
        missed_by_kept[1].append(resampled.each_kept - point.each)
        shares += (resampled.single_shares, resampled.each_shares)
    shares_of_kept = (point.single_shares, point.each_shares)
    scale = np.array([estimates.scale_up(len(part.ids)) for part in parts])
    ways = []
    for way in range(2):
        new_errors = np.concatenate(missed[way])
        kept_errors = np.concatenate(missed_by_kept[way])
        is_kept = kept_errors.std(axis=0) > new_errors.std(axis=0)
        of_way = np.where(
            is_kept, shares_of_kept[way], shares[way] / draws.num_resamples
        )
        ways.append(
            _Resampled(
                np.where(is_kept, kept_errors, new_errors) * scale,
                {} if luck is None else _of_trainings(luck, of_way, names, shared),
            )
        )
    single, by_task = ways
    return single, by_task


def _of_trainings(
    luck: fold_choices.Luck, shares: np.ndarray, names: Sequence[str], shared: str
) -> dict[tuple[str, int], np.ndarray]:
    """Returns how far trainings are from their mean, as `Estimate.trainings` has it.

    Trainings of several experts are drawn on their own: each adds to the variance by
    the square of its share. Those that are shared add up before they are squared.
    """
    deviations = np.stack(
        [of_dataset.mean(axis=2) for of_dataset in luck.apart], axis=2
    )
    share, square = shares
    if shared:
        return {(shared, len(deviations)): (deviations * share).sum(axis=1)}
    return {
        (name, len(deviations)): deviations[:, place] * np.sqrt(square[place])
        for place, name in enumerate(names)
        if square[place].any()
    }


def _chosen(
    parts: Sequence[fold_choices.Part],
    chosen: Sequence[np.ndarray],
    trainings: Mapping[str, Sequence[statistics.Columns]],
    means: np.ndarray,
    resampled: _Resampled,
) -> Chosen:
    """Returns what is told of a choice [trainings, folds, prompts] in each dataset."""
    names = tuple(trainings)
    columns = tuple(
        _columns(
            parts,
            [best[place] for best in chosen],
            {name: results[place] for name, results in trainings.items()},
        )
        for place in range(len(parts[0].tables))
    )
    by_name = collections.Counter(
        names[int(place)] for best in chosen for place in best.ravel()
    ).most_common()
    estimate = estimates.Estimate(
        tuple(part.dataset for part in parts),
        means,
        resampled.missed,
        tuple(len(part.ids) for part in parts),
        tuple(part.rows for part in parts),
        num_trainings=len(columns),
        trainings=resampled.trainings,
        is_mirrored=True,
    )
    return Chosen(estimate, columns, tuple(by_name))


def _columns(
    parts: Sequence[fold_choices.Part],
    chosen: Sequence[np.ndarray],
    experts: Mapping[str, statistics.Columns],
) -> statistics.Columns:
    """Returns the results of whom [folds, prompts] were chosen in each dataset."""
    columns = {}
    names = tuple(experts)
    for part, best in zip(parts, chosen, strict=True):
        for p, key in enumerate(part.tasks):
            is_there = part.is_there[:, p] > 0
            values = np.empty(len(part.ids))
            for k, fold in enumerate(part.folds):
                column = experts[names[int(best[k, p])]][key]
                whole = np.full(len(part.ids), np.nan)
                whole[np.searchsorted(part.ids, column.example_ids)] = column.values
                values[fold] = whole[fold]
            columns[key] = statistics.Column(part.ids[is_there], values[is_there])
    return columns
