"""What is written down of a training, to see whether another is still the same.

Names are those that a training's fields had before release 0.2, wherever the fields are
now: manifests and states of then are compared with these.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from elm_jax import trees
from elm_jax.checkpoints import manifest
from elm_jax.data import batches
from elm_jax.model import config
from elm_jax.runs import bases, task_data, vocabularies
from elm_jax.runs.loaded import Base
from elm_jax.runs.training import metrics, mixing
from elm_jax.runs.training.spec import ExpertSpec, TrainingSpec
from elm_jax.types import Params


def settings(spec: TrainingSpec, expert: ExpertSpec) -> dict[str, Any]:
    """Returns what shapes an expert by name, as JSON data, without its data.

    Raises:
      CheckpointError: The base's manifest cannot be read.
    """
    fields: dict[str, Any] = {
        "kind": spec.kind,
        "optimizer": dataclasses.asdict(expert.optimizer),
        "train_steps": expert.train_steps,
        "batch_size": spec.batch_size,
        "max_examples": expert.max_examples,
        "model": config.recorded(spec.model_config()),
        "adapter": spec.adapter and dataclasses.asdict(spec.adapter),
        "expert_parts": spec.parts,
        "dropout_rate": spec.dropout_rate,
        "num_shapes": spec.batching.num_shapes,
        "pack": spec.batching.pack,
        "execution": config.recorded(spec.execution),
        "random_seed": expert.random_seed,
        "optimizer_kind": type(expert.optimizer).__name__,
        "adapter_kind": type(spec.adapter).__name__,
    }
    if spec.batching.num_parts != 1:
        fields["num_parts"] = spec.batching.num_parts
    if spec.base_dir is not None:
        fields["base_fingerprint"] = bases.read_fingerprint(spec.base_dir)
    return json.loads(json.dumps(fields))


def completed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings, with the fields that are left out where they change nothing."""
    whole = dict(fields)
    for name, kind in (("model", config.T5Config), ("execution", config.Execution)):
        if whole.get(name):
            whole[name] = config.completed(kind, whole[name])
    if whole:
        whole.setdefault("num_parts", 1)
    return whole


def of_tokens(spec: TrainingSpec, data: task_data.OpenedData) -> dict[str, Any]:
    """Returns what shaped an expert's tokens, beside its rows, for its manifest."""
    return {"tokens": spec.data.options.settings(data.vocabulary.fingerprint)}


def of_state(
    spec: TrainingSpec,
    expert: ExpertSpec,
    *,
    data: task_data.OpenedData,
    examples: mixing.Examples,
    source: batches.BatchSource,
    base_fingerprint: str,
) -> dict[str, Any]:
    """Returns what must not change between stopping and going on, as JSON data.

    Args:
      spec: The training.
      expert: One expert of this training.
      data: The opened data, with the vocabulary.
      examples: The expert's examples.
      source: Makes the expert's batches.
      base_fingerprint: Fingerprint of the base's parameters; "" without a base.
    """
    fields = settings(spec, expert)
    fields["base_fingerprint"] = base_fingerprint
    fields["shapes"] = [list(shape) for shape in source.shapes]
    # Fingerprints are of rows, templates, vocabulary, lengths and code; an
    # example's number is decided by the order of tasks as well.
    fields["data"] = {d.name: d.fingerprint for d in examples}
    fields["vocabulary"] = data.vocabulary.fingerprint
    fields["order_of_data"] = [d.name for d in examples]
    fields["max_examples"] = mixing.caps(spec.tasks, expert.max_examples, examples)
    fields["versions"] = manifest.installed_versions()
    return json.loads(json.dumps(fields))


def of_expert(
    spec: TrainingSpec,
    expert: ExpertSpec,
    params: Params,
    *,
    data: task_data.OpenedData,
    examples: mixing.Examples,
    base: Base | None,
    start_step: int,
    operative_config: str,
) -> manifest.Manifest:
    """Returns the manifest of an expert that is finished.

    Args:
      spec: The training.
      expert: One expert of this training.
      params: What it has learnt.
      data: The opened data, with the vocabulary.
      examples: The expert's data.
      base: What it started from; None for a base from scratch.
      start_step: That the expert has gone on from, 0 for none.
      operative_config: Text of the configuration.
    """
    # A changed configuration may ask for fewer than were taken before.
    steps = max(expert.train_steps, start_step)
    return manifest.Manifest(
        name=expert.expert_name,
        kind=spec.kind,
        base_name=base.name if base else expert.expert_name,
        base_fingerprint=base.fingerprint if base else trees.fingerprint(params),
        model=config.recorded(spec.model_config()),
        adapter=bases.describe(spec.adapter),
        trainable_pattern=spec.trainable_pattern,
        tasks=tuple(dataset.name for dataset in examples),
        data={d.name: data.describe(d) for d in examples},
        licences=data.licences(dataset.name for dataset in examples),
        steps=steps,
        seed=expert.random_seed,
        versions=manifest.installed_versions(),
        training=settings(spec, expert) | of_tokens(spec, data),
        vocabulary=vocabularies.describe(data.vocabulary, set_by="the training"),
        metrics=metrics.read_last(expert.work_dir, step=steps),
        operative_config=operative_config,
    )
