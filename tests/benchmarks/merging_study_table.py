"""Prints what merge methods are worth, as Markdown tables of a merging study's rows.

Usage: python tests/benchmarks/merging_study_table.py FOLDER [--seeds=42,43,44]
       python tests/benchmarks/merging_study_table.py FOLDER --lora [--seeds=42,43,44]
       python tests/benchmarks/merging_study_table.py FOLDER --seeds=42 --real \
         [--held_in=TASK,TASK]

FOLDER is that of `launch/merging_study.sh`, whose merges of LoRAs are shown with
`--lora`; with `--real` it is the MODEL_DIR of `gin/original/merging_study.gin`, whose
validation rows are shown, each setting in a line of its own; `--held_in` names the
tasks of its experts, if they are not those of `gin/original/prompt_experts.gin`. A
score is the mean over datasets of means over prompts on test rows, and over trainings.
Differences are from the mean of the same experts, on the same rows and of the same
trainings; intervals of 95 % count rows and trainings, as those of reports do
(`evaluation.estimates`). A difference is marked with `*` if its interval excludes 0
also where those of all differences of its column are to hold together. Of the settings
of a method, such as scales, the one with the best mean score on validation rows of the
held-out tasks is shown. Lines whose rows are not all there are named under their
table. Rows that cannot be compared are refused.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence

from elm_jax import errors
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import (
    comparisons,
    controls,
    estimates,
    naming,
    result_store,
    results,
    statistics,
)
from tasks import original, pocket

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.benchmarks.merging_study_lines import (  # noqa: E402 - run as a program, too
    LORA_TABLES,
    REAL_TABLES,
    TABLES,
    Table,
)

assert original  # they register the tasks
assert pocket

Key = tuple[object, ...]  # expert, training seed, task and split
RANDOM = "random expert"
NO_MEAN = "The whole table is left out"


class Rows:
    """Test and validation rows of some trainings.

    Args:
      stores: Where they are; of two rows of one cell in one of them, the later counts.
      seeds: Training seeds that count.
      tables: Those that are to be shown.

    Attributes:
      names: Of the experts of these seeds, by kind.

    Raises:
      DataError: They are of several bases, vocabularies, protocols or seeds of scoring;
        or those of one strategy of several settings or libraries; or two stores tell
        something else of one cell, so that nobody knows which one is newer.
    """

    def __init__(
        self,
        stores: Sequence[result_store.ResultStore],
        seeds: Sequence[int],
        tables: Sequence[Table],
    ) -> None:
        self._seeds = seeds
        self._cells: dict[Key, results.ResultRow] = {}
        self._store_of: dict[Key, result_store.ResultStore] = {}
        self.names: dict[str, set[str]] = {}
        shown: list[results.ResultRow] = []
        for store in stores:
            rows_of_seeds = [
                row
                for row in store.rows().where(metric="accuracy")
                if _is_shown(row, tables) and _key(row)[1] in (None, *seeds)
            ]
            shown += rows_of_seeds
            for row in naming.newest(rows_of_seeds):
                key = _key(row)
                if key in self._cells:
                    _check_equal(self._cells[key], row, ("expert_fingerprint", "value"))
                self._cells[key], self._store_of[key] = row, store
                self.names.setdefault(row.kind, set()).add(row.expert)
        _check_one_of_each(shown)
        expand = task_registry.registry.expand
        groups = [
            tasks for table in tables for tasks in (table.held_out, table.held_in)
        ]
        naming.check_comparable(shown, [expand(tasks) for tasks in groups])

    def lacking(self, name: str, tasks: Sequence[str], split: str) -> str:
        """Returns how many rows of an expert are not there, of all; "" if none."""
        keys = list(itertools.chain(*self._keys(name, tasks, split)))
        count = sum(key not in self._cells for key in keys)
        return f"{name}: {count} of {len(keys)} {split} rows" if count else ""

    def _keys(self, name: str, tasks: Sequence[str], split: str) -> list[list[Key]]:
        seeds = [None] if name == "base" else self._seeds
        every = task_registry.registry.expand(tuple(tasks))
        return [[(name, seed, task, split) for task in every] for seed in seeds]

    def trainings(
        self, name: str, tasks: Sequence[str], split: str
    ) -> list[statistics.Columns] | None:
        """Returns results of each training; None if one lacks a task."""
        keys = self._keys(name, tasks, split)
        if any(key not in self._cells for of_training in keys for key in of_training):
            return None
        return [
            statistics.columns(
                [self._cells[key] for key in of_training], self._load(of_training)
            )
            for of_training in keys
        ]

    def _load(self, keys):
        place = {id(self._cells[key]): self._store_of[key] for key in keys}
        return lambda row: place[id(row)].per_example(row)

    def random(
        self, names: Sequence[str], tasks: Sequence[str], split: str
    ) -> list[statistics.Columns] | None:
        """Returns each row's mean over experts, by training."""
        every = [self.trainings(name, tasks, split) for name in names]
        of_experts = {
            name: trainings
            for name, trainings in zip(names, every, strict=True)
            if trainings
        }
        if not of_experts or len(of_experts) < len(names):
            return None
        return [
            _average({name: columns[place] for name, columns in of_experts.items()})
            for place in range(len(self._seeds))
        ]


def _average(of_experts: Mapping[str, statistics.Columns]) -> statistics.Columns:
    if (average := controls.average(of_experts)) is not None:
        return average
    first = next(iter(of_experts))
    odd = [
        name
        for name in of_experts
        if not controls.average({n: of_experts[n] for n in (first, name)})
    ]
    raise errors.DataError(
        found=f"{', '.join(odd)} scored on other rows than {first}",
        expected="the same rows of each task for all experts of a random one",
        do="Score them again, with the same rows",
    )


def _is_shown(row: results.ResultRow, tables: Sequence[Table]) -> bool:
    return any(
        row.kind == table.drawn
        or row.expert in itertools.chain(*table.settings.values())
        for table in tables
    )


def _key(row: results.ResultRow) -> Key:
    seed = None if row.expert == "base" else row.training_seed
    return row.expert, seed, row.task, row.split


def _check_one_of_each(rows: Sequence[results.ResultRow]) -> None:
    """Raises DataError if strategies of one name have several settings or libraries."""
    first: dict[str, results.ResultRow] = {}
    for row in rows:
        if row.role == "strategy":
            first_row = first.setdefault(row.expert, row)
            _check_equal(first_row, row, ("settings", "library"))


def _check_equal(
    first: results.ResultRow, row: results.ResultRow, fields: Sequence[str]
) -> None:
    for field in fields:
        values = getattr(first, field), getattr(row, field)
        if values[0] != values[1]:
            raise errors.DataError(
                found=f"rows of {row.expert!r} (training seed {row.training_seed},"
                f" {row.task}, {row.split}) with {field} {values[0]!r}, {values[1]!r}",
                expected=f"one {field} for each line of a table",
                do="Move the rows that are not to be shown into another file",
            )


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


def interval(of_mean: results.Interval, mark: str = "", *, sign: str = "") -> str:
    """Returns a mean with its interval as a text."""
    low, high = f"{of_mean.low:{sign}.1f}", f"{of_mean.high:{sign}.1f}"
    return f"{of_mean.mean:{sign}.1f} [{low}, {high}]{mark}"


def gaps(
    scores: Mapping[str, estimates.Estimate], baseline: str
) -> dict[str, tuple[str, bool]]:
    """Returns differences from a baseline as texts, and whether each is above 0."""
    if baseline not in scores:
        return {}
    others = {name: score for name, score in scores.items() if name != baseline}
    gap_cells = {}
    for name, comparison in comparisons.against(scores[baseline], others).items():
        ends = comparison.simultaneous
        mark = "*" if ends.low > 0 or ends.high < 0 else ""
        gap_cells[name] = (
            interval(comparison.gap, mark, sign="+"),
            comparison.gap.low > 0,
        )
    return gap_cells


def estimated(
    rows: Rows, chosen: Mapping[str, str], table: Table, tasks: Sequence[str]
) -> dict[str, estimates.Estimate]:
    """Returns the score of each line on some tasks, as far as rows are there."""
    draws, scores = estimates.Draws(), {}
    drawn = sorted(rows.names.get(table.drawn, ()))
    for label in (*chosen, RANDOM):
        if label == RANDOM:
            trainings = rows.random(drawn, tasks, table.split)
        else:
            trainings = rows.trainings(chosen[label], tasks, table.split)
        if trainings is not None:
            # A merge of a seed is of experts of this seed: differences are paired.
            scores[label] = estimates.estimate(trainings, draws, who="trainings")
    return scores


def left_out(
    rows: Rows,
    table: Table,
    tasks: Sequence[str],
    labels: Collection[str],
    chosen: Mapping[str, str],
) -> str:
    """Returns which lines have no numbers on some tasks, and why; "" if all have."""
    lacking = []
    for label, names in table.settings.items():
        if label in labels:
            continue
        counts = (
            [rows.lacking(chosen[label], tasks, table.split)]
            if label in chosen
            else [rows.lacking(name, table.held_out, "validation") for name in names]
        )
        lacking.append(f"{label} ({', '.join(filter(None, counts))})")
    if RANDOM not in labels:
        drawn = sorted(rows.names.get(table.drawn, ()))
        counts = [rows.lacking(name, tasks, table.split) for name in drawn]
        why = ", ".join(filter(None, counts)) or f"no {table.drawn} experts"
        lacking.append(f"{RANDOM} ({why})")
    return f"rows lacking: {'; '.join(lacking)}." if lacking else ""


def render(rows: Rows, table: Table) -> str:
    """Returns a table as Markdown; without lines if its mean has no rows."""
    chosen = {}
    for label, names in table.settings.items():
        name = best(rows, names, table.held_out)
        if name is not None:
            chosen[label] = name
    mean = next(iter(table.settings))
    held_out = estimated(rows, chosen, table, table.held_out)
    held_in = estimated(rows, chosen, table, table.held_in)
    if mean not in held_out:
        why = left_out(rows, table, table.held_out, (), chosen)
        return f"### {table.title}\n\n{NO_MEAN}, {why}"
    columns = [gaps(held_out, mean), *(gaps(held_out, label) for label in table.beside)]
    head = ["method", "held-out", "against the mean"]
    head += [f"against {name}" for name in table.beside]
    head += ["held-in", "against the mean, held-in"]
    lines = [f"### {table.title}", "", "| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * len(head))
    own_gaps = gaps(held_in, mean)
    for label, score in held_out.items():
        cells = [label, interval(score.interval)]
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
    for what, tasks, scores in (
        ("Left out", table.held_out, held_out),
        ("Held-in scores left out", table.held_in, held_in),
    ):
        if why := left_out(rows, table, tasks, scores, chosen):
            lines += ["", f"{what}, {why}"]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seeds", default="42,43,44,45,46")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--lora", action="store_true")
    other.add_argument("--real", action="store_true")
    parser.add_argument("--held_in", default="")
    options = parser.parse_args(arguments)
    if options.held_in and not options.real:
        parser.error("--held_in goes with --real")
    tables, ends = TABLES, ("", "_merging")
    if options.lora:
        tables, ends = LORA_TABLES, ("_merging_lora",)
    elif options.real:
        tables, ends = REAL_TABLES, ("_routing",)
        if options.held_in:
            held_in = tuple(options.held_in.split(","))
            tables = tuple(table._replace(held_in=held_in) for table in tables)
    files = [options.folder / f"results{end}.jsonl" for end in ends]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    rows = Rows([result_store.ResultStore(path) for path in files], seeds, tables)
    table_texts = [render(rows, table) for table in tables]
    if all(NO_MEAN in text for text in table_texts):
        raise errors.DataError(
            found=f"no rows of all trainings {seeds} in {options.folder}",
            expected="those of launch/merging_study.sh",
            do="Run it, or name the seeds that it has run",
        )
    print(f"Trainings: {', '.join(map(str, seeds))}.\n")
    print("\n\n".join(table_texts))


if __name__ == "__main__":
    main(sys.argv[1:])
