"""The programs that a training or an evaluation would run on a target."""

import dataclasses
import pathlib
from typing import NamedTuple

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.compiling import targets
from elm_jax.model import config
from elm_jax.partitioning import mesh as meshes
from elm_jax.runs import bases, score_memory
from elm_jax.runs.compiling import plan
from elm_jax.runs.compiling.programs import Program
from elm_jax.runs.evaluate import Evaluate
from elm_jax.runs.placement import Devices, choose_devices
from elm_jax.runs.train import Train
from elm_jax.runs.training import (
    batch_lengths,
    fitting,
    fleet_layout,
    fleet_plan,
    machine,
)
from elm_jax.runs.training.spec import TrainingSpec

# Functions of these fields are the same, whatever they are.
_NUMERICS = (
    *("dtype", "scan_unroll", "remat", "attention", "dropout_rate"),
    *("attention_dropout", "logits_chunks"),
)


class Planned(NamedTuple):
    """A program, and its bytes on a device by plan.

    Attributes:
      program: To be compiled.
      bytes_by_use: On each device, as planned.
      beside: Bytes of each device that are taken beside the program.
    """

    program: Program
    bytes_by_use: dict[str, int]
    beside: int = 0


def planned(
    run: Train | Evaluate,
    target: targets.Target,
    shape: config.T5Config | None,
    *,
    all_lengths: bool = False,
) -> list[Planned]:
    """Returns the programs of a run on a target.

    Args:
      run: A training or an evaluation.
      target: The accelerator that the run would have.
      shape: Of the base, if that is not there.
      all_lengths: Whether a training has a program for each length that batches of its
        data have, longest first, instead of one for the longest that there may be. Its
        token caches are built where they are not there.

    Raises:
      ConfigError: The devices do not divide a parameter or a batch, or a fleet fits in
        no way.
    """
    if isinstance(run, Train):
        longest = _of_training(run.spec(), target, shape)
        return _of_lengths(run.spec(), longest, target) if all_lengths else [longest]
    return _of_evaluation(run, target, shape)


def _of_training(
    spec: TrainingSpec, target: targets.Target, shape: config.T5Config | None
) -> Planned:
    if spec.base_dir is not None:
        model = base_shape(spec.base_dir, shape)
        spec = dataclasses.replace(spec, base_dir=None, model=model)
    host = _machine(spec, target)
    spec = fitting.fitted(spec, host, target.num_devices).spec
    beside = 0
    batch, slots, lanes = spec.longest_batch(), 1, 1
    if spec.is_fleet:
        layout = fleet_plan.layout_of(spec, host)
        groups = target.devices_per_host // layout.num_model
        devices = Devices(
            num_data=groups, num_model=layout.num_model, axis_rules=layout.axis_rules
        )
        slots = -(-layout.num_slots // groups) * groups
        lanes = layout.num_lanes
        beside = layout.bytes_per_device[fleet_layout.SAVING]
    else:
        devices = choose_devices(spec.placement, target.num_devices)
        parts = spec.batching.num_parts
        meshes.check_batch_size(spec.batch_size, devices.mesh, num_parts=parts)
    program = Program(
        kind="fleet step" if spec.is_fleet else "step",
        model=spec.execution.applied_to(spec.model_config()),
        adapter=spec.adapter,
        batch=batch,
        devices=devices,
        trainable_pattern=spec.trainable_pattern,
        optimizer=spec.optimizer,
        train_steps=spec.train_steps,
        is_packed=spec.batching.pack,
        num_parts=spec.batching.num_parts,
        num_slots=slots,
        num_lanes=lanes,
    )
    return Planned(program, plan.bytes_by_use(program, target.platform), beside)


def _of_lengths(
    spec: TrainingSpec, longest: Planned, target: targets.Target
) -> list[Planned]:
    spec = dataclasses.replace(spec, base_dir=None, model=longest.program.model)
    data = spec.open_data()
    examples = batch_lengths.open_examples(spec, data)
    every = []
    for lengths in reversed(batch_lengths.find(spec, data, examples)):
        batch = dataclasses.replace(longest.program.batch, **lengths._asdict())
        program = dataclasses.replace(longest.program, batch=batch)
        uses = plan.bytes_by_use(program, target.platform)
        every.append(longest._replace(program=program, bytes_by_use=uses))
    return every


def _machine(spec: TrainingSpec, target: targets.Target) -> machine.Machine:
    memory_gib = spec.fleet.device_memory_gib
    return machine.Machine(
        num_devices=target.devices_per_host,
        memory_bytes=int(memory_gib * 2**30) if memory_gib else target.memory_bytes,
        is_cpu=False,
        num_processes=target.num_hosts,
        platform=target.platform,
        target=target,
    )


def _of_evaluation(
    run: Evaluate, target: targets.Target, shape: config.T5Config | None
) -> list[Planned]:
    model = base_shape(run.path(run.initial_checkpoint_path), shape)
    ranked, decoded = score_memory.batch_shapes(run.batch_size, run.data.features)
    devices = choose_devices(run.placement, target.num_devices)
    meshes.check_batch_size(run.batch_size, devices.mesh)
    ranking = Program(
        kind="ranking",
        model=model,
        batch=ranked,
        devices=devices,
        num_choices=score_memory.NUM_CHOICES,
    )
    decoding = dataclasses.replace(
        ranking, kind="decoding", batch=decoded, decoding=run.decoding
    )
    return [
        Planned(p, plan.bytes_by_use(p, target.platform)) for p in (ranking, decoding)
    ]


def base_shape(
    folder: pathlib.Path, given_shape: config.T5Config | None
) -> config.T5Config:
    """Returns the shape of a base: of its manifest, else the given one.

    Args:
      folder: Of the base; need not be there.
      given_shape: The shape by a gin file or a caller; None for none.

    Raises:
      ConfigError: There is neither shape, or they are of different models.
    """
    if not (folder / manifest.FILE_NAME).is_file():
        if given_shape is None:
            raise errors.ConfigError(
                found=f"no base in {folder}, and no shape of a model",
                expected="one of them, to know what to compile",
                do="Add the shape, such as"
                " --gin_file=gin/parts/models/t5_1_1_lm_adapted_xl.gin, or import the"
                " base (elm_convert)",
            )
        return given_shape
    shape = bases.model_config(bases.read_manifest(folder))
    if given_shape is not None:
        base_fields = dataclasses.asdict(shape)
        given_fields = dataclasses.asdict(given_shape)
        differing = [
            n
            for n in base_fields
            if n not in _NUMERICS and base_fields[n] != given_fields[n]
        ]
        if differing:
            differences = ", ".join(
                f"{n} = {base_fields[n]}, not {given_fields[n]}" for n in differing
            )
            raise errors.ConfigError(
                found=f"a base in {folder} with {differences}",
                expected="the shape of the base, or no shape",
                do="Leave the gin file of the model out, or name another MODEL_DIR",
            )
    return shape
