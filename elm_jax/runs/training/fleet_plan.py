"""How a fleet lies on devices: experts over all of them, or the base split, too.

Devices are those of one process. Joined processes deal the list of experts out by name,
every n-th to each of n (`work_sharing`), and each lays out a fleet of its own; so no
gradient, and no part of a base, crosses between hosts. Nothing here asks for devices.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import optax

from elm_jax import errors
from elm_jax.model import cost, t5
from elm_jax.peft import expert_parts
from elm_jax.runs.placement import Devices
from elm_jax.runs.training import step_cost
from elm_jax.runs.training.machine import Machine
from elm_jax.runs.training.spec import TrainingSpec
from elm_jax.types import Params

# The rest is for what no plan counts: fragments, collectives, the compiler's own.
USABLE_SHARE = 0.9
"""Of a device's memory, what a plan may fill."""

SAVING = "a state to be saved"
"""What a device keeps beside the program, by the name of this use."""


class FleetTooLargeError(errors.ConfigError):
    """A fleet fits on its devices in no way, or not with all lanes that are asked."""


class Layout(NamedTuple):
    """Where base and experts of a fleet lie, and why.

    Attributes:
      axis_rules: Name of the table for the base.
      num_model: Devices that share one base; the others have further experts.
      num_slots: Experts that train at a time.
      num_lanes: Experts whose steps a device computes as one batch, at most.
      bytes_per_device: By use.
      why: In a sentence for the plan.
    """

    axis_rules: str
    num_model: int
    num_slots: int
    num_lanes: int
    bytes_per_device: dict[str, int]
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """A fleet that is to be laid out.

    Attributes:
      model: The network.
      batch: Of one expert.
      tx: The optimiser.
      trainable: Parameters of one expert; leaves with `shape` and `dtype`.
      frozen: Those of the base, likewise.
      num_slots: Experts that train at a time.
      num_lanes: Experts whose steps a device computes as one batch, at most.
      platform: Of the devices, as JAX calls it; "" for any but a TPU.
      num_parts: Of each expert's batch, computed one after another.
    """

    model: t5.T5
    batch: cost.BatchShape
    tx: optax.GradientTransformation
    trainable: Params
    frozen: Params
    num_slots: int
    num_lanes: int
    platform: str = ""
    num_parts: int = 1

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
        of_expert = step_cost.bytes_per_device(
            self.model,
            self.batch,
            Devices(num_data=1, num_model=num_model, axis_rules=_rules(num_model)),
            tx=self.tx,
            trainable=self.trainable,
            frozen=self.frozen,
            platform=self.platform,
            num_parts=self.num_parts,
        )
        num_slots = -(-self.num_slots // (num_devices // num_model))
        num_lanes = min(num_lanes, num_slots)
        # The loop over layers reads all lanes' parameters with the layers in front: a
        # GPU's compiler copies them, a TPU's lays them out so. Beside that, where some
        # of the slots have lanes, no copies were seen in the compilers' rows of
        # bfloat16 models (tests/benchmarks/planner_table.jsonl); float32 models are not
        # among them.
        copies = num_lanes if num_lanes > 1 and self.platform != "tpu" else 0
        times = {
            "frozen parameters": 1,
            "trained parameters": num_slots + copies,
            "optimiser": num_slots,
            "gradients": num_lanes,
            "activations": num_lanes,
        }
        # Every device gets a copy of a state that is saved, one state at a time.
        saved = of_expert["trained parameters"] + of_expert["optimiser"]
        uses = {use: size * times[use] for use, size in of_expert.items()}
        return uses | {SAVING: saved}


def choose_layout(
    needs: Needs,
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
      needs: What is to be laid out.
      num_devices: How many devices there are.
      memory_bytes: Of each; None if unknown, which is taken for enough.
      num_model: Devices that are to share a base; 0 for what is said above.
      needs_all_lanes: Whether fewer lanes will not do.

    Raises:
      FleetTooLargeError: It fits in no way, not with all lanes if they are needed.
      ConfigError: `num_model` does not divide a parameter.
    """
    usable = None if memory_bytes is None else int(USABLE_SHARE * memory_bytes)
    if num_model:
        layouts = iter([(num_model, needs.bytes_per_device(num_devices, num_model))])
    else:
        layouts = _layouts(needs, num_devices)
    too_large: list[tuple[int, dict[str, int]]] = []
    for num_model, parts in layouts:  # each costs the trace of a model
        total = sum(parts.values())
        if usable is None or total <= usable:
            why = _explain(num_devices, num_model, total, memory_bytes)
            if too_large:
                split_over, before = too_large[-1]
                size = show_size(sum(before.values()))
                why += f"; over {split_over} it would be {size}"
            lanes, told = _fit_lanes(needs, num_devices, num_model, usable)
            if told and needs_all_lanes:
                raise _too_many_lanes(needs.num_lanes, lanes, told)
            parts = needs.bytes_per_device(num_devices, num_model, num_lanes=lanes)
            return Layout(
                _rules(num_model), num_model, needs.num_slots, lanes, parts, why + told
            )
        too_large.append((num_model, parts))
    num_model, parts = min(too_large, key=lambda each: sum(each[1].values()))
    used = ", ".join(f"{use} {show_size(size)}" for use, size in parts.items() if size)
    raise FleetTooLargeError(
        found=f"a fleet that takes {show_size(sum(parts.values()))} on each of"
        f" {num_devices} devices of {show_size(memory_bytes or 0)}, the base split over"
        f" {num_model}: {used}",
        expected=f"at most {USABLE_SHARE:.0%} of a device's memory",
        do="Train fewer experts at a time, a smaller BATCH_SIZE, remat = 'layer',"
        " or use more devices; a base too large for one process's devices trains"
        " with options.Fleet.size = 0 and axis_rules = 'fsdp' over those of all",
    )


def layout_of(spec: TrainingSpec, machine: Machine) -> Layout:
    """Returns the layout of a fleet: as asked for, or chosen if nothing is asked.

    Raises:
      FleetTooLargeError: It fits in no way.
    """
    num_devices, num_model = machine.num_devices, 0
    if spec.placement.num_model > 1:
        num_model = spec.placement.num_model
        _check_num_model(num_model, num_devices)
        num_devices -= num_devices % num_model
    return choose_layout(
        _needs_of(spec, machine),
        num_devices=num_devices,
        memory_bytes=machine.memory_bytes,
        num_model=num_model,
        needs_all_lanes=spec.fleet.lanes > 0,
    )


def _needs_of(spec: TrainingSpec, machine: Machine) -> Needs:
    model = spec.build_model()
    trainable, frozen = expert_parts.split(
        t5.param_shapes(model), spec.trainable_pattern
    )
    # The largest of the shares that machines and their processes are dealt.
    num_shares = spec.num_shards * machine.num_processes
    return Needs(
        model=model,
        batch=spec.longest_batch(),
        tx=spec.optimizer.make(spec.train_steps),
        trainable=trainable,
        frozen=frozen,
        num_slots=min(spec.fleet.size, -(-len(spec.experts) // num_shares)),
        num_lanes=spec.fleet.lanes or (1 if machine.is_cpu else 8),
        platform=machine.platform,
        num_parts=spec.batching.num_parts,
    )


def _check_num_model(num_model: int, num_devices: int) -> None:
    if num_model > num_devices:
        raise errors.ConfigError(
            found=f"num_model = {num_model} for the {num_devices} devices of this"
            " process",
            expected="a fleet's base on the devices of one process",
            do=f"Set num_model to {num_devices} at most, or options.Fleet.size = 0 to"
            " train one after another over the devices of all processes",
        )


def _layouts(needs: Needs, num_devices: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Yields numbers of devices that can share a base, and what each device keeps."""
    for num_model in range(1, num_devices + 1):
        if num_devices % num_model:
            continue
        try:
            yield num_model, needs.bytes_per_device(num_devices, num_model)
        except errors.ConfigError:
            continue  # these do not divide a parameter


def _fit_lanes(
    needs: Needs, num_devices: int, num_model: int, usable: int | None
) -> tuple[int, str]:
    """Returns how many lanes fit, and what to say if that is not all."""
    totals = [
        sum(needs.bytes_per_device(num_devices, num_model, num_lanes=lanes).values())
        for lanes in range(1, needs.num_lanes + 1)
    ]
    if usable is None or totals[-1] <= usable:
        return needs.num_lanes, ""
    fitting = sum(total <= usable for total in totals)
    text = (
        f"; {needs.num_lanes} lanes would take {show_size(totals[-1])}, {fitting} fit"
    )
    return fitting, text


def _too_many_lanes(asked: int, fitting: int, told: str) -> FleetTooLargeError:
    return FleetTooLargeError(
        found=f"lanes = {asked}{told}",
        expected=f"at most {USABLE_SHARE:.0%} of a device's memory",
        do=f"Set options.Fleet.lanes to {fitting}, or to 0, which takes what fits",
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
        unknown = "an unknown memory (set options.Fleet.device_memory_gib)"
        return f"{where}: {show_size(total)} of {unknown}"
    return f"{where}: {show_size(total)} of {show_size(memory_bytes)}"


def show_size(num_bytes: int) -> str:
    """Returns a number of bytes to read.

    >>> show_size(2**20), show_size(2**30)
    ('1.00 MiB', '1.00 GiB')
    """
    if num_bytes < 2**28:
        return f"{num_bytes / 2**20:.2f} MiB"
    return f"{num_bytes / 2**30:.2f} GiB"
