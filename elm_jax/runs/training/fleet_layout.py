"""What a fleet needs of its devices, and how it lies on them."""

import dataclasses
import functools

import optax

from elm_jax.model import cost, t5
from elm_jax.runs.placement import Devices
from elm_jax.runs.run import show_size
from elm_jax.runs.training import step_cost
from elm_jax.types import Params

SAVING = "a state to be saved"
"""What a device keeps beside the program, by the name of this use."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where base and experts of a fleet lie.

    Attributes:
      needs: What is laid out.
      num_devices: How many devices there are.
      memory_bytes: Of each; None if unknown.
      num_model: Devices that share one base; the others have further experts.
      num_lanes: Experts whose steps a device computes as one batch, at most.
      rejected: What to say of what does not fit; "" for nothing.
    """

    needs: Needs
    num_devices: int
    memory_bytes: int | None
    num_model: int
    num_lanes: int
    rejected: str = ""

    @property
    def axis_rules(self) -> str:
        """Name of the table for the base."""
        return _rules(self.num_model)

    @property
    def num_slots(self) -> int:
        """Experts that train at a time."""
        return self.needs.num_slots

    @functools.cached_property
    def bytes_per_device(self) -> dict[str, int]:
        """Bytes of each device, by use; costs the trace of a model the first time."""
        return self.needs.bytes_per_device(
            self.num_devices, self.num_model, num_lanes=self.num_lanes
        )

    @property
    def why(self) -> str:
        """The reason for the layout, in a sentence; as slow as `bytes_per_device`."""
        parts = self.needs.bytes_per_device(self.num_devices, self.num_model)
        total = sum(parts.values())
        explanation = _explain(
            self.num_devices, self.num_model, total, self.memory_bytes
        )
        return explanation + self.rejected


def _rules(num_model: int) -> str:
    return "data" if num_model == 1 else "data_model"


def _explain(
    num_devices: int, num_model: int, total: int, memory_bytes: int | None
) -> str:
    groups = num_devices // num_model
    if num_model == 1:
        layout_text = f"experts over {groups} devices, the base whole on each"
    else:
        layout_text = (
            f"the base split over {num_model} devices, experts over {groups} such"
        )
    if memory_bytes is None:
        unknown = "an unknown memory (set options.Fleet.device_memory_gib)"
        return f"{layout_text}: {show_size(total)} of {unknown}"
    return f"{layout_text}: {show_size(total)} of {show_size(memory_bytes)}"
