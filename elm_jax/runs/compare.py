"""elm_merge: experts compared before they are merged, as tables and as a page."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from elm_jax import errors, fields, paths
from elm_jax.checkpoints import manifest, streaming
from elm_jax.disk import files
from elm_jax.merging import combining, comparing, task_arithmetic
from elm_jax.peft import effects
from elm_jax.reporting import comparison_page, tables, terminal
from elm_jax.runs import (
    bases,
    compared_leaves,
    expert_checks,
    library,
    loaded,
    merge_memory,
    merged_params,
    merged_ranks,
    report_comparison,
)
from elm_jax.runs.progress import show_bytes
from elm_jax.runs.run import Plan, Run

_MOST_PAIRS = 20  # in the terminal; the page has all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Run):
    """Compares what experts of one base and kind change, and writes a page.

    Of all parameters and by layer: norms, cosines, signs that conflict, directions that
    are shared, hidden units that stay in place; and which pairs to expect most of, and
    how many: how far means of more and more experts pull what they do. Nothing is
    scored. Experts are read a layer at a time, and twice; LoRAs of several ranks or
    scales all at once, as they are written in one first.

    Attributes:
      experts: Folders of experts, or shell patterns of them; two or more.
      initial_checkpoint_path: Folder of the base.
      output_path: The HTML page; the same numbers go beside it as JSON, with the
        fingerprints of the base and of the experts.
      random_seed: Of the order in which experts are drawn, to be compared with the most
        alike ones.
    """

    experts: tuple[paths.Pattern, ...]
    initial_checkpoint_path: paths.Path
    output_path: paths.Path = f"{{MODEL_DIR}}/report/{report_comparison.PAGE}"
    random_seed: fields.Seed = 0

    def plan(self) -> Plan:
        """Returns what would be compared; reads manifests and the shapes of tensors.

        Raises:
          ElmError: As `run` before it reads parameters.
        """
        folders = self._check()
        base = self.path(self.initial_checkpoint_path)
        if _in_one_spec([manifest.read_manifest(folder) for folder in folders]):
            num_bytes = compared_leaves.read_bytes(folders, base)
        else:  # all at once
            every = [streaming.open_expert(folder)[0] for folder in (base, *folders)]
            num_bytes = sum(merge_memory.num_bytes(x.values()) for x in every)
        return {
            "experts": f"{len(folders)}: {', '.join(f.name for f in folders)}",
            "pairs": math.comb(len(folders), 2),
            "reads": show_bytes(num_bytes),
            "files": self.path(self.output_path),
        }

    def run(self) -> None:
        """Compares, prints and writes.

        Raises:
          ElmError: Experts do not fit each other or the base, or are fewer than two.
        """
        folders = self._check()
        base = self.path(self.initial_checkpoint_path)
        infos = [manifest.read_manifest(folder) for folder in folders]
        if not _in_one_spec(infos):
            whole = loaded.Base.load(base)
            parts = [loaded.Expert.load(folder) for folder in folders]
            for part in parts:
                whole.check_fits(part)
            comparison = of_experts(parts, whole, random_seed=self.random_seed)
        else:
            comparison = compared_leaves.compare(
                folders, base, random_seed=self.random_seed
            )
        names = [info.name for info in infos]
        shown = comparison_page.Shown.of(names, comparison)
        for table in shown.tables(most_pairs=_MOST_PAIRS):
            terminal.show(tables.to_rich(table, width=terminal.console().width))
        page = self.path(self.output_path)
        files.write_text(page, comparison_page.render(shown))
        numbers = page.with_suffix(".json")
        content = {
            "base_fingerprint": bases.read_manifest(base).base_fingerprint,
            "expert_fingerprints": [info.fingerprint for info in infos],
            **as_json(names, comparison),
        }
        files.write_text(numbers, json.dumps(content, indent=1))
        print(page, numbers, sep="\n")  # noqa: T201

    def _check(self) -> list[pathlib.Path]:
        """Returns the experts' folders; raises an error if they cannot be compared."""
        folders = library.find_experts(self, self.experts)
        infos = [manifest.read_manifest(folder) for folder in folders]
        if len(folders) < 2:  # noqa: PLR2004
            raise errors.ConfigError(
                found=f"{len(folders)} experts to compare",
                expected="two or more",
                do="Name more in compare.Compare.experts",
            )
        base = bases.read_manifest(self.path(self.initial_checkpoint_path))
        for folder, info in zip(folders, infos, strict=True):
            bases.check_fits(info, base)
            expert_checks.check_same_function(info, base)
            expert_checks.check_tensors(folder, base)
        shown = merged_ranks.infos_in_one_spec(task_arithmetic.TaskArithmetic(), infos)
        expert_checks.check_alike(shown, base)
        compared_leaves.check_memory(folders)
        return folders


def _in_one_spec(infos: Sequence[manifest.Manifest]) -> bool:
    """Returns whether adapters are alike: of LoRAs dropout alone may differ."""
    specs = [{**(info.adapter or {}), "dropout": 0.0} for info in infos]
    return all(spec == specs[0] for spec in specs)


def of_experts(
    parts: Sequence[loaded.Expert], base: loaded.Base, *, random_seed: int = 0
) -> comparing.Comparison:
    """Returns the comparison of experts of a base, which fit each other and it."""
    parts = merged_ranks.in_one_spec(task_arithmetic.TaskArithmetic(), parts)
    params = [part.params for part in parts]
    for part in parts:
        combining.check_given(part.manifest.name, part.params)
    beside = effects.beside(params[0]) if parts[0].adapter is not None else {}
    start = merged_params.start_of(parts[0], base)
    return comparing.compare(params, start, beside, random_seed=random_seed)


def as_json(names: Sequence[str], comparison: comparing.Comparison) -> dict[str, Any]:
    """Returns all numbers of a comparison as JSON values; null for undefined ones."""

    def plain(values: np.ndarray) -> Any:
        if values.ndim > 1:
            return [plain(row) for row in values]
        return [None if math.isnan(value) else float(value) for value in values]

    return {
        "experts": [*names],
        "norms": plain(comparison.norms),
        "cosine": plain(comparison.cosine),
        "units_in_place": plain(comparison.in_place),
        "forecast": plain(comparison.forecast),
        **{
            measure: plain(comparison.mean(measure))
            for measure in ("conflict", "overlap")
        },
        "how_many": {
            how: {
                "order": [names[i] for i in growth.order],
                "pulls": plain(growth.pulls),
            }
            for how, growth in (
                ("most_alike", comparison.alike),
                ("drawn", comparison.drawn),
            )
        },
        "layers": {
            layer.name: {
                "norms": plain(layer.norms),
                "cosine": plain(comparing.cosine(layer)),
                "conflict": plain(layer.conflict),
                "overlap": plain(layer.overlap),
                "pull": plain(layer.pull),
            }
            for layer in comparison.layers
        },
    }
