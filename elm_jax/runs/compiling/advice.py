"""What would fit where a run does not: tried by plan first, then compiled."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from elm_jax import errors
from elm_jax.compiling import targets
from elm_jax.model import config
from elm_jax.runs.compiling import compiler, of_runs
from elm_jax.runs.evaluate import Evaluate
from elm_jax.runs.train import Train

_MOST_COMPILED = 2  # each takes a minute or two


class _Change(NamedTuple):
    how: str
    run: Train | Evaluate
    target: targets.Target


def of(
    run: Train | Evaluate,
    target: targets.Target,
    shape: config.T5Config | None,
    *,
    kind: str,
) -> tuple[str, ...]:
    """Returns changes by which a run would fit, each in a line.

    Of each sort of change, the least one that fits by plan; the first few are compiled.

    Args:
      run: The run that does not fit.
      target: The devices that it does not fit on.
      shape: Of the base, if that is not there.
      kind: Of the program that does not fit.
    """
    lines: list[str] = []
    for changes in (
        _remats(run, target, shape),
        _parts(run, target),
        _batches(run, target),
        _lanes(run, target),
        _rules(run, target),
        _slices(run, target),
    ):
        line = _first_that_fits(
            changes, shape, kind, may_compile=len(lines) < _MOST_COMPILED
        )
        if line:
            lines.append(line)
    return tuple(lines)


def _first_that_fits(
    changes: Iterator[_Change],
    shape: config.T5Config | None,
    kind: str,
    *,
    may_compile: bool,
) -> str:
    for change in changes:
        try:
            planned = of_runs.planned(change.run, change.target, shape)
        except errors.ConfigError:
            continue  # the devices do not divide it, or it does not fit by plan
        plan = next((p for p in planned if p.program.kind == kind), planned[0])
        total = sum(plan.bytes_by_use.values()) + plan.beside
        limit = change.target.memory_bytes
        if total > limit:
            continue
        text = f"{change.how}: {total / 2**30:.2f} GiB by plan"
        if not may_compile:
            return text
        try:
            compiled = compiler.compile_program(plan.program, change.target)
        except errors.ConfigError:
            continue  # a change that cannot be compiled is no advice
        if compiled.memory is None or compiled.memory.total + plan.beside > limit:
            continue
        return f"{text}, {(compiled.memory.total + plan.beside) / 2**30:.2f} compiled"
    return ""


def _remats(
    run: Train | Evaluate, target: targets.Target, shape: config.T5Config | None
) -> Iterator[_Change]:
    if not isinstance(run, Train):
        return
    remat_now = run.execution.remat
    if not remat_now:
        spec = run.spec()
        base = spec.model or of_runs.base_shape(
            run.path(run.initial_checkpoint_path), shape
        )
        remat_now = base.remat
    if remat_now == config.FIT:
        return
    for remat in config.REMATS[config.REMATS.index(remat_now) + 1 :]:
        execution = dataclasses.replace(run.execution, remat=remat)
        changed = dataclasses.replace(run, execution=execution)
        yield _Change(f"Execution.remat = {remat!r}", changed, target)


def _parts(run: Train | Evaluate, target: targets.Target) -> Iterator[_Change]:
    if not isinstance(run, Train) or not run.batching.num_parts:
        return
    for count in range(run.batching.num_parts + 1, run.batch_size + 1):
        if run.batch_size % count == 0:
            batching = dataclasses.replace(run.batching, num_parts=count)
            changed = dataclasses.replace(run, batching=batching)
            yield _Change(f"Batching.num_parts = {count}", changed, target)


def _batches(run: Train | Evaluate, target: targets.Target) -> Iterator[_Change]:
    size = run.batch_size // 2
    while size:
        changed = dataclasses.replace(run, batch_size=size)
        yield _Change(f"a batch_size of {size}", changed, target)
        size //= 2


def _lanes(run: Train | Evaluate, target: targets.Target) -> Iterator[_Change]:
    if not isinstance(run, Train) or not run.spec().is_fleet:
        return
    lanes = (run.fleet.lanes or 8) // 2
    while lanes:
        fleet = dataclasses.replace(run.fleet, lanes=lanes)
        yield _Change(
            f"Fleet.lanes = {lanes}", dataclasses.replace(run, fleet=fleet), target
        )
        lanes //= 2


def _rules(run: Train | Evaluate, target: targets.Target) -> Iterator[_Change]:
    is_fleet = isinstance(run, Train) and run.spec().is_fleet
    if target.num_devices == 1 or is_fleet or run.placement.axis_rules != "data":
        return
    place = dataclasses.replace(run.placement, axis_rules="fsdp", num_fsdp=-1)
    changed = dataclasses.replace(run, placement=place)
    yield _Change("Placement.axis_rules = 'fsdp' and num_fsdp = -1", changed, target)


def _slices(run: Train | Evaluate, target: targets.Target) -> Iterator[_Change]:
    for larger in targets.larger(target):
        yield _Change(f"{larger.name}", run, larger)
