"""What can be scored: the base, experts, and merges of experts, as parameters."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from elm_jax.checkpoints.manifest import Manifest, read_manifest
from elm_jax.data import token_store
from elm_jax.evaluation import naming
from elm_jax.merging import averages
from elm_jax.merging.method import MergeMethod
from elm_jax.peft import adapters
from elm_jax.runs import loaded, measuring, merged_params, queries, shards
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Parameters that are put on the base to be scored.

    Attributes:
      name: What result rows call it.
      folders: The experts in it: none for the base, several for a merge.
      kind: The expert's own, `base`, or `strategy` for what was chosen for a task.
      method: How its experts are merged.
      source: Where statistics come from, for a method that needs some.
      strategy: The kind of strategy that gave it; "" for none.
      settings: Hash of the strategy's options; "" for those it has by default.
      note: What the strategy is, in a few words.
      library: Hash of what the strategy took its experts from, where all of that was
        trained with one seed; see `queries.Question`.
      library_seed: The seed of these trainings.
      question: How a task asked for it; None for what no library gave.
    """

    name: str
    folders: tuple[pathlib.Path, ...] = ()
    kind: str = "base"
    method: MergeMethod = averages.Uniform()
    source: measuring.Source | None = dataclasses.field(
        default=None, compare=False, repr=False
    )
    strategy: str = ""
    settings: str = ""
    note: str = ""
    library: str = ""
    library_seed: int | None = None
    question: queries.Question | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @functools.cached_property
    def fingerprint(self) -> str:
        """The identity of its parameters, 16 hex digits; "" for the base."""
        parts = [info.fingerprint for info in self.manifests]
        if not self.is_merged:
            return "".join(parts)
        text = " ".join(sorted(parts))
        if self.method != averages.Uniform():
            made_of = [parts, self.method.recipe()]
            if self.source is not None:
                made_of.append(self.source.recipe(self.method, self.manifests))
            text = json.dumps(made_of, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_merged(self) -> bool:
        """Whether the candidate has other parameters than one expert or the base."""
        is_mean = self.method == averages.Uniform()
        return len(self.folders) > (1 if is_mean else 0)

    @property
    def origin(self) -> tuple[object, ...]:
        """The source of its parameters; candidates of equal origin share parameters."""
        return (self.folders, self.method, measuring.settings_text(self.source))

    @property
    def origin_text(self) -> str:
        """The origin as a text, which decides the machine that scores the candidate."""
        parts = [*map(str, self.folders)]
        if self.method != averages.Uniform():
            parts.append(f"{self.method}")
        if self.source is not None:
            parts.append(measuring.settings_text(self.source))
        return " ".join(parts)

    @property
    def models(self) -> tuple["Candidate", ...]:
        """The candidates that are loaded and scored; for a pool, its experts."""
        return (self,)

    @functools.cached_property
    def manifests(self) -> tuple[Manifest, ...]:
        """The manifests of its experts, read once."""
        return tuple(read_manifest(folder) for folder in self.folders)

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of its first expert; None for the base."""
        return self.manifests[0] if self.manifests else None

    def facts(self, beside: pathlib.Path) -> dict[str, Any]:
        """Returns the candidate's facts for result rows, beside its name.

        Args:
          beside: The folder from which the path to the expert's begins.
        """
        infos = self.manifests
        seeds = {info.training_seed for info in infos}
        if self.library:
            seeds = {self.library_seed}
        source = ""
        if len(self.folders) == 1:
            relative = os.path.relpath(self.folders[0], beside)
            source = pathlib.Path(relative).as_posix()
        return {
            "kind": self.kind,
            "strategy": self.strategy,
            "strategy_note": self.note,
            "experts": {info.name: info.fingerprint for info in infos},
            "source": source,
            "training_seed": seeds.pop() if len(seeds) == 1 else None,
            "recipe": infos[0].recipe if len(infos) == 1 else "",
            "library": self.library,
        }

    def kept_with_scores(
        self,
        program: Any,
        params: Params,
        adapter: adapters.AnySpec | None,
        dataset: token_store.TokenizedDataset,
        rows: Sequence[int],
    ) -> dict[str, np.ndarray]:
        """Returns more arrays to keep beside the scores of rows; mostly none.

        Args:
          program: The program that scores.
          params: Placed.
          adapter: The adapters among these parameters.
          dataset: What was scored.
          rows: Which rows of it were scored.
        """
        del program, params, adapter, dataset, rows
        return {}

    def load(self, base: loaded.Base) -> tuple[Params, adapters.AnySpec | None]:
        """Returns the whole model's parameters, and the adapters among them.

        Raises:
          CheckpointError: An expert does not fit the base's shape.
          ConfigError: Experts that are to be merged are not alike.
          FingerprintError: An expert belongs to another base.
        """
        if not self.folders:
            return base.params, None
        if self.is_merged:
            expert = merged_params.of_folders(
                self.method, self.folders, base, name=self.name, source=self.source
            )
        else:
            expert = loaded.Expert.load(self.folders[0])
        return base.with_expert(expert), expert.adapter


def of_experts(
    folders: Sequence[pathlib.Path], *, labels: Collection[str] = ()
) -> list[Candidate]:
    """Returns each expert as a candidate under its own name.

    Args:
      folders: The experts' folders.
      labels: Names of the strategies that are scored beside them.

    Raises:
      ConfigError: An expert is named as a strategy is, so that their rows would be
        taken for each other's.
    """
    candidates: list[Candidate] = []
    for folder in folders:
        info = read_manifest(folder)
        naming.check_is_no_label(info.name, info.kind, folder, labels=labels)
        candidates.append(Candidate(info.name, (folder,), info.kind, strategy="expert"))
    return candidates


def of_shard(
    pairs: Sequence[tuple[Candidate, list[str]]], shard: shards.Shard
) -> list[tuple[Candidate, list[str]]]:
    """Returns a shard's candidates with their tasks; equal parameters stay together."""
    names = [candidate.origin_text for candidate, _ in pairs]
    shard_names = set(shard.choose(set(names)))
    return [
        pair for pair, name in zip(pairs, names, strict=True) if name in shard_names
    ]
