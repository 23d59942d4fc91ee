"""Where the parameters and the work of a run lie: the same part for every run."""

import dataclasses

import jax
from jax.sharding import AbstractMesh

from elm_jax import fields
from elm_jax.model import config
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """How a run lays parameters and batches over the devices.

    Attributes:
      axis_rules: Name of the table that places parameters on the mesh; "fit", for a
        training, is `data` or `fsdp`, whichever is faster of what fits; then `num_fsdp`
        is that of `fsdp`, 1 for all devices.
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
        table = "fsdp" if self.axis_rules == config.FIT else self.axis_rules
        rules.axis_table(table)
        rules.check_axes(table, num_fsdp=self.num_fsdp, num_model=self.num_model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """How a batch and a model are laid over devices, which need not be here.

    Attributes:
      num_data: Shares of a batch among devices with the same parameters.
      num_fsdp: Shares of a batch and of the parameters.
      num_model: Shares of a parameter.
      axis_rules: Name of the table that tells which parameters are shared.
    """

    num_data: int
    num_fsdp: int = 1
    num_model: int
    axis_rules: str

    @property
    def count(self) -> int:
        """How many devices."""
        return self.num_data * self.num_fsdp * self.num_model

    def __str__(self) -> str:
        sizes = f"{self.num_data} (data) x {self.num_fsdp} (fsdp) x"
        return f"{sizes} {self.num_model} (model) by rules {self.axis_rules!r}"

    @property
    def mesh(self) -> AbstractMesh:
        """The devices as a mesh, which needs no hardware."""
        return AbstractMesh((self.num_data, self.num_fsdp, self.num_model), meshes.AXES)


def choose_devices(place: Placement, num_devices: int = 0) -> Devices:
    """Returns how a run is placed on devices, or on one model's if there are too few.

    Args:
      place: As the run says.
      num_devices: How many there are; 0 for those of all processes.

    Raises:
      ConfigError: They are not divided by what is asked, or rules are still to be
        chosen, which only trainings do.
    """
    rules.axis_table(place.axis_rules)
    count = num_devices or jax.device_count()
    shape = meshes.mesh_shape(count, -1, place.num_fsdp, place.num_model)
    sizes = dict(zip(("num_data", "num_fsdp", "num_model"), shape, strict=True))
    return Devices(**sizes, axis_rules=place.axis_rules)


MOVED = {name: f"placement.{name}" for name in ("axis_rules", "num_fsdp", "num_model")}
"""Fields that runs had themselves before release 0.2, and where they are now."""
