"""Result stores of the paper's size without its models: scores drawn at random."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from unittest import mock

import numpy as np

from elm_jax.data import sources, tasks, templates
from elm_jax.evaluation import result_store, results

# How many prompts the paper's eleven unseen datasets have, and 113 together.
PROMPTS = (15, 15, 15, 15, 10, 10, 5, 9, 4, 5, 10)


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a store.

    Attributes:
      num_experts: Single experts, beside base, multitask model and retrieved experts.
      prompts: Number of prompts of each dataset.
      num_rows: Of each dataset.
      num_choices: Of each row.
    """

    num_experts: int = 296
    prompts: tuple[int, ...] = PROMPTS
    num_rows: int = 300
    num_choices: int = 2

    @property
    def names(self) -> list[tuple[str, str]]:
        """(dataset, prompt) of each task."""
        return [
            (f"data{j:02d}", f"ask{p:03d}")
            for j, number in enumerate(self.prompts)
            for p in range(number)
        ]


@contextlib.contextmanager
def registered(size: Size) -> Iterator[tuple[str, ...]]:
    """Has a registry of these tasks alone; yields their names."""
    before, tasks.registry = tasks.registry, tasks.Registry()
    by_dataset: dict[str, list[str]] = {}
    for dataset, prompt in size.names:
        by_dataset.setdefault(dataset, []).append(prompt)
    for dataset, prompts in by_dataset.items():
        tasks.registry.add(
            *tasks.prompted_tasks(
                dataset,
                [
                    templates.Template(
                        name=name, id=name, jinja="{{text}} ||| {{answer}}"
                    )
                    for name in prompts
                ],
                source=sources.GeneratedRows(_no_rows, version="1"),
                cluster="Simulated",
                metrics=("accuracy",),
            )
        )
    try:
        yield tuple(f"{dataset}_{prompt}" for dataset, prompt in size.names)
    finally:
        tasks.registry = before


def _no_rows(_: str) -> list[sources.Row]:
    return []


def build(folder: pathlib.Path, size: Size, *, seed: int = 0) -> pathlib.Path:
    """Writes a store as `elm_eval` would, without waiting for the disk.

    Returns:
      The path of its rows.
    """
    store = result_store.ResultStore(folder / "results.jsonl")
    rng = np.random.default_rng(seed)
    skill = {
        name: rng.normal(scale=0.2, size=len(size.names)) + rng.normal(scale=0.1)
        for name in _experts(size)
    }
    hard = {
        name: rng.normal(size=(number, size.num_rows))
        for name, number in zip(_datasets(size), size.prompts, strict=True)
    }
    with mock.patch.object(os, "fsync"):
        for name, kind in _experts(size).items():
            places: dict[str, int] = {}
            for j, (dataset, prompt) in enumerate(size.names):
                p = places.setdefault(dataset, 0)
                places[dataset] += 1
                chosen = f"e{(7 * j) % size.num_experts:04d}"
                of = chosen if kind == "strategy" else name
                of_cell = np.random.default_rng([seed, j, len(of), *of.encode()])
                noise = of_cell.normal(scale=0.7, size=size.num_rows)
                is_right = hard[dataset][p] + skill[of][j] + noise > 0
                _record(
                    store, size, (name, kind, of), (dataset, prompt), is_right, of_cell
                )
    store.finish()
    return store.path


def _experts(size: Size) -> dict[str, str]:
    names = [f"e{i:04d}" for i in range(size.num_experts)]
    first = {"base": "base", "multitask": "multitask", "retrieved": "strategy"}
    return first | dict.fromkeys(names, "prompt")


def _datasets(size: Size) -> list[str]:
    return list(dict.fromkeys(dataset for dataset, _ in size.names))


def _record(
    store: result_store.ResultStore,
    size: Size,
    who: tuple[str, str, str],
    task: tuple[str, str],
    is_right: np.ndarray,
    rng: np.random.Generator,
) -> None:
    (name, kind, of), (dataset, prompt) = who, task
    accuracy = (100.0 * is_right).astype(np.float32)
    scores = rng.normal(size=size.num_rows * size.num_choices).astype(np.float32)
    labels = np.zeros(size.num_rows, np.int32)
    fingerprint = "" if name == "base" else f"{of}{'0' * 12}"
    store.record(
        results.Cell(
            expert=name,
            base_fingerprint="0123456789abcdef",
            expert_fingerprint=fingerprint,
            task=f"{dataset}_{prompt}",
            dataset=dataset,
            prompt=prompt,
            split="validation",
            protocol="elm",
            seed=42,
            checkpoint_step=1000,
            scoring=f"{dataset}_scoring",
        ),
        run_id="evaluate-simulated",
        values={"accuracy": float(accuracy.mean()), "chance": 50.0, "ties": 0.0},
        num_examples=size.num_rows,
        per_example={
            "example_ids": np.arange(size.num_rows, dtype=np.int64),
            "accuracy": accuracy,
            "labels": labels,
            "predictions": np.where(is_right, 0, 1).astype(np.int32),
            "num_choices": np.full(size.num_rows, size.num_choices, np.int32),
            "scores": scores,
        },
        facts=results.Facts(
            kind=kind,
            strategy="retrieved" if kind == "strategy" else "expert",
            experts={} if name == "base" else {of: fingerprint},
            source="" if name == "base" else f"experts/{of}",
            training_seed=0,
            recipe=f"{of}recipe",
            vocabulary="fedcba9876543210",
            data_fingerprint=f"{dataset}{prompt}",
            inputs_cut=0.0,
            undistinguished=0.0,
            ties=0.0,
        ),
    )
