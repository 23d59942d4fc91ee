"""Where the parameters and the work of a run lie: the same part for every run."""

import dataclasses

from elm_jax import fields
from elm_jax.partitioning import rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """How a run lays parameters and batches over the devices.

    Attributes:
      axis_rules: Name of the table that places parameters on the mesh.
      num_fsdp: Devices that split the batch and keep a part of each parameter, under
        `fsdp` and `fsdp_model`; -1 for all that `num_model` leaves.
      num_model: Devices that share the parameters and the work on them, under
        `data_model` and `fsdp_model`. Devices that are left split the batch.
    """

    axis_rules: str = "data"
    num_fsdp: fields.CountOrAll = 1
    num_model: fields.Count = 1

    def __post_init__(self) -> None:
        """Raises ConfigError if no rule splits what the devices would share."""
        fields.check(self)
        rules.axis_table(self.axis_rules)
        rules.check_axes(
            self.axis_rules, num_fsdp=self.num_fsdp, num_model=self.num_model
        )


MOVED = {name: f"placement.{name}" for name in ("axis_rules", "num_fsdp", "num_model")}
"""Fields that runs had themselves up to release 0.3, and where they are now."""
