"""What scoring takes of devices' memory, by the shape of a model alone."""

import dataclasses
import math
import pathlib
from typing import Literal

import jax

from elm_jax.data import tasks
from elm_jax.evaluation import batching
from elm_jax.model import cost, decoding_spec, precision, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import rules
from elm_jax.runs import bases
from elm_jax.runs.placement import Devices, Placement, choose_devices
from elm_jax.runs.run import Plan, show_size
from elm_jax.types import Params

NUM_CHOICES = 4
"""Of each input, where no data has been read."""


def batch_shapes(
    batch_size: int, features: tasks.Features
) -> tuple[cost.BatchShape, cost.BatchShape]:
    """Returns the largest batch of ranking, and of decoding."""
    ranked = cost.BatchShape(
        batch_size=batch_size,
        inputs_length=batching.round_up(features.inputs_length, least=32),
        targets_length=batching.round_up(features.targets_length, least=8),
    )
    return ranked, dataclasses.replace(ranked, targets_length=features.targets_length)


def num_beams(spec: decoding_spec.DecodingSpec) -> int:
    """Returns the hypotheses of each input."""
    return spec.num_beams if isinstance(spec, decoding_spec.BeamSearch) else 1


def bytes_by_use(
    kind: Literal["ranking", "decoding"],
    network: t5.T5,
    params: Params,
    batch: cost.BatchShape,
    devices: Devices,
    *,
    num_texts: int,
    platform: str,
) -> dict[str, int]:
    """Returns bytes on each device, by use.

    Args:
      kind: Of the scoring.
      network: The model that scores.
      params: Leaves with `shape` and `dtype`, as the model computes with them.
      batch: Over all devices.
      devices: The devices that score.
      num_texts: Choices or beams of each input.
      platform: Of the devices, as JAX calls it.

    Raises:
      ConfigError: The devices do not divide a parameter.
    """
    rows = math.ceil(batch.batch_size / meshes.batch_shares(devices.mesh))
    places = meshes.plan(params, devices.mesh, devices.axis_rules)
    is_shared = rules.axis_table(devices.axis_rules)["mlp"] == "model"
    num_model = devices.num_model if is_shared else 1
    most = (cost.ranking_bytes if kind == "ranking" else cost.decoding_bytes)(
        network.config,
        dataclasses.replace(batch, batch_size=rows),
        num_texts,
        num_model=num_model,
        platform=platform,
    )
    if devices.num_fsdp > 1:
        most += cost.gathered_bytes(network, num_model=num_model)
    return {
        "parameters": sum(place.bytes_per_device for place in places),
        "activations": most,
    }


def describe(
    base_dir: pathlib.Path,
    placement: Placement,
    batch_size: int,
    features: tasks.Features,
    decoding: decoding_spec.DecodingSpec,
) -> Plan:
    """Returns the rows of a plan that tell how and where a base scores, and bytes.

    Args:
      base_dir: Folder of the base.
      placement: As the run says.
      batch_size: Over all devices.
      features: Lengths.
      decoding: How tokens are chosen.

    Raises:
      CheckpointError: There is no base.
      ConfigError: The devices do not divide the batch or a parameter.
    """
    devices = choose_devices(placement)
    meshes.check_batch_size(batch_size, devices.mesh)
    model = bases.model_config(bases.read_manifest(base_dir))
    network = bases.build_model(model, None)
    params = precision.in_compute_dtype(model, t5.param_shapes(network))
    ranked, decoded = batch_shapes(batch_size, features)

    def sizes_text(kind: Literal["ranking", "decoding"], num_texts: int) -> str:
        batch = ranked if kind == "ranking" else decoded
        uses = bytes_by_use(
            *(kind, network, params, batch, devices),
            num_texts=num_texts,
            platform=jax.default_backend(),
        )
        parts = ", ".join(f"{use} {show_size(size)}" for use, size in uses.items())
        return f"{show_size(sum(uses.values()))}: {parts}"

    return {
        "decoding": decoding,
        "devices": devices,
        "bytes per device of ranking, about": f"{sizes_text('ranking', NUM_CHOICES)}"
        f" ({NUM_CHOICES} choices as long as targets)",
        "bytes per device of decoding, about": sizes_text(
            "decoding", num_beams(decoding)
        ),
    }
