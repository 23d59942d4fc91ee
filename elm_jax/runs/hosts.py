"""How a binary joins the processes of its run, and how it leaves them."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from elm_jax import errors
from elm_jax.partitioning import processes
from elm_jax.runs.run import Run


@contextlib.contextmanager
def joined(
    run: Run,
    *,
    multiprocess: bool | None,
    coordinator_address: str,
    process_count: int,
    process_index: int,
    heartbeat_secs: int,
) -> Iterator[None]:
    """Within the context this process is one of several, if flags say so.

    Only the first of them writes to standard output. One that fails ends at once, so
    that the others, which would wait for it, fail too: JAX ends them as soon as they
    miss its heartbeat. One that a signal stops ends when all have saved, or, if they
    work apart, as `work_sharing.train_share` says.

    Args:
      run: What all of them do.
      multiprocess: Passed on to `processes.start`, which explains this and the others.
      coordinator_address: Address of process 0.
      process_count: Number of processes.
      process_index: Number of this process, from 0.
      heartbeat_secs: Silence after which a process counts as dead.

    Raises:
      ConfigError: The flags do not fit together, the others cannot be reached, the
        run is not one for several processes, or a device's memory ran out.
    """
    processes.start(
        multiprocess=multiprocess,
        coordinator_address=coordinator_address,
        process_count=process_count,
        process_index=process_index,
        heartbeat_secs=heartbeat_secs,
    )
    if jax.distributed.is_initialized():
        run.choose_devices()
    if not processes.are_several():
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise errors.ConfigError(_explain_memory(error)) from error
        return
    try:
        if not run.can_share_work:
            raise errors.ConfigError(
                found=f"{jax.process_count()} processes for {type(run).__name__}",
                expected="a run that several processes do together: a training or"
                " an evaluation",
                do="Start this one once, without --multiprocess",
            )
        with contextlib.ExitStack() as quiet:
            if not processes.is_main():
                null = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
                quiet.enter_context(contextlib.redirect_stdout(null))
            yield
            processes.barrier("end of the run")
    except SystemExit as stop:
        _leave(stop.code)
    except (errors.ElmError, jax.errors.JaxRuntimeError) as error:
        _leave(_describe(error))
    except BaseException:  # noqa: BLE001 - a fault of ours, or Ctrl-C twice
        _leave(traceback.format_exc())


def _describe(error: Exception) -> str:
    """Returns what to print: JAX says of a dead process that a connection closed."""
    process_name = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, errors.ElmError):
        notes = getattr(error, "__notes__", ())
        return "\n".join(
            (f"{type(error).__name__} in {process_name}", str(error), *notes)
        )
    if _is_out_of_memory(error):
        return f"ConfigError in {process_name}\n{_explain_memory(error)}"
    return "TrainingError\n" + errors.explain(
        found=f"{process_name} stopped: {f'{error}'.partition(chr(10))[0]:.300}",
        expected="all processes to be alive and to do the same",
        do="Look at what the others printed last. The same command on every host goes"
        " on from the last saved state",
    )


def _is_out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in f"{error}"


def _explain_memory(error: Exception) -> str:
    return errors.explain(
        found=f"a device's memory ran out: {f'{error}'.partition(chr(10))[0]:.300}",
        expected="memory for parameters, optimiser and activations; --dry_run tells",
        do="Take a smaller BATCH_SIZE, config.Execution.remat = 'layer', fewer"
        " options.Fleet.lanes, or more devices (num_fsdp, num_model). The same command"
        " goes on from the last saved state",
    )


def _leave(code: object) -> None:
    """Ends the process now: a polite end waits for processes that wait for this one."""
    status = code if isinstance(code, int) else int(code is not None)
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
