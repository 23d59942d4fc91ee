"""How a fleet lies on devices: experts over all of them, or the base split, too.

Devices are those of one process. Joined processes deal the list of experts out by name,
every n-th to each of n (`runs.turns`), and each lays out a fleet of its own; so no
gradient, and no part of a base, crosses between hosts.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import jax
import optax

from elm_jax import errors
from elm_jax.model import config, cost, t5
from elm_jax.partitioning import cpu_devices, processes
from elm_jax.peft import experts as expert_kinds
from elm_jax.runs import train_plan
from elm_jax.runs.run import Plan
from elm_jax.types import Params

if TYPE_CHECKING:
    from elm_jax.runs import train

# The rest is for what no plan counts: fragments, collectives, the compiler's own.
_USABLE_SHARE = 0.9


class Layout(NamedTuple):
    """Where base and experts of a fleet lie, and why.

    Attributes:
      axis_rules: Name of the table for the base.
      num_model: Devices that share one base; the others have further experts.
      num_lanes: Experts whose steps a device computes as one batch, at most.
      bytes_per_device: By use.
      why: In a sentence for the plan.
    """

    axis_rules: str
    num_model: int
    num_lanes: int
    bytes_per_device: dict[str, int]
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """What is to be laid out.

    Attributes:
      shape: The model.
      batch: Of one expert.
      tx: The optimiser.
      trainable: Parameters of one expert; leaves with `shape` and `dtype`.
      frozen: Those of the base, likewise.
      num_slots: Experts that train at a time.
      num_lanes: Experts whose steps a device computes as one batch, at most.
    """

    shape: config.T5Config
    batch: cost.Shape
    tx: optax.GradientTransformation
    trainable: Params
    frozen: Params
    num_slots: int
    num_lanes: int

    def bytes_per_device(
        self, num_devices: int, num_model: int, *, num_lanes: int = 1
    ) -> dict[str, int]:
        """Returns what each device keeps, by use.

        Args:
          num_devices: How many there are.
          num_model: Devices that share one base.
          num_lanes: Experts whose steps a device computes as one batch, at most.

        Raises:
          ConfigError: They do not divide a parameter.
        """
        one = train_plan.bytes_per_device(
            self.shape,
            self.batch,
            train_plan.Devices(
                num_data=1, num_model=num_model, axis_rules=_rules(num_model)
            ),
            tx=self.tx,
            trainable=self.trainable,
            frozen=self.frozen,
        )
        num_slots = -(-self.num_slots // (num_devices // num_model))
        num_lanes = min(num_lanes, num_slots)
        times = {
            "frozen parameters": 1,
            "trained parameters": num_slots,
            "optimiser": num_slots,
            "gradients": num_lanes,
            "activations": num_lanes,
        }
        # Every device gets a copy of a state that is saved, one state at a time.
        saved = one["trained parameters"] + one["optimiser"]
        found = {use: size * times[use] for use, size in one.items()}
        return found | {"a state to be saved": saved}


def choose_layout(
    fleet: Fleet,
    *,
    num_devices: int,
    memory_bytes: int | None,
    num_model: int = 0,
    needs_all_lanes: bool = False,
) -> Layout:
    """Returns the layout in which the fewest devices share a base.

    A base that fits on one device beside its experts, the step of one of them at work,
    is kept whole there, and the experts are spread over the devices, which then need
    not talk to each other. Else the base is split over as few as it fits on. Then as
    many lanes are taken, of those of the fleet, as there is memory left for.

    Args:
      fleet: What is to be laid out.
      num_devices: How many devices there are.
      memory_bytes: Of each; None if unknown, which is taken for enough.
      num_model: Devices that are to share a base; 0 for what is said above.
      needs_all_lanes: Whether fewer lanes will not do.

    Raises:
      ConfigError: It fits in no way, not with all lanes if they are needed, or
        `num_model` does not divide a parameter.
    """
    usable = None if memory_bytes is None else int(_USABLE_SHARE * memory_bytes)
    if num_model:
        tried = [(num_model, fleet.bytes_per_device(num_devices, num_model))]
    else:
        tried = list(_layouts(fleet, num_devices))
    for number, (num_model, parts) in enumerate(tried):
        total = sum(parts.values())
        if usable is None or total <= usable:
            why = _explain(num_devices, num_model, total, memory_bytes)
            if number:
                before = sum(tried[number - 1][1].values())
                why += f"; over {tried[number - 1][0]} it would be {_size(before)}"
            lanes, told = _fit_lanes(fleet, num_devices, num_model, usable)
            if told and needs_all_lanes:
                raise _too_many_lanes(fleet.num_lanes, lanes, told)
            parts = fleet.bytes_per_device(num_devices, num_model, num_lanes=lanes)
            return Layout(_rules(num_model), num_model, lanes, parts, why + told)
    num_model, parts = min(tried, key=lambda each: sum(each[1].values()))
    used = ", ".join(f"{use} {_size(size)}" for use, size in parts.items() if size)
    raise errors.ConfigError(
        found=f"a fleet that takes {_size(sum(parts.values()))} on each of"
        f" {num_devices} devices of {_size(memory_bytes or 0)}, the base split over"
        f" {num_model}: {used}",
        expected=f"at most {_USABLE_SHARE:.0%} of a device's memory",
        do="Train fewer experts at a time, a smaller BATCH_SIZE, remat = 'layer',"
        " or use more devices; a base too large for one process's devices trains"
        " with fleet_size = 0 and axis_rules = 'fsdp' over those of all",
    )


def device_memory(given_gib: float = 0.0) -> int | None:
    """Returns the bytes of this machine's first device, None if it does not tell.

    Args:
      given_gib: To be taken instead, in GiB, if not 0.
    """
    if given_gib:
        return int(given_gib * 2**30)
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def of_run(run: "train.Train") -> Layout:
    """Returns the layout of a run's fleet: as it says, or chosen if it says nothing.

    On the devices of this process alone, whether or not it has joined others: a base
    may be split over them, never over those of several processes.

    Raises:
      ConfigError: It fits in no way.
    """
    cpu_devices.request()
    num_devices, num_model = jax.local_device_count(), 0
    if run.placement.num_model > 1:
        num_model = run.placement.num_model
        _check_num_model(num_model, num_devices)
        num_devices -= num_devices % num_model
    return choose_layout(
        _fleet_of(run),
        num_devices=num_devices,
        memory_bytes=device_memory(run.device_memory_gib),
        num_model=num_model,
        needs_all_lanes=run.fleet_lanes > 0,
    )


def _check_num_model(num_model: int, num_devices: int) -> None:
    if num_model > num_devices:
        raise errors.ConfigError(
            found=f"num_model = {num_model} for the {num_devices} devices of this"
            " process",
            expected="a fleet's base on the devices of one process",
            do=f"Set num_model to {num_devices} at most, or fleet_size = 0 to train"
            " one after another over the devices of all processes",
        )


def describe_run(run: "train.Train") -> Plan:
    """Returns the rows of a run's plan that tell what its training costs, and where.

    Raises:
      ConfigError: Devices do not divide a parameter or a batch.
    """
    batch = train_plan.batch_shape(run.batch_size, run.data.features)
    tx = run.optimizer.make(run.train_steps)
    layout = of_run(run) if run.is_fleet else None
    if layout is None:
        devices = train_plan.choose_devices(run.placement)
    else:
        devices = train_plan.Devices(
            num_data=1, num_model=layout.num_model, axis_rules=layout.axis_rules
        )
    rows = train_plan.describe(
        run.build_model(), batch, devices, pattern=run.pattern, tx=tx
    )
    if layout is None:
        return rows
    fleet, parts = _fleet_of(run), layout.bytes_per_device
    groups = max(1, jax.local_device_count() // layout.num_model)
    slots = -(-fleet.num_slots // groups)
    lanes = min(layout.num_lanes, slots)
    way = f"{lanes} as one batch" if lanes > 1 else "one after another"
    used = ", ".join(f"{use} {_size(size)}" for use, size in parts.items() if size)
    further = parts["a state to be saved"]
    count = processes.count()
    dealt = f", in each of {count} processes: experts are dealt out by name"
    dealt = dealt if count > 1 else ""
    return rows | {
        "fleet": f"{slots * groups} slots, {slots} by {groups}, steps {way}{dealt}",
        "devices": layout.why,
        "bytes per device, about": f"{_size(sum(parts.values()))}: {used}",
        "bytes per further expert": f"{further / 2**20:.2f} MiB on its device",
    }


def _fleet_of(run: "train.Train") -> Fleet:
    model = run.build_model()
    trainable, frozen = expert_kinds.split(t5.param_shapes(model), run.pattern)
    return Fleet(
        shape=model.config,
        batch=train_plan.batch_shape(run.batch_size, run.data.features),
        tx=run.optimizer.make(run.train_steps),
        trainable=trainable,
        frozen=frozen,
        num_slots=run.num_slots,
        num_lanes=run.num_lanes,
    )


def _layouts(fleet: Fleet, num_devices: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Yields numbers of devices that can share a base, and what each device keeps."""
    for num_model in range(1, num_devices + 1):
        if num_devices % num_model:
            continue
        try:
            yield num_model, fleet.bytes_per_device(num_devices, num_model)
        except errors.ConfigError:
            continue  # these do not divide a parameter


def _fit_lanes(
    fleet: Fleet, num_devices: int, num_model: int, usable: int | None
) -> tuple[int, str]:
    """Returns how many lanes fit, and what to say if that is not all."""
    totals = [
        sum(fleet.bytes_per_device(num_devices, num_model, num_lanes=lanes).values())
        for lanes in range(1, fleet.num_lanes + 1)
    ]
    if usable is None or totals[-1] <= usable:
        return fleet.num_lanes, ""
    fitting = sum(total <= usable for total in totals)
    text = f"; {fleet.num_lanes} lanes would take {_size(totals[-1])}, {fitting} fit"
    return fitting, text


def _too_many_lanes(asked: int, fitting: int, told: str) -> errors.ConfigError:
    return errors.ConfigError(
        found=f"fleet_lanes = {asked}{told}",
        expected=f"at most {_USABLE_SHARE:.0%} of a device's memory",
        do=f"Set fleet_lanes to {fitting}, or to 0, which takes what fits",
    )


def _rules(num_model: int) -> str:
    return "data" if num_model == 1 else "data_model"


def _explain(
    num_devices: int, num_model: int, total: int, memory_bytes: int | None
) -> str:
    groups = num_devices // num_model
    if num_model == 1:
        where = f"experts over {groups} devices, the base whole on each"
    else:
        where = f"the base split over {num_model} devices, experts over {groups} such"
    if memory_bytes is None:
        return f"{where}: {_size(total)} of an unknown memory (set device_memory_gib)"
    return f"{where}: {_size(total)} of {_size(memory_bytes)}"


def _size(num_bytes: int) -> str:
    if num_bytes < 2**28:
        return f"{num_bytes / 2**20:.2f} MiB"
    return f"{num_bytes / 2**30:.2f} GiB"
