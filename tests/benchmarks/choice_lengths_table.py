"""Prints how often models choose a shortest choice, as a Markdown table of result rows.

Usage: python tests/benchmarks/choice_lengths_table.py FOLDER [--asking]

FOLDER is the MODEL_DIR of `gin/original/route.gin`, with its token caches: the scored
rows, or with `--asking` those that ask its library. Rows whose choices all have as many
tokens are left out. Of the others, in percent: whose best choice is one with the fewest
tokens, by the sum of the tokens' log-probabilities, by their mean, by chance, and by
the labels. Of experts, the mean and the range. Choices with the best score share a row.
A bias of the sum towards short choices is what the first has more than the labels.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.data import cache
from elm_jax.evaluation import naming, result_store, results

# A file of result rows, and the metric and array that have the numbers of choices.
SCORED = ("results_routing.jsonl", "accuracy", "num_choices")
ASKING = ("library/behaviour/scores.jsonl", "choices", "choices")


class Shares(NamedTuple):
    """How often a shortest choice is the best one, in percent of `num_rows` rows."""

    by_sum: float
    by_mean: float
    by_chance: float
    by_label: float
    num_rows: int


def shares(
    scores: Sequence[np.ndarray], lengths: Sequence[np.ndarray], labels: Sequence[int]
) -> Shares | None:
    """Returns the shares of the rows whose choices differ in length; None of no row.

    Args:
      scores: Of each row, log-probabilities [choices].
      lengths: Of each row, tokens [choices].
      labels: Places of the right choices.
    """
    row_shares = []
    for of_row, tokens, label in zip(scores, lengths, labels, strict=True):
        is_short = tokens == tokens.min()
        if is_short.all():
            continue
        means = of_row / tokens
        row_shares.append(
            (
                is_short[of_row == of_row.max()].mean(),
                is_short[means == means.max()].mean(),
                is_short.mean(),
                is_short[label],
            )
        )
    if not row_shares:
        return None
    by_sum, by_mean, by_chance, by_label = (
        100.0 * np.mean(row_shares, axis=0)
    ).tolist()
    return Shares(by_sum, by_mean, by_chance, by_label, len(row_shares))


def of_rows(
    folder: pathlib.Path, *, asking: bool
) -> Iterator[tuple[results.ResultRow, Shares]]:
    """Yields the shares of the base and of each expert on each task with choices.

    Args:
      folder: A MODEL_DIR.
      asking: Whether the rows are those that ask the library.

    Raises:
      DataError: The tokens that a row was scored on are not in the folder.
    """
    file_name, metric, counts = ASKING if asking else SCORED
    store = result_store.ResultStore(folder / file_name)
    for row in naming.newest([*store.rows().where(metric=metric)]):
        if row.role not in ("base", "expert"):
            continue
        dataset = row.data_fingerprint and cache.find(
            folder / "cache", row.task, row.split, fingerprint=row.data_fingerprint
        )
        if not dataset:
            raise errors.DataError(
                found=f"no tokens of {row.task} {row.split} in {folder / 'cache'}",
                expected="those that were scored",
                do="Run the evaluation again, which builds them",
            )
        by_id = {example.example_id: example for example in dataset}
        arrays = store.per_example(row)
        examples = [by_id[int(number)] for number in arrays["example_ids"]]
        ends = np.cumsum(arrays[counts].astype(int))[:-1]
        row_shares = shares(
            np.split(arrays["scores"], ends),
            [np.array([*map(len, example.choices)]) for example in examples],
            [example.label for example in examples],
        )
        if row_shares is not None:
            yield row, row_shares


def render(rows_with_shares: Sequence[tuple[results.ResultRow, Shares]]) -> str:
    """Returns a line for the base and one for the experts on each task."""
    lines = [
        "| task | rows | model | by the sum | by the mean | chance | labels |",
        "|" + "---|" * 7,
    ]
    by_task: dict[str, list[tuple[results.ResultRow, Shares]]] = {}
    for row, of_row in rows_with_shares:
        by_task.setdefault(row.task, []).append((row, of_row))
    for task, pairs in sorted(by_task.items()):
        groups: Mapping[str, list[Shares]] = {
            "base": [s for row, s in pairs if row.role == "base"],
            "experts": [s for row, s in pairs if row.role == "expert"],
        }
        for name, group in groups.items():
            if not group:
                continue
            by_sum, by_mean = [s.by_sum for s in group], [s.by_mean for s in group]
            means = [_cell(by_sum), _cell(by_mean)]
            same = [f"{group[0].by_chance:.1f}", f"{group[0].by_label:.1f}"]
            cells = [task, f"{group[0].num_rows}", name, *means, *same]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--asking", action="store_true")
    options = parser.parse_args(arguments)
    print(render([*of_rows(options.folder, asking=options.asking)]))


if __name__ == "__main__":
    main(sys.argv[1:])
