"""One program on many hosts: how its processes join, agree and wait for each other."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from elm_jax import errors

PORT = 8476
HEARTBEAT_SECS = 100
"""Time after which a process that is silent counts as dead."""

_LONGEST_WAIT_SECS = 7 * 24 * 3600

# Each barrier needs a new name; all processes reach barriers in the same order.
_barriers = itertools.count()

_works_apart = threading.Event()

_LOOKED_FOR = (
    "SLURM (SLURM_PROCID and others, set by srun), Kubernetes indexed jobs"
    " (JOB_COMPLETION_INDEX), JAX's own JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and"
    " JAX_PROCESS_ID, and TPU or Open MPI as JAX finds them"
)


@dataclasses.dataclass(frozen=True)
class Membership:
    """The facts that a process needs to join the others.

    Attributes:
      coordinator_address: `host:port` of process 0; "" if unknown.
      process_count: How many processes there are; 0 if unknown.
      process_index: Which one this is, from 0; -1 if unknown.
      local_device_ids: The GPUs of this process, where several share a host.
    """

    coordinator_address: str = ""
    process_count: int = 0
    process_index: int = -1
    local_device_ids: tuple[int, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all values are known and fit together."""
        has_port = re.fullmatch(r".+:\d+", self.coordinator_address) is not None
        return has_port and 0 <= self.process_index < self.process_count


def start(
    *,
    multiprocess: bool | None = None,
    coordinator_address: str = "",
    process_count: int = 0,
    process_index: int = -1,
    heartbeat_secs: int = HEARTBEAT_SECS,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Joins this process to the others, before any device is touched.

    Does nothing for one process alone, which needs no coordinator.

    Args:
      multiprocess: Whether there are others; None to conclude it from the rest.
      coordinator_address: `host:port` of process 0, the same in every process.
        Values that are not given are taken from the environment.
      process_count: How many processes there are.
      process_index: Which one this is, from 0.
      heartbeat_secs: Silence after which a process counts as dead, and all others
        end with an error.
      environ: Environment variables.

    Raises:
      ConfigError: Values contradict each other or are missing, or SLURM started
        several processes without a request to join them.
    """
    of_flags = Membership(coordinator_address, process_count, process_index)
    if multiprocess is False or of_flags == Membership(process_count=1):
        return
    if multiprocess is None and of_flags == Membership():
        _check_alone(environ)
        return
    membership = complete(of_flags, environ)
    if not membership.is_whole and (of_flags != Membership() or membership != of_flags):
        raise _incomplete(membership)
    with _explained(membership):
        if membership.is_whole:
            jax.distributed.initialize(
                coordinator_address=membership.coordinator_address,
                num_processes=membership.process_count,
                process_id=membership.process_index,
                local_device_ids=membership.local_device_ids,
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=heartbeat_secs,
            )
        else:  # a TPU, or another environment that JAX knows
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_secs)


def complete(
    of_flags: Membership,
    environ: Mapping[str, str],
    full_host_name: Callable[[], str] = socket.getfqdn,
) -> Membership:
    """Returns a membership with missing values taken from the environment.

    Args:
      of_flags: The membership that flags give; its values win.
      environ: Environment variables.
      full_host_name: Returns this host's name with its domain; Kubernetes puts the
        pods of a job with a `subdomain` into one.

    Raises:
      ConfigError: A variable is no number.
    """
    detected = _of_jax(environ)
    if "TPU_WORKER_HOSTNAMES" not in environ:  # TPUs have an environment of their own
        if "SLURM_PROCID" in environ:
            detected = _fill(detected, _of_slurm(environ))
        elif "JOB_COMPLETION_INDEX" in environ:
            detected = _fill(detected, _of_kubernetes(environ, full_host_name))
    return _fill(of_flags, detected)


def _fill(preferred: Membership, fallback: Membership) -> Membership:
    """Returns the first membership; where it lacks a value, with the second's."""
    empty = Membership()
    missing = {
        field.name: getattr(fallback, field.name)
        for field in dataclasses.fields(Membership)
        if getattr(preferred, field.name) == getattr(empty, field.name)
    }
    return dataclasses.replace(preferred, **missing)


def _of_jax(environ: Mapping[str, str]) -> Membership:
    return Membership(
        environ.get("JAX_COORDINATOR_ADDRESS", ""),
        _number(environ, "JAX_NUM_PROCESSES", 0),
        _number(environ, "JAX_PROCESS_ID", -1),
    )


def _of_slurm(environ: Mapping[str, str]) -> Membership:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    # A port for each job, so that two jobs on a node do not collide.
    port = 61440 + _number(environ, "SLURM_JOB_ID", 0) % 4096
    count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else ""
    count = count or "SLURM_NTASKS"
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
    local = None
    # With --gpus-per-task SLURM itself shows each process its own.
    if not re.fullmatch(r"1(\(x\d+\))?", per_node) and (
        "SLURM_GPUS_PER_TASK" not in environ
    ):
        local = (_number(environ, "SLURM_LOCALID", 0),)
    return Membership(
        f"{first_node(nodes)}:{port}" if nodes else "",
        _number(environ, count, 0),
        _number(environ, "SLURM_PROCID", -1),
        local,
    )


def first_node(nodes: str) -> str:
    """Returns the first host of a list as SLURM writes them.

    >>> [first_node(text) for text in ("n[007-009,12],m1", "gpu-1,gpu-2", "a")]
    ['n007', 'gpu-1', 'a']
    """
    match = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""


def _of_kubernetes(
    environ: Mapping[str, str], full_host_name: Callable[[], str]
) -> Membership:
    index = _number(environ, "JOB_COMPLETION_INDEX", -1)
    host, _, domain = full_host_name().partition(".")
    address = ""
    # Pods of an indexed job are called <job>-<index>, and find each other by name
    # below a subdomain only.
    if domain and host.endswith(f"-{index}"):
        job = host.removesuffix(f"-{index}")
        address = f"{job}-0.{domain}:{PORT}"
    return Membership(address, 0, index)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise errors.ConfigError(
            found=f"environment variable {name} = {text!r}",
            expected="a whole number",
            do="Correct or unset it, or give --coordinator_address,"
            " --process_count and --process_index",
        )
    return int(text)


def _check_alone(environ: Mapping[str, str]) -> None:
    """Raises ConfigError if SLURM started this command several times at once."""
    number = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if number > 1:
        raise errors.ConfigError(
            found=f"{number} processes of one SLURM step that would all do the"
            " same, each by itself",
            expected="one process, or processes that were told to join",
            do="Add --multiprocess to train one model on all of them, or"
            " --nomultiprocess if each is to work alone",
        )


def _incomplete(membership: Membership) -> errors.ConfigError:
    values = {
        f"--{field.name}": getattr(membership, field.name)
        for field in dataclasses.fields(Membership)
        if field.name != "local_device_ids"
    }
    return errors.ConfigError(
        found=", ".join(f"{flag} = {value!r}" for flag, value in values.items())
        + ", from flags and environment",
        expected="the host:port of process 0, the number of processes, and an"
        " index below it",
        do="Give these flags to every process (a Kubernetes indexed job knows its"
        " index, and the address if it has a subdomain; --process_count is its"
        f" number of completions). Looked at: {_LOOKED_FOR}",
    )


@contextlib.contextmanager
def _explained(membership: Membership) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        address = membership.coordinator_address or "no address"
        raise errors.ConfigError(
            found=f"process {membership.process_index} of {membership.process_count}"
            f" could not join at {address}: {f'{error}'.partition(chr(10))[0]}",
            expected="a coordinator that all processes reach, and every process"
            " started",
            do="Check address, port and firewall, and that all processes run;"
            f" or that one of these is there: {_LOOKED_FOR}",
        ) from error


def are_several() -> bool:
    """Returns whether this process has joined others and works together with them."""
    return _are_joined() and not _works_apart.is_set()


def are_apart() -> bool:
    """Returns whether this process has joined others, but works alone now."""
    return _are_joined() and _works_apart.is_set()


def count() -> int:
    """Returns how many processes have joined, this one among them: 1 if none has."""
    return jax.process_count() if _are_joined() else 1


def _are_joined() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """A context in which this process works alone, as if it had joined no others.

    This holds for all its threads: `is_main` is true, and nothing waits for the other
    processes. It must compute on `jax.local_devices()` only, and write only files of
    its own. Meanwhile processes can use `messages`.
    """
    _works_apart.set()
    try:
        yield
    finally:
        _works_apart.clear()


def is_main() -> bool:
    """Returns whether this process is the one that writes shared files."""
    return not are_several() or jax.process_index() == 0


def agree(value: Any) -> Any:
    """Returns process 0's value in every process; call it in all of them.

    Args:
      value: JSON data, such as what this process sees on disk; others may see it later.
    """
    if not are_several():
        return value
    barrier("before agreeing")
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    sent = content if is_main() else np.zeros(size, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(sent).tobytes())


def check_same(text: str, *, name: str) -> None:
    """Raises ConfigError unless all processes have the same text.

    Args:
      text: Such as a configuration.
      name: Of the text, for the message.
    """
    if not are_several():
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.int32)
    digests = exchange(digest.tolist())
    differing = [n for n, row in enumerate(digests) if (row != digests[0]).any()]
    if differing:
        raise errors.ConfigError(
            found=f"another {name} in processes {differing} than in process 0",
            expected="one command on every host, with the same files",
            do="Give every process the same flags, gin files, data and versions",
        )


def exchange(numbers: Sequence[int]) -> np.ndarray:
    """Returns every process's numbers, int [processes, numbers]; call it in all."""
    row = np.asarray(numbers, np.int32)
    if not are_several():
        return row[None]
    barrier("before exchanging")
    return np.asarray(multihost_utils.process_allgather(row))


def barrier(name: str) -> None:
    """Waits until every process has reached this call, however long that takes.

    This is not a computation on devices, because those fail after 30 seconds on a CPU
    if a process is late. Heartbeats find out whether a process has died.
    """
    if are_several():
        everyone = set(range(jax.process_count()))
        wait = multihost.get_barrier_sync_fn(processes=everyone)
        wait(key=f"{name} {next(_barriers)}", timeout_ms=_LONGEST_WAIT_SECS * 1000)


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """A context in which process 0 works first, and the others after it.

    For files that are built once and read by all, such as a token cache: the others
    find them complete. On hosts that share no disk each builds its own.
    """
    if not is_main():
        barrier(name)
    yield
    if is_main():
        barrier(name)


def gather(tree: Any) -> Any:
    """Returns arrays whole on every host, as numpy; call it in all processes."""
    if not are_several():
        return jax.device_get(tree)

    def whole(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)
