"""Whether a run fits on an accelerator that need not be here, and how fast it may be.

Its programs are compiled for that accelerator with their real shapes. Nothing is read
but gin files and, where there is one, the manifest of the base.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from elm_jax import errors
from elm_jax.compiling import roofline, targets, topology
from elm_jax.disk import folders
from elm_jax.model import config, cost
from elm_jax.reporting import terminal
from elm_jax.runs.compiling import advice, compiler, keeping, of_runs, result
from elm_jax.runs.evaluate import Evaluate
from elm_jax.runs.train import Train
from elm_jax.runs.training import fitting, fleet_plan

MODEL_TYPE = config.T5Config
"""What a gin file may tell of a base that is not there."""

EXIT_DOES_NOT_FIT = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of compiling one program of a run.

    Attributes:
      target: Name of the accelerator.
      kind: Of the program, as in `programs.Program`.
      batch: Lengths of inputs and targets.
      devices: How batch and parameters lie.
      remat: What a training step computes again; "" for other programs.
      memory_bytes: Of each device, as much as programs may use.
      planned: Bytes on each device by use, as the plan says; empty if it refused.
      beside: Bytes that are taken beside the program.
      compiled: What the compiler says; None if the plan refused the run.
      refusal: Why the plan refused it; "" if it did not.
      alternatives: What would fit, if this does not.
    """

    target: str
    kind: str
    batch: str = ""
    devices: str = ""
    remat: str = ""
    memory_bytes: int
    planned: dict[str, int] = dataclasses.field(default_factory=dict)
    beside: int = 0
    compiled: result.Compiled | None = None
    refusal: str = ""
    alternatives: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the program fits, by the compiler's bytes."""
        if self.compiled is None or self.compiled.memory is None:
            return False
        return self.compiled.memory.total + self.beside <= self.memory_bytes

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data."""
        return dataclasses.asdict(self) | {"fits": self.fits}


def compile_run(
    run: object,
    target_name: str,
    *,
    model: config.T5Config | None = None,
    keep_in: str = "",
) -> list[Outcome]:
    """Returns what comes of compiling each program of a run.

    Args:
      run: A training or an evaluation.
      target_name: Of the accelerator, such as `v5litepod-16` or `h100:8`.
      model: Shape of the base, if that is not there.
      keep_in: Folder that gets the programs of a training on a TPU, one for each length
        of its batches, for a run that uses it (`keeping.use`). It needs the training's
        data, whose caches are built. "" keeps none and needs none.

    Raises:
      ConfigError: The run compiles nothing, there is no such accelerator, its devices
        do not divide a batch, a compiler failed, or programs of the run on the target
        cannot be kept.
      DataError: `keep_in` cannot be written.
      MissingExtraError: Nothing here compiles for it.
    """
    if not isinstance(run, Train | Evaluate):
        raise errors.ConfigError(
            found=f"--compile_for with {type(run).__name__}",
            expected="a training or an evaluation",
            do="Leave the flag out",
        )
    target = targets.find(target_name)
    if keep_in:
        _check_can_keep(run, target)
        folders.check_writable(keeping.folder_of(keep_in))
    topology.check_installed(target)
    return [*_outcomes(run, target, model, keep_in)]


def _check_can_keep(run: Train | Evaluate, target: targets.Target) -> None:
    """Raises ConfigError if no run would find programs that are kept for a target."""
    alone = "Leave --keep_programs out; on the devices, --keep_programs=DIR alone keeps"
    alone += " what the first run compiles for all that follow"
    if target.platform == "cuda":
        raise errors.ConfigError(
            found=f"--keep_programs with --compile_for={target.name}",
            expected="a TPU: JAX looks for programs of GPUs by the CUDA that runs them,"
            " which is not known here, and a GPU's compiler tries kernels on the card",
            do=alone,
        )
    if isinstance(run, Evaluate):
        raise errors.ConfigError(
            found="--keep_programs with --compile_for of an evaluation",
            expected="a training: batches of evaluations have lengths of their own",
            do=alone,
        )
    spec = run.spec()
    open_fields = fitting.what_is_open(spec)
    if open_fields and not run.fleet.device_memory_gib:
        raise errors.ConfigError(
            found=f"--keep_programs with --compile_for and {', '.join(open_fields)}",
            expected="the same choice there, where devices may tell another memory to"
            " fit into",
            do="Set options.Fleet.device_memory_gib for both, or leave nothing open",
        )
    if spec.is_fleet and target.num_hosts > 1:
        raise errors.ConfigError(
            found=f"--keep_programs with a fleet on the {target.num_hosts} hosts of"
            f" {target.name}",
            expected="one host, or experts that all hosts train together: each host's"
            " fleet has a program for its own devices, and JAX lets only the first"
            " process keep any",
            do="Leave --keep_programs out; each host compiles its own",
        )


def _outcomes(
    run: Train | Evaluate,
    target: targets.Target,
    model: config.T5Config | None,
    keep_in: str,
) -> Iterator[Outcome]:
    of_target = {"target": target.name, "memory_bytes": target.memory_bytes}
    try:
        every = of_runs.planned(run, target, model, all_lengths=bool(keep_in))
    except fleet_plan.FleetTooLargeError as error:
        alternatives = advice.of(run, target, model, kind="fleet step")
        yield Outcome(
            kind="fleet step",
            refusal=f"{error}",
            alternatives=alternatives,
            **of_target,
        )
        return
    for planned in every:
        outcome = Outcome(
            kind=planned.program.kind,
            batch=_lengths(planned.program.batch),
            devices=f"{planned.program.devices}",
            remat=planned.program.model.remat if "step" in planned.program.kind else "",
            planned=planned.bytes_by_use,
            beside=planned.beside,
            compiled=compiler.compile_program(planned.program, target, keep_in=keep_in),
            **of_target,
        )
        if not outcome.fits:
            alternatives = advice.of(run, target, model, kind=outcome.kind)
            outcome = dataclasses.replace(outcome, alternatives=alternatives)
        yield outcome


def show(outcomes: list[Outcome]) -> int:
    """Prints what came of compiling a run, and returns the exit status to end with."""
    for outcome in outcomes:
        title = f"{outcome.kind} for {outcome.target}"
        terminal.show(
            terminal.table(title, ("", ""), _rows(outcome), show_header=False)
        )
    for outcome in outcomes:
        terminal.show_line(_last_line(outcome))
    return 0 if all(outcome.fits for outcome in outcomes) else EXIT_DOES_NOT_FIT


def _rows(outcome: Outcome) -> Iterator[tuple[str, str]]:
    if outcome.batch:
        yield "batch", outcome.batch
    if outcome.devices:
        yield "devices", outcome.devices
    if outcome.remat:
        yield "computed again", outcome.remat
    yield "memory of each for programs", _gib(outcome.memory_bytes)
    if outcome.refusal:
        yield "refused by plan", outcome.refusal
    if outcome.planned:
        yield "by plan", _parts(outcome.planned)
    compiled = outcome.compiled
    if compiled is not None and compiled.memory is not None:
        memory = compiled.memory
        own_outputs = memory.outputs - memory.aliased
        sizes = dataclasses.asdict(memory) | {"outputs": own_outputs, "aliased": 0}
        yield "by compiler", _parts(sizes)
        yield "outputs in the place of arguments", _gib(memory.aliased)
    if compiled is not None and compiled.out_of_memory:
        yield "the compiler said", compiled.out_of_memory
    if outcome.beside:
        yield "beside the program", _gib(outcome.beside)
    if compiled is not None:
        yield "time to compile", f"{compiled.lower_secs + compiled.compile_secs:.0f} s"
    if compiled is not None and compiled.saved_as:
        yield "kept as", compiled.saved_as
    if compiled is not None and compiled.work is not None:
        yield from _work_rows(compiled.work)
    for line in outcome.alternatives:
        yield "would fit", line


def _work_rows(work: roofline.Work) -> Iterator[tuple[str, str]]:
    yield "products", f"{work.flops:.3g} FLOPs on each device"
    yield "memory traffic, about", _gib(work.num_bytes)
    for collective in work.collectives:
        operation = (
            f"{collective.kind} of {collective.dtype} among {collective.group_size}"
        )
        yield (
            operation,
            f"{collective.count:,} times,"
            f" {collective.num_bytes / 2**20:,.1f} MiB in all",
        )
    least, most = 1e3 * work.least_secs, 1e3 * work.most_secs
    span = f"{least:.3g} ms" if most < 1.01 * least else f"{least:.3g} to {most:.3g} ms"
    yield "time by roofline, at least", span


def _last_line(outcome: Outcome) -> str:
    fits = "fits" if outcome.fits else "does not fit"
    plan = (
        _gib(sum(outcome.planned.values()) + outcome.beside)
        if outcome.planned
        else "refused"
    )
    compiler = "not compiled"
    if outcome.compiled is not None:
        memory = outcome.compiled.memory
        compiler = "refused" if memory is None else _gib(memory.total + outcome.beside)
    limit = _gib(outcome.memory_bytes)
    return (
        f"{outcome.kind} {fits} on {outcome.target}: {plan} by plan, {compiler} by"
        f" compiler, of {limit} per device"
    )


def _lengths(batch: cost.BatchShape) -> str:
    return f"{batch.batch_size} x {batch.inputs_length}/{batch.targets_length} tokens"


def _parts(sizes: Mapping[str, int]) -> str:
    uses = ", ".join(f"{use} {_gib(size)}" for use, size in sizes.items() if size)
    return f"{_gib(sum(sizes.values()))}: {uses}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
