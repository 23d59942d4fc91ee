"""Result rows as the results of lm-evaluation-harness, one model at a time.

Its programs and those that read its files take them: a task of ours is a task there,
and a dataset a group, with the mean over its prompts. Accuracies, `exact_match` and
`f1` are fractions there, and percent here; other metrics keep their numbers.

Reference: EleutherAI/lm-evaluation-harness, `lm_eval/result_schema.py` (2026).
"""

import datetime
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax.evaluation.results import ResultRow

# By our metric: its name there, and by what ours is divided.
_METRICS = {
    "accuracy": ("acc", 100.0),
    "exact_match": ("exact_match", 100.0),
    "f1": ("f1", 100.0),
}
_NOT_TOLD = "N/A"  # what it writes for an error that nobody computed
_LEFT_OUT = ("chance", "ties")  # of the task, or of how it was scored
_FILTER = "none"  # answers are taken as they are


def file_name(timestamp: float) -> str:
    """Returns the harness's name of a results file, by seconds since 1970."""
    date = datetime.datetime.fromtimestamp(timestamp, datetime.UTC).replace(tzinfo=None)
    return f"results_{date.isoformat().replace(':', '-')}.json"


def folder_name(model: str) -> str:
    """Returns the name of the harness's folder for a model's files.

    >>> folder_name("retrieved (settings a/b)")
    'retrieved (settings a__b)'
    """
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)


def of(
    model: str,
    rows: Sequence[ResultRow],
    *,
    load: Callable[[ResultRow], Mapping[str, np.ndarray]],
    timestamp: float,
) -> dict[str, Any]:
    """Returns the results of one model.

    Args:
      model: What it is called.
      rows: Its rows, of one split and way to score; at most one for each task and
        metric; at least one.
      load: Returns a row's per-example arrays, for standard errors.
      timestamp: When the rows were scored, in seconds since 1970.

    Raises:
      DataError: The per-example values of a row are missing or altered.
    """
    shown = [row for row in rows if row.metric not in _LEFT_OUT]
    by_task: dict[str, list[ResultRow]] = {}
    groups: dict[str, list[str]] = {}
    for row in sorted(shown, key=lambda row: (row.dataset, row.task)):
        by_task.setdefault(row.task, []).append(row)
        tasks = groups.setdefault(row.dataset, [])
        tasks += [row.task] if row.task not in tasks else []
    firsts = {task: task_rows[0] for task, task_rows in by_task.items()}
    # A dataset with a name of a task would be taken for it.
    groups = {name: tasks for name, tasks in groups.items() if name not in firsts}
    first_row = rows[0]
    return {
        "results": {
            task: _of_task(task_rows, load) for task, task_rows in by_task.items()
        },
        "groups": {
            name: _of_group(name, shown, tasks) for name, tasks in groups.items()
        },
        "group_subtasks": groups,
        "configs": {task: _config(row, by_task) for task, row in firsts.items()},
        "versions": {task: row.data_fingerprint for task, row in firsts.items()},
        "n-shot": dict.fromkeys(firsts, 0),
        "higher_is_better": {
            task: {_name(row.metric): True for row in task_rows}
            for task, task_rows in by_task.items()
        },
        "n-samples": {
            task: {"original": row.split_rows, "effective": row.num_examples}
            for task, row in firsts.items()
        },
        "config": {
            "model": "elm_jax",
            "model_args": _model_args(first_row),
            "batch_size": None,
            "device": None,
            "use_cache": None,
            "limit": _limit(firsts.values()),
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "random_seed": first_row.seed,
        },
        "date": timestamp,
        "task_hashes": {
            task: row.data_fingerprint
            for task, row in firsts.items()
            if row.data_fingerprint
        },
        "model_source": "elm_jax",
        "model_name": model,
        "model_name_sanitized": folder_name(model),
    }


def _limit(rows: Iterable[ResultRow]) -> int | None:
    """Returns the most examples that were scored of a task that has more.

    None where all were, or where rows of earlier versions do not tell.
    """
    cut = [row.num_examples for row in rows if row.num_examples < (row.split_rows or 0)]
    return max(cut, default=None)


def _name(metric: str) -> str:
    return _METRICS.get(metric, (metric, 1.0))[0]


def _scaled(metric: str, value: float) -> float:
    return value / _METRICS.get(metric, (metric, 1.0))[1]


def _of_task(
    rows: Sequence[ResultRow],
    load: Callable[[ResultRow], Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": rows[0].task,
        "alias": rows[0].task,
        "sample_len": rows[0].num_examples,
    }
    for row in rows:
        name = _name(row.metric)
        entry[f"{name},{_FILTER}"] = _scaled(row.metric, row.value)
        entry[f"{name}_stderr,{_FILTER}"] = _error(row, load)
    return entry


def _error(
    row: ResultRow, load: Callable[[ResultRow], Mapping[str, np.ndarray]]
) -> float | str:
    """Returns the standard error of a mean over examples, as the harness does."""
    values = load(row).get(row.metric) if row.per_example_path else None
    if values is None or len(values) < 2:
        return _NOT_TOLD
    deviation = float(np.std(np.asarray(values, np.float64), ddof=1))
    return _scaled(row.metric, deviation / math.sqrt(len(values)))


def _of_group(
    name: str, rows: Sequence[ResultRow], tasks: Sequence[str]
) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "alias": name}
    by_metric: dict[str, list[ResultRow]] = {}
    for row in rows:
        if row.task in tasks:
            by_metric.setdefault(row.metric, []).append(row)
    counts = {}
    for metric, of_metric in by_metric.items():
        key = f"{_name(metric)},{_FILTER}"
        entry[key] = _scaled(
            metric, sum(row.value for row in of_metric) / len(of_metric)
        )
        entry[f"{_name(metric)}_stderr,{_FILTER}"] = _NOT_TOLD
        counts[key] = sum(row.num_examples for row in of_metric)
    entry["sample_len"] = max(counts.values())
    entry["sample_count"] = counts
    return entry


def _config(
    row: ResultRow, by_task: Mapping[str, Sequence[ResultRow]]
) -> dict[str, Any]:
    is_ranked = any(task_row.metric == "accuracy" for task_row in by_task[row.task])
    return {
        "task": row.task,
        "dataset_path": row.dataset,
        "dataset_name": row.prompt,
        "test_split": row.split,
        "output_type": "multiple_choice" if is_ranked else "generate_until",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": _name(task_row.metric), "higher_is_better": True}
            for task_row in by_task[row.task]
        ],
        "metadata": {"protocol": row.protocol, "scoring": row.scoring},
    }


def _model_args(row: ResultRow) -> dict[str, Any]:
    fields = {
        "base_fingerprint": row.base_fingerprint,
        "expert_fingerprint": row.expert_fingerprint if row.is_expert else "",
        "kind": row.kind,
        "source": row.source,
        "training_seed": row.training_seed,
        "checkpoint_step": row.checkpoint_step,
        "vocabulary": row.vocabulary,
    }
    return {name: value for name, value in fields.items() if value not in ("", None)}
