"""The programs of trainings and evaluations as data, and how they are lowered."""

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from elm_jax.model import (
    config,
    cost,
    decoding,
    decoding_spec,
    loss,
    precision,
    scoring,
    t5,
)
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import rules
from elm_jax.peft import adapters, expert_parts
from elm_jax.runs import bases, score_memory
from elm_jax.runs.placement import Devices
from elm_jax.training import fleet, optimizers, state, step
from elm_jax.types import Params

Kind = Literal["step", "fleet step", "ranking", "decoding"]

_SPECS = {
    cls.__name__: cls
    for cls in (
        *(optimizers.AdamW, optimizers.Adafactor),
        *(decoding_spec.Greedy, decoding_spec.BeamSearch, decoding_spec.Sampling),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What decides a compiled program, but for the devices' kind.

    Attributes:
      kind: `step` of an expert on all devices, `fleet step` of several on those of one
        process, `ranking` of choices, or `decoding`.
      model: Shape and numerics; its dropout rate counts in steps.
      adapter: Of the experts; None for none.
      batch: Over all devices; in a fleet, of each expert. For ranking, the targets are
        the choices'.
      devices: Shares of batch and parameters. In a fleet `num_data` counts devices
        that have experts of their own.
      trainable_pattern: Of the names of parameters that train, in steps.
      optimizer: Of the parameters that train, in steps.
      train_steps: That its rates are for.
      is_packed: Whether rows hold several examples.
      num_parts: Of the batch, which a step computes one after another.
      num_slots: Experts of a fleet, on all devices.
      num_lanes: Experts whose steps a device computes as one batch, at most.
      num_choices: Of each input, for ranking.
      decoding: How tokens are chosen.
    """

    kind: Kind
    model: config.T5Config
    batch: cost.BatchShape
    devices: Devices
    adapter: adapters.AdapterSpec | None = None
    trainable_pattern: str = ""
    optimizer: optimizers.AdamW | optimizers.Adafactor | None = None
    train_steps: int = 1
    is_packed: bool = False
    num_parts: int = 1
    num_slots: int = 1
    num_lanes: int = 1
    num_choices: int = 1
    decoding: decoding_spec.DecodingSpec = decoding_spec.GREEDY

    @functools.cached_property
    def network(self) -> t5.T5:
        """The network, without a mesh."""
        return bases.build_model(self.model, self.adapter)

    @functools.cached_property
    def params(self) -> tuple[Params, Params]:
        """Shapes of trained parameters, and of frozen ones in the compute dtype."""
        shapes = t5.param_shapes(self.network)
        if not self.trainable_pattern:
            return {}, precision.in_compute_dtype(self.model, shapes)
        trained, frozen = expert_parts.split(shapes, self.trainable_pattern)
        return trained, precision.in_compute_dtype(self.model, frozen)

    @property
    def num_beams(self) -> int:
        """Hypotheses of each input, for decoding."""
        return score_memory.num_beams(self.decoding)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data, for `from_json`."""
        data = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        for name in ("model", "batch", "devices"):
            data[name] = dataclasses.asdict(data[name])
        for name in ("optimizer", "decoding"):
            if data[name] is not None:
                kind = type(data[name]).__name__
                data[name] = {"is": kind, **dataclasses.asdict(data[name])}
        if self.adapter is not None:
            module = type(self.adapter).__module__
            data["adapter"] = {"module": module, **dataclasses.asdict(self.adapter)}
        return data


def from_json(data: Mapping[str, Any]) -> Program:
    """Returns the program of which `Program.to_json` gave the data."""
    values: dict[str, Any] = dict(data)
    values["model"] = config.T5Config(**_with_tuples(data["model"]))
    values["batch"] = cost.BatchShape(**data["batch"])
    values["devices"] = Devices(**data["devices"])
    for name in ("optimizer", "decoding"):
        if values[name] is not None:
            fields = _with_tuples(values[name])
            values[name] = _SPECS[fields.pop("is")](**fields)
    if data["adapter"] is not None:
        fields = dict(data["adapter"])
        importlib.import_module(fields.pop("module"))  # registers kinds of users
        values["adapter"] = bases.spec_from_json(fields, "the program")
    return Program(**values)


def lower(program: Program, devices: Sequence[Any]) -> jax.stages.Lowered:
    """Returns a program for devices, which need not be here, not yet compiled.

    Raises:
      ConfigError: The devices do not divide a parameter or a batch.
    """
    if program.kind == "fleet step":
        return _lower_fleet_step(program, devices)
    sizes = program.devices
    shape = (sizes.num_data, sizes.num_fsdp, sizes.num_model)
    mesh = _mesh(devices, shape, meshes.AXES)
    parts = program.num_parts
    meshes.check_batch_size(program.batch.batch_size, mesh, num_parts=parts)
    by_kind = {
        "step": _lower_step,
        "ranking": _lower_ranking,
        "decoding": _lower_decoding,
    }
    model = program.network.clone(split_rows=meshes.SplitRows(mesh))
    return by_kind[program.kind](program, model, mesh)


def _lower_step(program: Program, model: t5.T5, mesh: Mesh) -> jax.stages.Lowered:
    train_state, frozen, tx = _state_of(program, mesh)
    arrays = cost.batch_arrays(program.batch, is_packed=program.is_packed)
    batch = {n: _rows(leaf.shape, leaf.dtype, mesh) for n, leaf in arrays.items()}
    loss_fn = loss.make_loss_fn(model)
    return step.lower_step(
        loss_fn, tx, train_state, frozen, batch, num_parts=program.num_parts
    )


def _lower_fleet_step(program: Program, devices: Sequence[Any]) -> jax.stages.Lowered:
    sizes = program.devices
    axes = {fleet.AXIS: sizes.num_data}
    if sizes.num_model > 1:
        axes["model"] = sizes.num_model
    mesh = _mesh(devices, tuple(axes.values()), tuple(axes))
    train_state, frozen, tx = _state_of(program, mesh)
    return fleet.lower_step(
        loss.make_loss_fn(program.network),
        tx,
        example=train_state,
        frozen=frozen,
        batch=cost.batch_arrays(program.batch, is_packed=program.is_packed),
        mesh=mesh,
        num_slots=program.num_slots,
        num_lanes=program.num_lanes,
        num_parts=program.num_parts,
    )


def _lower_ranking(program: Program, model: t5.T5, mesh: Mesh) -> jax.stages.Lowered:
    sizes = program.batch
    rows, choices = sizes.batch_size, (sizes.batch_size, program.num_choices)
    score: Any = scoring.make_score_fn(model)
    return score.lower(
        _placed(program.params[1], program, mesh),
        _rows((rows, sizes.inputs_length), np.int32, mesh),
        _rows((*choices, sizes.targets_length), np.int32, mesh),
        _rows(choices, np.bool_, mesh),
    )


def _lower_decoding(program: Program, model: t5.T5, mesh: Mesh) -> jax.stages.Lowered:
    sizes = program.batch
    write = decoding.make_decode_fn(
        model, program.decoding, max_decode_len=sizes.targets_length
    )
    compiled = jax.jit(lambda params, inputs, ids: write(params, inputs, ids))
    return compiled.lower(
        _placed(program.params[1], program, mesh),
        _rows((sizes.batch_size, sizes.inputs_length), np.int32, mesh),
        _rows((sizes.batch_size,), np.int32, mesh),
    )


def _state_of(program: Program, mesh: Mesh) -> tuple[state.TrainState, Params, Any]:
    assert program.optimizer is not None
    tx = program.optimizer.make(program.train_steps)
    trained, frozen = program.params
    placed = _placed(trained, program, mesh)
    return state.plan_state(placed, tx), _placed(frozen, program, mesh), tx


def _placed(params: Params, program: Program, mesh: Mesh) -> Params:
    places = meshes.shardings(params, mesh, program.devices.axis_rules)
    return meshes.with_shardings(params, places)


def _rows(shape: tuple[int, ...], dtype: Any, mesh: Mesh) -> jax.ShapeDtypeStruct:
    place = NamedSharding(mesh, PartitionSpec(rules.BATCH_AXES))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _mesh(
    devices: Sequence[Any], shape: tuple[int, ...], axes: tuple[str, ...]
) -> Mesh:
    kinds = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(shape, axes, axis_types=kinds, devices=list(devices))


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields of JSON, which has lists for tuples."""
    return {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
