"""Scores of a model as the Hugging Face Hub shows them: `.eval_results/*.yaml`.

A model's repository has a file for each benchmark, with a list of entries: a dataset of
the Hub, a task that this declares, and a value. A value here is the mean over the
prompts of our dataset, in percent; its notes say of what.

Reference: huggingface.co/docs/hub/eval-results (2026).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from elm_jax import errors
from elm_jax.evaluation import metrics
from elm_jax.evaluation.results import ResultRow

FOLDER = ".eval_results"
_BENCHMARK = re.compile(
    r"(?P<id>[\w.-]+/[\w.-]+):(?P<task>[\w.-]+)(?:@(?P<revision>[0-9a-f]{40}))?"
)


def benchmark(text: str) -> dict[str, str]:
    """Returns the Hub's dataset that a text names.

    >>> benchmark("aps/super_glue:copa")
    {'id': 'aps/super_glue', 'task_id': 'copa'}

    Args:
      text: `owner/name:task`, and `@` with the hash of a commit if need be.

    Raises:
      ConfigError: It has another form.
    """
    match = _BENCHMARK.fullmatch(text)
    if match is None:
        raise errors.ConfigError(
            found=f"benchmark {text!r}",
            expected="owner/name:task of a benchmark on the Hub, such as"
            " 'Idavidrein/gpqa:gpqa_diamond', and @ with 40 hex digits of a revision if"
            " need be",
            do="Correct hub_benchmarks",
        )
    fields = {"id": match["id"], "task_id": match["task"]}
    return fields | ({"revision": match["revision"]} if match["revision"] else {})


def of(
    rows: Sequence[ResultRow],
    benchmarks: Mapping[str, str],
    *,
    source: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Returns the files of one model's repository, by name.

    Args:
      rows: Its rows, of one split and way to score; at most one for each task and
        metric.
      benchmarks: The Hub's benchmark of each of our datasets; others are left out.
      source: `url`, and `name`, `user` or `org` if told, of where results are from.

    Raises:
      ConfigError: A benchmark has no such form.
    """
    contents: dict[str, str] = {}
    for dataset, text in sorted(benchmarks.items()):
        of_dataset = [row for row in rows if row.dataset == dataset]
        entries = []
        for metric in dict.fromkeys(row.metric for row in of_dataset):
            if metric in metrics.MAIN_KEYS:
                of_metric = [row for row in of_dataset if row.metric == metric]
                entries.append(_entry(of_metric, benchmark(text), source))
        if entries:
            content = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
            contents[f"{FOLDER}/{dataset}.yaml"] = content
    return contents


def _entry(
    rows: Sequence[ResultRow], of: Mapping[str, str], source: Mapping[str, str] | None
) -> dict[str, Any]:
    first_row = rows[0]
    prompts = "1 prompt" if len(rows) == 1 else f"mean over {len(rows)} prompts"
    examples = sorted({row.num_examples for row in rows})
    number = " to ".join(map(str, dict.fromkeys((examples[0], examples[-1]))))
    entry: dict[str, Any] = {
        "dataset": dict(of),
        "value": sum(row.value for row in rows) / len(rows),
    }
    if source:
        entry["source"] = dict(source)
    entry["notes"] = (
        f"{first_row.metric} in percent, zero-shot, {prompts}, {number} examples of"
        f" split {first_row.split}, protocol {first_row.protocol} of elm_jax, base"
        f" {first_row.base_fingerprint}"
    )
    return entry
