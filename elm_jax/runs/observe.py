"""elm_library: observes experts on their own rows, and trains the gates of routers."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from elm_jax import float32_sums, paths, trees
from elm_jax.checkpoints import manifest
from elm_jax.model import config, loss, precision, t5
from elm_jax.peft import adapters, mixture
from elm_jax.routing import token_routers
from elm_jax.runs import (
    bases,
    expert_checks,
    library,
    loaded,
    observed_rows,
    routing_cost,
    routing_records,
    task_data,
    vocabularies,
)
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan
from elm_jax.training import optimizers
from elm_jax.types import PAD_ID, Batch, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observe(library.LibraryRun):
    """Records what token routers need to know of each expert of a library.

    Of every adapter, on examples that its expert was trained on: mean and standard
    deviation of its effect's norm, the mean of what it reads, and a gate, trained with
    base and expert frozen. An expert whose record is there is left out.

    Attributes:
      data: Vocabulary, lengths and folders of the experts' training tasks.
      initial_checkpoint_path: Folder of the base.
      settings: Which rows, and how gates are trained.
      records_dir: Where the records go; "" for the library's folder `routing`.
    """

    data: task_data.TaskData
    initial_checkpoint_path: paths.Path
    settings: routing_records.Settings = routing_records.Settings()
    records_dir: paths.OptionalPath = ""

    def plan(self) -> Plan:
        """Returns how many experts would be observed; reads manifests.

        Raises:
          ElmError: As `run` before it reads parameters.
        """
        folders = self._check()
        missing = self._missing(folders)
        steps = -(-self.settings.num_examples // self.settings.batch_size)
        return {
            "library": self.path(self.library_dir),
            "experts": len(folders),
            "observed already": len(folders) - len(missing),
            "steps per expert": f"{steps} forward, {self.settings.gate_steps} of gates",
            "cost, about": self._cost(missing),
            "files": self._records_dir,
        }

    def _cost(self, missing: list[pathlib.Path]) -> str:
        if not missing:
            return "nothing"
        info = manifest.read_manifest(missing[0])
        spec, features = bases.adapter_spec(info), self.data.opened(self.place).features
        assert spec is not None  # noqa: S101 - `_check` has looked
        return routing_cost.observing(
            bases.model_config(info),
            mixture.Mixture(of=spec, num_experts=1, router=token_routers.Gates()),
            self.settings,
            num_experts=len(missing),
            inputs_length=features.inputs_length,
            targets_length=features.targets_length,
        )

    def run(self) -> None:
        """Observes the experts that have no record yet.

        Raises:
          CheckpointError: An expert is missing, damaged, or does not fit the base.
          ConfigError: An expert has no adapters.
          FingerprintError: An expert is of another base or vocabulary.
        """
        missing = self._missing(self._check())
        if not missing:
            print("finished already")  # noqa: T201
            return
        base = loaded.Base.load(self.path(self.initial_checkpoint_path))
        data = self.data.opened(self.place)
        progress = Progress("observe", total=len(missing), unit="experts")
        for done, folder in enumerate(missing, 1):
            expert = loaded.Expert.load(folder)
            arrays = _observe(
                _programs(base.config, expert.adapter, self.settings),
                mixture.stack([trees.as_float32(expert.params)]),
                observed_rows.Rows(data, expert.manifest, self.settings),
                base,
            )
            routing_records.write(
                self._records_dir,
                expert.manifest,
                self.settings,
                arrays,
                self._rows_of(expert.manifest, data),
            )
            progress(done)

    @property
    def _records_dir(self) -> pathlib.Path:
        if self.records_dir:
            return self.path(self.records_dir)
        return self.path(self.library_dir) / routing_records.FOLDER

    def _check(self) -> list[pathlib.Path]:
        """Returns the folders of the library's experts, which fit base and data."""
        listed = self.open_catalogue()
        listed.check()
        folders = [listed.expert_dir(name) for name in listed.experts()]
        base = bases.read_manifest(self.path(self.initial_checkpoint_path))
        vocabulary = self.data.opened(self.place).vocabulary
        vocabularies.check(base, vocabulary)
        for folder in folders:
            info = manifest.read_manifest(folder)
            bases.check_fits(info, base)
            expert_checks.check_same_function(info, base)
            vocabularies.check(info, vocabulary)
            expert_checks.check_has_adapters(info)
        return folders

    def _missing(self, folders: list[pathlib.Path]) -> list[pathlib.Path]:
        infos = {folder: manifest.read_manifest(folder) for folder in folders}
        records_dir, data = self._records_dir, self.data.opened(self.place)
        return [
            folder
            for folder, info in infos.items()
            if not routing_records.check_rows(
                records_dir, info, self.settings, self._rows_of(info, data)
            )
        ]

    def _rows_of(
        self, info: manifest.Manifest, data: task_data.OpenedData
    ) -> dict[str, Any]:
        """Returns what tells an expert's rows, as far as their tokens are cached."""
        split = self.settings.split
        tasks = {task: data.fingerprint_if_cached(task, split) for task in info.tasks}
        rows: dict[str, Any] = {"lengths": dataclasses.asdict(data.features)}
        return rows | ({"tasks": tasks} if all(tasks.values()) else {})


class _Programs:
    """The compiled programs for experts of one shape and one kind of adapters."""

    def __init__(
        self,
        shape: config.T5Config,
        adapter: adapters.AdapterSpec | None,
        settings: routing_records.Settings,
    ) -> None:
        self.model = _model_with(shape, adapter, token_routers.Fixed(), settings.reads)
        gated = _model_with(shape, adapter, token_routers.OpenGate(), settings.reads)
        self.gate_shapes = trees.split(t5.param_shapes(gated), "_adapter/router/")[0]
        rate, self.num_steps = settings.gate_learning_rate, settings.gate_steps
        # The paper's warm-up and decay; its experts' gates are not clipped.
        warmup = round(settings.gate_steps / 10)
        self.optimizer = optimizers.AdamW(
            learning_rate=rate, warmup_steps=warmup, clip_norm=None
        ).make(max(1, settings.gate_steps))
        loss_fn = loss.make_loss_fn(gated)

        def update(gates: Params, state: Any, frozen: Params, batch: Batch) -> Any:
            def loss_of(of_gates: Params) -> Any:
                return loss_fn(trees.join(frozen, of_gates), batch, None)[0]

            grads = jax.grad(loss_of)(gates)
            changes, state = self.optimizer.update(grads, state, gates)
            return optax.apply_updates(gates, changes), state

        self.update = jax.jit(update)
        self.sums = jax.jit(_make_sums(self.model))


_programs = functools.lru_cache(maxsize=8)(_Programs)  # several runs compile once


def _model_with(
    shape: config.T5Config,
    adapter: adapters.AdapterSpec | None,
    router: mixture.Router,
    reads: mixture.Reads,
) -> t5.T5:
    assert adapter is not None  # noqa: S101 - `check_has_adapters` has looked
    spec = mixture.Mixture(of=adapter, num_experts=1, router=router, reads=reads)
    return bases.build_model(shape, spec)


def _observe(
    programs: _Programs, expert: Params, rows: observed_rows.Rows, base: loaded.Base
) -> routing_records.Arrays:
    """Returns statistics and gates of one expert, in a mixture of that expert alone."""
    whole = trees.replace(base.params, expert)
    frozen = precision.in_compute_dtype(base.config, whole)
    totals: Any = None
    for batch in rows.once():
        sums = programs.sums(frozen, batch)
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    arrays = {
        place: _statistics(place_sums)
        for place, place_sums in jax.device_get(totals).items()
    }
    if not programs.num_steps:
        return arrays
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), programs.gate_shapes)
    gates, state = zeros, programs.optimizer.init(zeros)
    for step in range(programs.num_steps):
        gates, state = programs.update(gates, state, frozen, rows.of_step(step))
    for name, gate in trees.flatten(jax.device_get(gates)).items():
        place = name.removesuffix(f"/{mixture.ROUTER}/gate")
        arrays[place]["gate"] = _without_experts(gate)
    return arrays


def _make_sums(model: t5.T5) -> Callable[[Params, Batch], dict[str, Any]]:
    """Returns what sums up readings and norms over the real tokens of a batch."""

    def sums(params: Params, batch: Batch) -> dict[str, Any]:
        _, variables = model.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            mutable=[mixture.OBSERVED],
        )
        return {
            place: _sum_up(place, values, batch)
            for place, values in mixture.observed(variables).items()
        }

    return sums


def _sum_up(place: str, values: Params, batch: Batch) -> dict[str, Any]:
    tokens = "encoder_input_tokens" if mixture.reads_inputs(place) else ""
    real = batch[tokens or "decoder_target_tokens"] != PAD_ID
    # [layers, B, T, ...]; the decoder's rows may lie side by side, one for each input.
    read = values["read"].astype(jnp.float32)
    weight = jnp.broadcast_to(real.reshape(read.shape[1:3])[None], read.shape[:3])
    weight = weight.astype(jnp.float32)
    norms = values["norms"][..., 0]
    return {
        "count": weight.sum(axis=(1, 2)),
        "norm": (weight * norms).sum(axis=(1, 2)),
        "norm_square": (weight * jnp.square(norms)).sum(axis=(1, 2)),
        "read": float32_sums.einsum("lbt,lbtd->ld", weight, read),
    }


def _statistics(sums: Params) -> dict[str, np.ndarray]:
    """Returns means and standard deviations [layers] and mean readings [layers, D]."""
    count = np.asarray(sums["count"], np.float64)
    mean = sums["norm"] / count
    variance = np.maximum(sums["norm_square"] / count - mean**2, 0)
    return {
        "norm_mean": mean.astype(np.float32),
        "norm_std": np.sqrt(variance).astype(np.float32),
        "read_mean": (sums["read"] / count[:, None]).astype(np.float32),
    }


def _without_experts(gate: np.ndarray) -> np.ndarray:
    """Returns [layers, D] of [layers, 1, D]."""
    return np.asarray(gate[:, 0], np.float32)
