"""What the experts of one training share: the model, its base on devices, a loss."""

import functools

import jax
import optax

from elm_jax import trees
from elm_jax.model import int8_kernels, loss, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.peft import expert_parts
from elm_jax.runs import placing
from elm_jax.runs.loaded import Base
from elm_jax.runs.training.fleet_layout import Layout
from elm_jax.runs.training.spec import TrainingSpec
from elm_jax.training import fleet, state
from elm_jax.types import Params


class SharedModel:
    """A model and its base on a mesh of devices.

    Args:
      spec: The training.
      model: The network that trains.
      mesh: The mesh of devices.
      axis_rules: Name of the table that places parameters on the mesh.

    Attributes:
      mesh: The mesh of devices.
      base: On disk, see `Base.open`; None for a model from scratch.
      tx: The optimiser; its rates are those of the run until a state has others.
      loss_fn: Loss of all parameters on a batch.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        *,
        model: t5.T5,
        mesh: jax.sharding.Mesh,
        axis_rules: str,
    ) -> None:
        self._trainable_pattern, self._model = spec.trainable_pattern, model
        self._axis_rules, self.mesh = axis_rules, mesh
        self.base: Base | None = None
        if spec.base_dir is not None:
            self.base = Base.open(spec.base_dir)
            int8_kernels.check_installed(self.base.config.base_dtype)
        self.tx: optax.GradientTransformation = spec.optimizer.make(spec.train_steps)
        self.loss_fn = loss.make_loss_fn(model)

    @functools.cached_property
    def frozen(self) -> Params:
        """The parameters that no expert trains, on the devices."""
        if self.base is None:
            return {}
        _, frozen = trees.split(self.base.params, self._trainable_pattern)
        shape = self._model.config
        return placing.frozen(frozen, shape, self.mesh, self._axis_rules)

    def initial_state(self, random_seed: int) -> state.TrainState:
        """Returns the state before the first step of an expert.

        Args:
          random_seed: The expert's own.
        """
        trained, _ = expert_parts.split(
            t5.param_shapes(self._model), self._trainable_pattern
        )
        places = trees.flatten(meshes.shardings(trained, self.mesh, self._axis_rules))
        of_base = {} if self.base is None else trees.flatten(self.base.params)
        start = {n: of_base[n] for n in places if n in of_base}
        new = {n: place for n, place in places.items() if n not in of_base}
        params = trees.join(
            t5.init_params(
                self._model, seed=random_seed, shardings=trees.unflatten(new)
            ),
            placing.trained(trees.unflatten(start), self.mesh, self._axis_rules),
        )
        return state.init_state(params, self.tx, seed=random_seed, keeps_params=False)


def on_all_devices(spec: TrainingSpec) -> SharedModel:
    """Returns the model on the devices of all processes, which split its batches.

    Raises:
      ConfigError: They do not divide a batch.
      CheckpointError: The base cannot be read.
    """
    mesh = meshes.make_mesh(
        num_fsdp=spec.placement.num_fsdp, num_model=spec.placement.num_model
    )
    parts = spec.batching.num_parts
    meshes.check_batch_size(spec.batch_size, mesh, num_parts=parts)
    model = spec.build_model().clone(split_rows=meshes.SplitRows(mesh))
    rules = spec.placement.axis_rules
    return SharedModel(spec, model=model, mesh=mesh, axis_rules=rules)


def for_fleet(spec: TrainingSpec, layout: Layout) -> SharedModel:
    """Returns the model on the devices of this process, laid out for a fleet.

    Raises:
      CheckpointError: The base cannot be read.
    """
    mesh = fleet.make_mesh(num_model=layout.num_model)
    model, rules = spec.build_model(), layout.axis_rules
    return SharedModel(spec, model=model, mesh=mesh, axis_rules=rules)
