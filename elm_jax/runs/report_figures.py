"""Tables of figures below a report's main table: what its numbers are worth."""

from collections.abc import Mapping, Sequence

from elm_jax import expert_kinds
from elm_jax.evaluation import (
    comparisons,
    prompts,
    variance,
)
from elm_jax.reporting import report, text
from elm_jax.runs import report_library, report_settings
from elm_jax.runs.report_way import Way
from elm_jax.runs.report_ways import Ways

BASELINES: tuple[expert_kinds.Role, ...] = ("multitask", "base")
_OF_TRAININGS = (
    "Each expert has several trainings: where choices are cross-fitted, one training is"
    " reported and the others choose, each in turn.",
)


def tables(ways: Ways) -> tuple[report.Figures, ...]:
    """Returns the tables that rows can fill."""
    makers = (_against, _choosing, _settings, _prompts, _variance)
    figures = [table(ways) for table in makers]
    figures += [report_library.table(ways, way) for way in ways.choosing or [None]]
    return tuple(table for table in figures if table is not None)


def strong(ways: Sequence[Way]) -> frozenset[tuple[int, int]]:
    """Returns which scores to stress, by places of the way and the column.

    In a column in which some way is shown to be worse than another, they are those that
    no other is shown to beat. All pairs and columns are compared at once. Bounds and
    references take no part.
    """
    taking = [
        (place, way.whole)
        for place, way in enumerate(ways)
        if way.whole is not None and not way.is_reference
    ]
    if len(taking) < 2 or len({estimate.rows for _, estimate in taking}) > 1:
        return frozenset()
    columns = comparisons.not_worse([estimate for _, estimate in taking])
    return frozenset(
        (taking[i][0], column) for column, places in enumerate(columns) for i in places
    )


def resampled(ways: Sequence[Way]) -> str:
    """Returns a sentence that says how the intervals were made."""
    several = [
        f"{len(way.columns)} of {way.label}" for way in ways if len(way.columns) > 1
    ]
    if not several:
        return (
            "Intervals are from resampling rows, and of one training: they say nothing"
            " about another."
        )
    return (
        "Intervals are from resampling rows, and trainings where there are several"
        f" ({', '.join(several)}); those of one training say nothing about another."
    )


def _against(ways: Ways) -> report.Figures | None:
    baselines = [w for role in BASELINES if (w := ways.of_role(role)) and w.whole]
    if not baselines:
        return None
    baseline = baselines[0]
    base = baseline.whole
    assert base is not None  # noqa: S101 - for the type checker
    other_ways = {
        way.label: way
        for way in ways.all
        if way.whole is not None
        and not way.is_reference
        and way is not baseline
        and way.whole.rows == base.rows
    }
    if not other_ways:
        return None
    scores = {k: w.whole for k, w in other_ways.items() if w.whole is not None}
    gaps = comparisons.against(base, scores)
    tests = [comparisons.sign_test(w.mean, baseline.mean) for w in other_ways.values()]
    corrected = comparisons.holm([test.p_value for test in tests])
    several = any(len(way.columns) > 1 for way in (baseline, *other_ways.values()))
    rows = []
    for (label, way), test, p_value in zip(
        other_ways.items(), tests, corrected, strict=True
    ):
        gap = gaps[label]
        chance = prompts.chance_of_order(way.mean, baseline.mean)
        rows.append(
            (
                label,
                (
                    report.Signed(gap.gap),
                    report.Signed(gap.simultaneous),
                    f"{test.wins} : {test.losses}",
                    text.p_value(p_value),
                    gap.least,
                    100.0 * chance,
                    *([str(gap.num_trainings)] if several else []),
                ),
            )
        )
    return report.Figures(
        title=f"Differences from {baseline.label} (points)",
        columns=(
            *("difference", "all at once", "won : lost", "exact p", "least shown"),
            *(["new prompt, %", "trainings"] if several else ["new prompt, %"]),
        ),
        rows=tuple(rows),
        notes=(
            "difference: with its own 95 % interval. all at once: with intervals that"
            f" hold together for all {len(rows)} in 95 of 100 cases; only these tell"
            " which of several is better.",
            "won : lost: rows, by a row's mean over prompts; exact p: of the sign test"
            " of these (McNemar's under one prompt), corrected for the number of ways"
            " by Holm's steps.",
            "least shown: the smallest true difference that such rows show in 8 of 10"
            " cases, all at once.",
            "new prompt: the chance that the order of the two means holds for one more"
            " prompt of these datasets, by leaving each out in turn.",
            *(
                ["trainings: seeds of the two, the fewer of them."]
                if several
                else ["All are of one training: 'in this training' goes with each."]
            ),
        ),
    )


def _choosing(ways: Ways) -> report.Figures | None:
    oracle = ways.by_label("oracle")
    if ways.cross_fitted is None or oracle is None or oracle.whole is None:
        return None
    bounds = {
        "best_single": max(report_library.means(ways.singles)),
        "best_per_prompt": oracle.whole.mean,
    }
    rows, several = [], False
    for label, bound in bounds.items():
        fitted = getattr(ways.cross_fitted, label)
        several = fitted.estimate.num_trainings > 1
        other_way = None if ways.chosen_here else ways.by_label(label)
        score = other_way and other_way.whole
        chosen = ", ".join(f"{count} {name}" for name, count in fitted.counts[:2])
        figures = (bound, fitted.estimate.interval, bound - fitted.estimate.mean)
        rows.append((label, (*figures, score and score.interval, chosen)))
    return report.Figures(
        title=f"What choosing among {len(ways.experts)} experts is worth (percent)",
        columns=(
            *("chosen here", "cross-fitted", "optimism", "chosen elsewhere"),
            "folds that chose",
        ),
        rows=tuple(rows),
        notes=(
            "chosen here: on the rows that are reported, a bound and no score of a"
            " method. cross-fitted: chosen on one half of the rows, reported on the"
            " other, and the other way round; each resample chooses again. optimism:"
            " their difference, luck for the most part.",
            *_OF_TRAININGS * several,
            *_of_unequal_trainings(
                {k: len(trainings) for k, trainings in ways.experts.items()}
            ),
        ),
    )


def _of_unequal_trainings(numbers: Mapping[str, int]) -> Sequence[str]:
    """Returns how a choice treats experts with unequal numbers of trainings."""
    fewest = min(numbers, key=lambda name: numbers[name])
    number, most = numbers[fewest], max(numbers.values())
    if number == most:
        return ()
    if number == 1:
        return (
            f"{fewest} has a single training, and others have up to {most}: so each"
            " expert is chosen and reported by the mean over its trainings, and a lucky"
            " one is chosen for its luck.",
        )
    return (
        f"{fewest} has {number} trainings, and others have up to {most}: cross-fitted"
        f" choices know the first {number} of each, the numbers chosen here all.",
    )


def _settings(ways: Ways) -> report.Figures | None:
    return report_settings.table(
        ways.settings, ways.chosen_on, chosen_here=ways.settings_chosen_here
    )


def _prompts(ways: Ways) -> report.Figures | None:
    rows = []
    for way in ways.all:
        if way.whole is None or way.is_bound:
            continue
        spread = prompts.spread(way.mean)
        figures = (spread.mean, spread.median, spread.lower, spread.upper, spread.worst)
        rows.append((way.label, (*figures, spread.worst_task)))
    if not rows:
        return None
    return report.Figures(
        title="Over prompts (percent, means over datasets)",
        columns=("mean", "median", "1st quartile", "3rd quartile", "worst", "worst of"),
        rows=tuple(rows),
    )


def _variance(ways: Ways) -> report.Figures | None:
    rows = []
    for way in ways.all:
        if way.whole is None or way.is_bound or way.is_reference or not way.rows:
            continue
        parts = variance.shares(way.columns)
        if parts is not None:
            shares = (parts.row, parts.prompt, parts.training, parts.rest)
            errors = (parts.row_error, parts.prompt_error, parts.training_error)
            rows.append((way.label, (*shares, *errors)))
    if not rows:
        return None
    return report.Figures(
        title="Where the variance comes from",
        columns=(
            *("rows, %", "prompts, %", "trainings, %", "rest, %"),
            *("± by rows", "± by prompts", "± by trainings"),
        ),
        rows=tuple(rows),
        notes=(
            "Shares of the variance of a single answer: by rows, prompts and trainings"
            " that are good or bad for all others; the rest goes its own way in each."
            " ±: standard error of the mean, in points, if these were drawn anew.",
        ),
    )
