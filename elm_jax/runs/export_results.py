"""elm_report: result rows in the formats of other programs."""

import dataclasses
import fnmatch
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from elm_jax import errors, fields, paths
from elm_jax.disk import files
from elm_jax.evaluation import (
    hub_results,
    lm_eval_results,
    naming,
    result_store,
    results,
    row_tables,
)
from elm_jax.runs.run import Plan, Run

Format = Literal["csv", "parquet", "examples", "lm_eval", "hub"]
_OF_MODELS = ("lm_eval", "hub")
_FILES = {"csv": "rows.csv", "parquet": "rows.parquet", "examples": "examples.parquet"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResults(Run):
    """Writes result rows as CSV, Parquet, or results of other programs.

    Tables have all rows. Files of a model (`lm_eval`, `hub`) have the newest ones of
    one split, and are refused where rows are of several bases, protocols or seeds.

    Attributes:
      formats: `csv` and `parquet`, a table of rows; `examples`, a Parquet table of the
        scores of single examples; `lm_eval`, results of lm-evaluation-harness, a folder
        for each model; `hub`, `.eval_results/*.yaml` of the Hugging Face Hub, likewise.
      experts: Names in result rows, with `*` for any text, of the models that get
        files of `lm_eval` and `hub`.
      split: The split whose scores these files have.
      base_fingerprint: The base whose rows they have, where a result file has rows of
        several; "" if it has one.
      protocol: The protocol of their rows, likewise.
      random_seed: The seed that chose the rows, likewise; None if there is one.
      hub_benchmarks: By dataset, the Hub's benchmark as `owner/name:task`.
      hub_source: Where the results are from, for `hub`: `url`, and `name`, `user` or
        `org` if you like.
      results_path: Result rows.
      output_dir: Where the files go.
    """

    formats: tuple[Format, ...] = ("csv", "parquet", "examples", "lm_eval")
    experts: tuple[str, ...] = ("*",)
    split: str = "test"
    base_fingerprint: str = ""
    protocol: str = ""
    random_seed: fields.Seed | None = None
    hub_benchmarks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hub_source: Mapping[str, str] = dataclasses.field(default_factory=dict)
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"
    output_dir: paths.Path = "{MODEL_DIR}/exported"

    def check(self) -> None:
        """Raises ConfigError for what the formats cannot do."""
        if ("hub" in self.formats) != bool(self.hub_benchmarks):
            raise errors.ConfigError(
                found=f"formats {self.formats} with hub_benchmarks"
                f" {dict(self.hub_benchmarks)}",
                expected='"hub" with the benchmarks of datasets, or neither',
                do='Set hub_benchmarks = {"copa": "aps/super_glue:copa"}, or leave'
                ' "hub" out',
            )
        named = self.hub_source.keys()
        if named and not {"url"} <= named <= {"url", "name", "user", "org"}:
            raise errors.ConfigError(
                found=f"hub_source of {', '.join(named)}",
                expected="url, and name, user or org if you like",
                do="Correct hub_source, or leave it out",
            )
        for text in self.hub_benchmarks.values():
            hub_results.benchmark(text)

    def plan(self) -> Plan:
        """Returns what would be read and written."""
        return {
            "rows": self.path(self.results_path),
            "formats": ", ".join(self.formats),
            "files": self.path(self.output_dir),
        }

    def run(self) -> None:
        """Writes the files, and prints their paths.

        Raises:
          ConfigError: A file cannot be written.
          DataError: There are no rows, or rows that no file of a model may mix; or
            per-example values are missing or altered.
        """
        store = result_store.ResultStore(self.path(self.results_path))
        if not store.rows():
            raise errors.DataError(
                found=f"no result rows in {store.path}",
                expected="rows that elm_eval wrote",
                do="Run elm_eval with the same MODEL_DIR first",
            )
        models = self._models(store) if {*_OF_MODELS} & {*self.formats} else {}
        for name in self.formats:
            for path in self._write(name, store, models):
                print(path)  # noqa: T201

    def _write(
        self,
        name: Format,
        store: result_store.ResultStore,
        models: Mapping[str, Sequence[results.ResultRow]],
    ) -> Iterator[object]:
        """Writes the files of a format; yields their paths."""
        folder = self.path(self.output_dir)
        if name not in _OF_MODELS:
            path = folder / _FILES[name]
            files.write_bytes(path, _table(name, store))
            yield path
        for model, model_rows in models.items() if name == "lm_eval" else ():
            timestamp = store.path.stat().st_mtime
            harness_results = lm_eval_results.of(
                model, model_rows, load=store.per_example, timestamp=timestamp
            )
            path = folder / name / lm_eval_results.folder_name(model)
            path /= lm_eval_results.file_name(timestamp)
            files.write_text(
                path, json.dumps(harness_results, indent=2, ensure_ascii=False)
            )
            yield path
        for model, model_rows in models.items() if name == "hub" else ():
            hub_files = hub_results.of(
                model_rows, self.hub_benchmarks, source=self.hub_source
            )
            for file, content in hub_files.items():
                path = folder / name / lm_eval_results.folder_name(model) / file
                files.write_text(path, content)
                yield path

    def _models(
        self, store: result_store.ResultStore
    ) -> dict[str, list[results.ResultRow]]:
        """Returns the newest rows of the split by model, each with a name of its own.

        Raises:
          DataError: There are none, or they are of several bases, protocols or seeds.
        """
        filters = {
            "base_fingerprint": self.base_fingerprint,
            "protocol": self.protocol,
            "seed": self.random_seed,
        }
        rows = [
            row
            for row in store.rows()
            if row.split == self.split
            and all(v in ("", None, getattr(row, k)) for k, v in filters.items())
        ]
        rows = naming.newest(naming.strategies_told_apart(rows))
        rows = [row for row in naming.told_apart(rows) if self._is_named(row.expert)]
        if not rows:
            splits = ", ".join(sorted({row.split for row in store.rows()}))
            raise errors.DataError(
                found=f"no rows of {', '.join(self.experts)} in split {self.split!r}"
                f" in {store.path}",
                expected=f"some; it has rows of split {splits}",
                do="Correct split, experts, protocol, base_fingerprint or random_seed",
            )
        naming.check_comparable(rows, [{row.task for row in rows}])
        return _by_model(rows)

    def _is_named(self, expert: str) -> bool:
        literals = (
            text.replace("[", "[[]").replace("?", "[?]") for text in self.experts
        )
        return any(fnmatch.fnmatchcase(expert, pattern) for pattern in literals)


def _table(name: Format, store: result_store.ResultStore) -> bytes:
    """Returns the content of a file of all rows."""
    rows, target = store.rows(), io.BytesIO()
    if name == "csv":
        return row_tables.csv_text(rows).encode("utf-8", "surrogateescape")
    if name == "parquet":
        row_tables.write_parquet(target, rows)
    else:
        row_tables.write_examples(target, rows, store.per_example)
    return target.getvalue()


def _by_model(rows: Sequence[results.ResultRow]) -> dict[str, list[results.ResultRow]]:
    """Returns rows by model: a name and, where it has several trainings, a seed."""
    trainings: dict[str, dict[object, results.ResultRow]] = {}
    for row in rows:
        trainings.setdefault(row.expert, {}).setdefault(_training(row), row)
    by_label: dict[str, dict[tuple[str, str], results.ResultRow]] = {}
    for row in rows:
        expert_trainings = trainings[row.expert].values()
        seeds = {training.training_seed for training in expert_trainings}
        label = row.expert
        if len(expert_trainings) > 1:
            seeds_differ = len(seeds) == len(expert_trainings)
            mark = (
                f"seed {row.training_seed}" if seeds_differ else row.expert_fingerprint
            )
            label = f"{row.expert} ({mark})"
        first_row = by_label.setdefault(label, {}).setdefault(
            (row.task, row.metric), row
        )
        if first_row is not row:
            raise errors.DataError(
                found=f"two rows of {row.metric} of {label} on {row.task} {row.split}",
                expected="one for each model, task and metric",
                do="Score it into another result file",
            )
    return {label: [*label_rows.values()] for label, label_rows in by_label.items()}


def _training(row: results.ResultRow) -> object:
    return row.expert_fingerprint if row.is_expert else row.training_seed
