"""Prints what merge methods are worth, as Markdown tables of a merging study's rows.

Usage: python tests/benchmarks/merging_study_table.py FOLDER [--seeds=42,43,44]

FOLDER is that of `launch/merging_study.sh`. A score is the mean over datasets of means
over prompts on test rows, and over trainings. Differences are from the mean of the same
experts, on the same rows and of the same trainings; intervals of 95 % count rows and
trainings, as those of reports do (`evaluation.estimates`). A difference is marked with
`*` if its interval excludes 0 also where those of all differences of its column are to
hold together. Of the settings of a method, such as scales, the one with the best mean
score on validation rows of the held-out tasks is shown.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from elm_jax import errors
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import (
    comparisons,
    controls,
    estimates,
    result_store,
    results,
    statistics,
)
from tasks import pocket

assert pocket  # it registers the tasks

UNSEEN = ("pocket_unseen",)
HELD_IN = (  # of gin/pocket/merging_held_in.gin
    "pocket_kinds_what_are",
    "pocket_moods_was",
    "pocket_paraphrases_same_meaning",
    "pocket_people_who_is_it",
    "pocket_reviews_sentiment",
    "pocket_topics_topic",
    "pocket_work_needs",
)
COMPOSED, PARTS = ("pocket_composed",), ("pocket_topics", "pocket_reviews")
RANDOM = "random expert"
Settings = Mapping[str, tuple[str, ...]]
"""Names of a method's settings in result rows, by what the table calls it."""


class Table(NamedTuple):
    """What one table compares.

    Attributes:
      title: Of the table.
      held_out: Tasks that no expert was trained on.
      held_in: Tasks that experts were trained on.
      settings: The methods, the mean first.
      drawn: Kind of the experts whose mean is the random expert.
      beside: Names of experts that are compared on the held-out tasks, too.
    """

    title: str
    held_out: tuple[str, ...]
    held_in: tuple[str, ...]
    settings: Settings
    drawn: str
    beside: tuple[str, ...] = ()


def _of_library(prefix: str, mean: str, scales: Sequence[str]) -> Settings:
    names = ("covariance", "wudi", "ace", "regmean", "fisher")
    searched = ("greedy_soup", "lorahub", "adamerging")
    return {
        "uniform (the mean)": (mean,),
        "weighted by votes": (f"{prefix}_weighted",),
        "uniform, units aligned": (f"{prefix}_aligned",),
        "task arithmetic": tuple(f"{prefix}_{scale}" for scale in scales),
        "TIES": (f"{prefix}_ties", f"{prefix}_ties_half"),
        **{name: (f"{prefix}_{name}",) for name in (*names, *searched)},
        "random weights": ("random_weights",),
        "best voted alone": ("retrieved",),
        "base": ("base",),
    }


TABLES = (
    Table(
        "Three retrieved experts of each task",
        UNSEEN,
        HELD_IN,
        _of_library("top3", "merged_top3", ("sum", "half_sum", "third_sum")),
        "prompt",
    ),
    Table(
        "All 20 prompt experts",
        UNSEEN,
        HELD_IN,
        _of_library("all", "merged_all", ("third_sum", "small_sum", "least_sum")),
        "prompt",
    ),
    Table(
        "The two parts of the composed task",
        COMPOSED,
        PARTS,
        {
            "uniform (the mean)": ("parts_uniform",),
            "weighted 3 : 1": ("parts_weighted_3_1",),
            "weighted 1 : 3": ("parts_weighted_1_3",),
            "task arithmetic": ("parts_task_arithmetic",),
            "TIES": ("parts_ties",),
            **{
                name: (f"parts_{name}",)
                for name in ("covariance", "wudi", "ace", "regmean", "fisher")
                + ("greedy_soup", "lorahub", "adamerging", "adamerging_layers")
            },
            "noise, like pocket_topics": ("parts_noise_topics",),
            "noise, like pocket_reviews": ("parts_noise_reviews",),
            "pocket_topics": ("pocket_topics",),
            "pocket_reviews": ("pocket_reviews",),
            "base": ("base",),
        },
        "dataset",
        ("pocket_topics", "pocket_reviews"),
    ),
)


class Rows:
    """Test and validation rows of some trainings.

    Args:
      stores: Where they are; of two rows of one cell and training, the later counts.
      seeds: Training seeds that count.
    """

    def __init__(
        self, stores: Sequence[result_store.ResultStore], seeds: Sequence[int]
    ) -> None:
        self._seeds = seeds
        self._cells: dict[tuple[object, ...], results.ResultRow] = {}
        self._store_of: dict[tuple[object, ...], result_store.ResultStore] = {}
        self.names: dict[str, set[str]] = {}
        for store in stores:
            for row in store.rows().where(metric="accuracy"):
                seed = None if row.expert == "base" else row.training_seed
                key = (row.expert, seed, row.task, row.split)
                self._cells[key], self._store_of[key] = row, store
                self.names.setdefault(row.kind, set()).add(row.expert)

    def trainings(
        self, name: str, tasks: Sequence[str], split: str
    ) -> list[statistics.Columns] | None:
        """Returns results of each training; None if one lacks a task."""
        seeds = [None] if name == "base" else self._seeds
        every = task_registry.registry.expand(tuple(tasks))
        keys = [[(name, seed, task, split) for task in every] for seed in seeds]
        if any(key not in self._cells for own in keys for key in own):
            return None
        return [
            statistics.columns([self._cells[key] for key in own], self._load(own))
            for own in keys
        ]

    def _load(self, keys):
        place = {id(self._cells[key]): self._store_of[key] for key in keys}
        return lambda row: place[id(row)].per_example(row)

    def random(
        self, names: Sequence[str], tasks: Sequence[str], split: str
    ) -> list[statistics.Columns] | None:
        """Returns each row's mean over experts, by training."""
        own = {name: self.trainings(name, tasks, split) for name in names}
        if not own or any(columns is None for columns in own.values()):
            return None
        return [
            controls.average({name: columns[place] for name, columns in own.items()})
            for place in range(len(self._seeds))
        ]


def best(rows: Rows, names: Sequence[str], tasks: Sequence[str]) -> str | None:
    """Returns the setting with the best mean on validation rows; of equals, the first.

    None if rows of one are missing.
    """
    if len(names) == 1:
        return names[0]
    scores = {}
    for name in names:
        trainings = rows.trainings(name, tasks, "validation")
        if trainings is None:
            return None
        scores[name] = sum(map(statistics.mean, trainings)) / len(trainings)
    return max(names, key=lambda name: scores[name])


def interval(one: results.Interval, mark: str = "", *, sign: str = "") -> str:
    """Returns a mean with its interval as a text."""
    low, high = f"{one.low:{sign}.1f}", f"{one.high:{sign}.1f}"
    return f"{one.mean:{sign}.1f} [{low}, {high}]{mark}"


def gaps(
    found: Mapping[str, estimates.Estimate], baseline: str
) -> dict[str, tuple[str, bool]]:
    """Returns differences from a baseline as texts, and whether each is above 0."""
    if baseline not in found:
        return {}
    others = {name: one for name, one in found.items() if name != baseline}
    told = {}
    for name, one in comparisons.against(found[baseline], others).items():
        ends = one.simultaneous
        mark = "*" if ends.low > 0 or ends.high < 0 else ""
        told[name] = interval(one.gap, mark, sign="+"), one.gap.low > 0
    return told


def estimated(
    rows: Rows, chosen: Mapping[str, str], table: Table, tasks: Sequence[str]
) -> dict[str, estimates.Estimate]:
    """Returns the score of each line on some tasks, as far as rows are there."""
    draws, found = estimates.Draws(), {}
    drawn = sorted(rows.names.get(table.drawn, ()))
    for label in (*chosen, RANDOM):
        if label == RANDOM:
            trainings = rows.random(drawn, tasks, "test")
        else:
            trainings = rows.trainings(chosen[label], tasks, "test")
        if trainings is not None:
            # A merge of a seed is of experts of this seed: differences are paired.
            found[label] = estimates.estimate(trainings, draws, who="trainings")
    return found


def render(rows: Rows, table: Table) -> str:
    """Returns a table as Markdown; "" if its mean has no rows."""
    chosen = {}
    for label, names in table.settings.items():
        name = best(rows, names, table.held_out)
        if name is not None:
            chosen[label] = name
    mean = next(iter(table.settings))
    held_out = estimated(rows, chosen, table, table.held_out)
    held_in = estimated(rows, chosen, table, table.held_in)
    if mean not in held_out:
        return ""
    columns = [gaps(held_out, mean), *(gaps(held_out, one) for one in table.beside)]
    head = ["method", "held-out", "against the mean"]
    head += [f"against {name}" for name in table.beside]
    head += ["held-in", "against the mean, held-in"]
    lines = [f"### {table.title}", "", "| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * len(head))
    own_gaps = gaps(held_in, mean)
    for label, one in held_out.items():
        cells = [label, interval(one.interval)]
        if len(table.settings.get(label, ())) > 1:
            cells[0] += f" (`{chosen[label]}`)"
        cells += [column.get(label, ("",))[0] for column in columns]
        cells.append(interval(held_in[label].interval) if label in held_in else "")
        cells.append(own_gaps.get(label, ("",))[0])
        lines.append("| " + " | ".join(cells) + " |")
    if table.beside:
        both = [
            label
            for label in held_out
            if all(column.get(label, ("", False))[1] for column in columns[1:])
        ]
        lines += ["", f"Beat both parts by their own intervals: {both or 'none'}."]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seeds", default="42,43,44,45,46")
    given = parser.parse_args(arguments)
    files = [given.folder / f"results{end}.jsonl" for end in ("", "_merging")]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows = Rows([result_store.ResultStore(path) for path in files], seeds)
    told = [*filter(None, (render(rows, table) for table in TABLES))]
    if not told:
        raise errors.DataError(
            found=f"no rows of all trainings {seeds} in {given.folder}",
            expected="those of launch/merging_study.sh",
            do="Run it, or name the seeds that it has run",
        )
    print(f"Trainings: {', '.join(map(str, seeds))}.\n")
    print("\n\n".join(told))


if __name__ == "__main__":
    main(sys.argv[1:])
