"""States of many experts on a leading axis over one shared base, and their step.

The leading axis has slots. Slots lie evenly over the devices of one mesh axis, and
each device takes the steps of its own slots, so that experts never wait for each
other's arithmetic and no gradient crosses between devices. The base is on every
device of that axis, whole or split over the others.

A step is for some of the slots, those that have lanes in it. Where a device has one
lane at a time, lanes run one after another in a loop, each as the very program of an
expert trained alone: the right thing where one expert keeps a device busy, as a CPU.
With more, gradients of lanes are computed as one batch, which fills an accelerator, and
states are updated in place one after another, so that there is no second copy of them.
"""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from elm_jax.partitioning import mesh as meshes
from elm_jax.training import step as step_lib
from elm_jax.training.state import TrainState
from elm_jax.types import Batch, LossFn, Metrics, Params

AXIS = "data"


def make_mesh(*, num_model: int = 1) -> Mesh:
    """Returns this process's devices as a mesh for a fleet.

    All of them, however many experts there are: a program for another number of
    devices may round differently.

    Args:
      num_model: Devices that share the base's parameters; with more than 1, the
        mesh has an axis `model`.

    Raises:
      ConfigError: There are other processes that this one has not joined.
    """
    meshes.check_joined()
    devices = jax.local_devices()
    count = max(1, len(devices) // num_model)
    axes = {AXIS: count} | ({"model": num_model} if num_model > 1 else {})
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        devices=devices[: count * num_model],
    )


class Slots:
    """The states of the experts in the slots, on their devices.

    Args:
      loss_fn: Loss of a whole model's parameters on a batch.
      tx: The optimiser; rates and lengths of schedules may differ by state.
      example: A state, or its shapes: all have the same.
      mesh: Devices; slots are divided over its axis `data`.
      num_slots: Experts at a time; rounded up to a multiple of the devices.
      num_lanes: Experts whose steps a device computes as one batch; with 1, one
        after another, all of its slots in one call.
      num_parts: Parts in which a batch is computed, one after another.

    Attributes:
      waited_secs: Time in which batches were made, stacked or placed while no step
        was under way, at most; the loop counts the making.
      step_secs: Time between the last two steps; 0.0 before the second.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        tx: optax.GradientTransformation,
        *,
        example: TrainState,
        mesh: Mesh,
        num_slots: int,
        num_lanes: int = 1,
        num_parts: int = 1,
    ) -> None:
        self.waited_secs = self.step_secs = 0.0
        self._stepped_at: float | None = None
        self._newest: Metrics = {}
        self._mesh, self.num_devices = mesh, mesh.shape[AXIS]
        self.slots_per_device = -(-num_slots // self.num_devices)
        self.num_slots = self.slots_per_device * self.num_devices
        is_serial = num_lanes == 1
        self.lanes_per_device = (
            self.slots_per_device
            if is_serial
            else min(num_lanes, self.slots_per_device)
        )
        self._step = _compile_step(loss_fn, tx.update, mesh, is_serial, num_parts)
        self._put, self._get = _compile_moves(mesh, self.slots_per_device)
        self._states = self._make_empty(example)

    def device_of(self, slot: int) -> int:
        """Returns the place of a slot's device along the axis."""
        return slot // self.slots_per_device

    def put(self, slot: int, state: TrainState) -> None:
        """Puts a state into a slot, in place of the former one."""
        replicated = NamedSharding(self._mesh, PartitionSpec())
        own_devices = {*self._mesh.devices.flat}

        def place(leaf: Any) -> Any:
            sharding = getattr(leaf, "sharding", None)
            if sharding is not None and sharding.device_set == own_devices:
                return leaf
            return jax.device_put(leaf, replicated)

        placed = jax.tree.map(place, state)
        self._states = self._put(self._states, self._place(slot, split=False), placed)

    def get(self, slot: int) -> TrainState:
        """Returns a slot's state after all steps so far, as numpy; waits for them.

        Every device has a copy of this one state until it is here.
        """
        return jax.device_get(self._get(self._states, self._place(slot, split=False)))

    @property
    def is_idle(self) -> bool:
        """Whether no step is under way."""
        return all(leaf.is_ready() for leaf in self._newest.values())

    def step(
        self, frozen: Params, batches: Mapping[int, Batch]
    ) -> tuple[Metrics, dict[int, int]]:
        """Takes one step in some slots; the others stay as they are.

        Args:
          frozen: The part of the model that does not train, on all devices.
          batches: Batch of each slot that takes a step; all of one shape, and at
            most `lanes_per_device` on a device.

        Returns:
          Metrics as arrays [lanes], still being computed, and each slot's lane.
        """
        now = time.monotonic()
        self.step_secs = now - (now if self._stepped_at is None else self._stepped_at)
        self._stepped_at = now
        slots, active, lane_of = self._choose_lanes(batches)
        first_batch = next(iter(batches.values()))
        empty = {name: np.zeros_like(leaf) for name, leaf in first_batch.items()}
        by_lane = {lane: batches[slot] for slot, lane in lane_of.items()}
        rows = [by_lane.get(lane, empty) for lane in range(len(slots))]
        stacked = {name: np.stack([row[name] for row in rows]) for name in first_batch}
        placed = self._place((stacked, slots, active))
        if self.is_idle:
            self.waited_secs += time.monotonic() - now
        self._states, self._newest = self._step(self._states, frozen, placed)
        return self._newest, lane_of

    def lower(self, frozen: Params, stacked: Batch) -> jax.stages.Lowered:
        """Returns the program of a step, not yet compiled, to look at its costs.

        Args:
          frozen: The part of the model that does not train, on all devices.
          stacked: Batches [lanes, ...].
        """
        slots, active, _ = self._choose_lanes({})
        placed = self._place((stacked, slots, active))
        return self._step.lower(self._states, frozen, placed)

    @property
    def state_bytes(self) -> int:
        """Bytes of all states, over all devices."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._states))

    def _choose_lanes(
        self, batches: Mapping[int, Batch]
    ) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
        """Returns each lane's slot on its device, whether it is used, and slots' lanes.

        Unused lanes have slots of their own, so that no two lanes write to one. Where
        all slots have lanes, these have their order.
        """
        size, width = self.slots_per_device, self.lanes_per_device
        slots, active, lane_of = [], [], {}
        for device in range(self.num_devices):
            device_slots = range(device * size, (device + 1) * size)
            busy = [slot for slot in device_slots if slot in batches]
            idle = [slot for slot in device_slots if slot not in batches]
            chosen = [*device_slots] if width == size else (busy + idle)[:width]
            lanes = enumerate(chosen, start=device * width)
            lane_of |= {slot: lane for lane, slot in lanes if slot in batches}
            slots += [slot - device_slots.start for slot in chosen]
            active += [slot in batches for slot in chosen]
        return np.asarray(slots, np.int32), np.asarray(active), lane_of

    def _place(self, tree: Any, *, split: bool = True) -> Any:
        spec = PartitionSpec(AXIS) if split else PartitionSpec()
        return jax.device_put(tree, NamedSharding(self._mesh, spec))

    def _make_empty(self, example: TrainState) -> Any:
        """Returns states of zeros [slots, ...], split over the devices."""
        shapes = _stacked(example, self._mesh, self.num_slots)
        leaves, structure = jax.tree.flatten(shapes)
        return jax.tree.unflatten(structure, _compile_zeros(tuple(leaves))())


def lower_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    example: TrainState,
    frozen: Params,
    batch: Batch,
    mesh: Mesh,
    num_slots: int,
    num_lanes: int,
    num_parts: int = 1,
) -> jax.stages.Lowered:
    """Returns the program of a step as `Slots` has it, by shapes alone.

    Args:
      loss_fn: Loss of a whole model's parameters on a batch.
      tx: The optimiser; rates and lengths of schedules may differ by state.
      example: Shapes of a state.
      frozen: Shapes, with shardings, of the part of the model that does not train.
      batch: Shapes of the batch of one expert.
      mesh: Devices, which need not be here.
      num_slots: A multiple of the devices of its axis `data`.
      num_lanes: Experts whose steps a device computes as one batch, at most.
      num_parts: Parts in which a batch is computed, one after another.
    """
    per_device = num_slots // mesh.shape[AXIS]
    is_serial = num_lanes == 1
    lanes = per_device if is_serial else min(num_lanes, per_device)

    def of_lanes(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        place = NamedSharding(mesh, PartitionSpec(AXIS))
        dims = (lanes * mesh.shape[AXIS], *shape)
        return jax.ShapeDtypeStruct(dims, dtype, sharding=place)

    step = _compile_step(loss_fn, tx.update, mesh, is_serial, num_parts)
    batches = {n: of_lanes(leaf.shape, leaf.dtype) for n, leaf in batch.items()}
    return step.lower(
        _stacked(example, mesh, num_slots),
        frozen,
        (batches, of_lanes((), np.int32), of_lanes((), np.bool_)),
    )


# Fleets that have the same programs share them: they are traced and compiled once.
@functools.lru_cache(maxsize=16)
def _compile_step(
    loss_fn: LossFn,
    update_fn: optax.TransformUpdateFn,
    mesh: Mesh,
    is_serial: bool,  # noqa: FBT001
    num_parts: int,
) -> Any:
    """Returns `(states, frozen, (batches, slots, active)) -> (states, metrics)`."""
    run_lanes, update = _as_one_batch, step_lib.update_if
    if is_serial:
        run_lanes, update = _one_after_another, step_lib.update
    differentiate = functools.partial(
        step_lib.differentiate, loss_fn, num_parts=num_parts
    )
    update_lane = functools.partial(update, update_fn)
    step = functools.partial(run_lanes, differentiate, update_lane)
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    return _compile(mesh, step, (split, whole, split))


@functools.lru_cache(maxsize=16)
def _compile_moves(mesh: Mesh, slots_per_device: int) -> tuple[Any, Any]:
    """Returns what puts a state into a slot, and what gets it."""
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    put, get = (functools.partial(move, slots_per_device) for move in (_put, _get))
    return (
        _compile(mesh, put, (split, whole, whole)),
        _compile(mesh, get, (split, whole), whole),
    )


@functools.lru_cache(maxsize=16)
def _compile_zeros(shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Any:
    return jax.jit(
        lambda: [jnp.zeros(s.shape, s.dtype) for s in shapes],
        out_shardings=[s.sharding for s in shapes],
    )


def _compile(mesh: Mesh, fn: Any, in_specs: Any, out_specs: Any = None) -> Any:
    mapped = jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=PartitionSpec(AXIS) if out_specs is None else out_specs,
        axis_names={AXIS},
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=() if out_specs is not None else 0)


def _stacked(example: TrainState, mesh: Mesh, num_slots: int) -> Any:
    """Returns the shapes of states [slots, ...], split over the devices."""

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        spec: tuple[Any, ...] = ()
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding):
            spec = tuple(None if axis == AXIS else axis for axis in sharding.spec)
        return jax.ShapeDtypeStruct(
            (num_slots, *leaf.shape),
            leaf.dtype,
            sharding=NamedSharding(mesh, PartitionSpec(AXIS, *spec)),
        )

    return jax.tree.map(describe, example)


def _one_after_another(
    differentiate: Any, update: Any, states: Any, frozen: Params, lanes: Any
) -> tuple[Any, Metrics]:
    """Takes the steps of a device's lanes in a loop; unused lanes cost nothing."""

    @functools.partial(jax.jit, inline=True)  # traced once, for the program and `skip`
    def run(state: Any, batch: Any) -> tuple[Any, Metrics]:
        grads, metrics = differentiate(state, frozen, batch)
        return update(state, grads), metrics

    def skip(state: Any, batch: Any) -> tuple[Any, Metrics]:
        shapes = jax.eval_shape(run, state, batch)[1]
        return state, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def step_of_lane(states: Any, lane: Any) -> tuple[Any, Metrics]:
        batch, slot, is_active = lane
        state = _pick(states, slot)
        state, metrics = jax.lax.cond(is_active, run, skip, state, batch)
        return _insert(states, slot, state), metrics

    return jax.lax.scan(step_of_lane, states, lanes)


def _as_one_batch(
    differentiate: Any, update_if: Any, states: Any, frozen: Params, lanes: Any
) -> tuple[Any, Metrics]:
    """Takes the steps of a device's lanes: gradients side by side, then updates."""
    batches, slots, active = lanes
    of_lanes = states
    if len(slots) < len(states.step):  # else they have the order of the slots
        of_lanes = jax.tree.map(lambda leaf: leaf[slots], states)
    grads, metrics = jax.vmap(differentiate, in_axes=(0, None, 0))(
        of_lanes, frozen, batches
    )

    def update_lane(states: Any, lane: Any) -> tuple[Any, None]:
        grads, slot, is_active = lane
        new = update_if(_pick(states, slot), grads, is_active)
        return _insert(states, slot, new), None

    return jax.lax.scan(update_lane, states, (grads, slots, active))[0], metrics


def _put(slots_per_device: int, states: Any, slot: Any, state: Any) -> Any:
    place, is_here = _locate(slots_per_device, slot)
    old = _pick(states, place)
    new = jax.tree.map(lambda n, o: jnp.where(is_here, n, o), state, old)
    return _insert(states, place, new)


def _get(slots_per_device: int, states: Any, slot: Any) -> Any:
    """Returns the state of a slot to all devices, moved as bits and never added."""
    place, _ = _locate(slots_per_device, slot)
    device = slot // slots_per_device

    def share(leaf: Any) -> Any:
        everywhere = jax.lax.all_gather(leaf, AXIS)
        return jax.lax.dynamic_index_in_dim(everywhere, device, keepdims=False)

    return jax.tree.map(share, _pick(states, place))


def _locate(slots_per_device: int, slot: Any) -> tuple[Any, Any]:
    """Returns a slot's place on its device, and whether that is this device."""
    is_here = slot // slots_per_device == jax.lax.axis_index(AXIS)
    return slot % slots_per_device, is_here


def _pick(states: Any, place: Any) -> Any:
    index = jax.lax.dynamic_index_in_dim
    return jax.tree.map(lambda leaf: index(leaf, place, keepdims=False), states)


def _insert(states: Any, place: Any, state: Any) -> Any:
    update = jax.lax.dynamic_update_index_in_dim
    return jax.tree.map(lambda old, new: update(old, new, place, 0), states, state)
