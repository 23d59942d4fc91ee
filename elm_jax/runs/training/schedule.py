"""From what is asked for to what trains it: data, model and schedule put together."""

import dataclasses
from collections.abc import Callable

import jax

from elm_jax.disk import folders
from elm_jax.runs import bases, vocabularies
from elm_jax.runs.loaded import Expert
from elm_jax.runs.training import (
    batch_lengths,
    fitting,
    fleet_plan,
    machine,
    shared_model,
)
from elm_jax.runs.training.fleet import SideBySide
from elm_jax.runs.training.job import Jobs
from elm_jax.runs.training.solo import Solo
from elm_jax.runs.training.spec import TrainingSpec


def make(
    spec: TrainingSpec,
    land: Callable[[str, Expert], None],
    *,
    operative_config: str,
) -> Solo | SideBySide:
    """Returns what trains any of a training's experts, alone or side by side.

    Caches that are not there yet are built.

    Args:
      spec: The training.
      land: Takes the name of a finished expert and what it is saved as.
      operative_config: Text of the configuration, to be written down.

    Raises:
      ElmError: Data, base, vocabulary, devices and folders do not go together.
    """
    data = spec.open_data()
    if spec.base_dir is not None:
        vocabularies.warn_if_unknown(bases.read_manifest(spec.base_dir))
    layout = None
    host = machine.this_machine(spec.fleet.device_memory_gib)
    requested, (spec, why) = spec, fitting.fitted(spec, host, jax.device_count())
    # The settings that were asked for are recorded, whatever fits here; but also the
    # number of parts of a batch, which decides the values that dropout drops.
    recorded = dataclasses.replace(requested, batching=spec.batching)
    if why:
        print(f"chosen as the fastest that fits: {why}")  # noqa: T201
    if spec.is_fleet:
        layout = fleet_plan.layout_of(spec, host)
        shared = shared_model.for_fleet(spec, layout)
    else:
        shared = shared_model.on_all_devices(spec)
    for folder in (spec.experts_dir, spec.work_dir):
        folders.check_writable(folder)
    examples = batch_lengths.open_examples(spec, data)
    jobs = Jobs(
        recorded,
        shared,
        data=data,
        examples=examples,
        common_shapes=batch_lengths.find(spec, data, examples),
        operative_config=operative_config,
    )
    if layout is None:
        return Solo(spec, shared, jobs, land)
    return SideBySide(spec, shared, jobs, land, layout=layout)
