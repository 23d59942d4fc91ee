"""Which experts this process trains now: other runs and processes share the list."""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

from elm_jax import errors
from elm_jax.library import lock
from elm_jax.partitioning import messages, processes
from elm_jax.runs import shards
from elm_jax.runs.training.landing import Failures, Landing
from elm_jax.runs.training.spec import TrainingSpec
from elm_jax.training import agreement, signals

TrainAll = Callable[[Sequence[str]], Failures]
"""Trains experts that nobody else is at; returns those that failed."""

_POLL_SECS = 0.5
_LEAVING_SECS = 1.0  # for a process to print why it ends
_shares = itertools.count()


def train_unfinished(
    spec: TrainingSpec,
    landing: Landing,
    *,
    names: Sequence[str],
    todo: Sequence[str],
    train_all: TrainAll | None,
) -> Failures:
    """Trains experts until all are there, by this run or another; returns failures.

    Args:
      spec: The training.
      landing: Where its finished experts go.
      names: Of its experts; those that are finished are listed and published.
      todo: Those that were not finished, the same in all processes that work together.
      train_all: Trains some of them; None if there is nothing to do.
    """
    landing.list_and_publish(names)  # what a killed run has left
    failures: Failures = {}
    of_others = set(todo)
    while todo and train_all is not None:
        with _hold_unheld(spec, todo) as held:
            own_names = processes.agree(landing.unfinished(held))
            failures |= train_all(own_names)
            of_others -= {*own_names}
        todo = processes.agree(landing.unfinished(todo))
        todo = [name for name in todo if name not in failures]
    failures |= _compare(landing, sorted(of_others))
    # What a run beside this one has left is listed and published here, too.
    return failures | landing.finish([n for n in names if n not in failures])


def _compare(landing: Landing, names: Sequence[str]) -> Failures:
    """Returns errors of experts that another run trained meanwhile with other settings.

    They are compared like experts that were finished when this run began.
    """
    try:
        landing.check_unchanged(names)
        landing.check_rows(names)
    except errors.CheckpointError as error:
        same_failures: Failures = dict.fromkeys(
            names, errors.CheckpointError(f"the same as {names[0]}")
        )
        return same_failures | {names[0]: error}
    return {}


def train_share(
    spec: TrainingSpec,
    landing: Landing,
    *,
    names: Sequence[str],
    todo: Sequence[str],
    train_all: TrainAll | None,
) -> Failures:
    """Trains this process's share of the experts apart; returns failures of all.

    Process i of n gets every n-th name, whatever is finished already. Nobody waits for
    the others before the end, where all meet, however long the slowest takes. Until
    then one that dies takes the others along by heartbeat (`processes.start`): started
    again, all go on from their own last states, also in another number of processes.

    SIGTERM or SIGINT to one process stops all: it tells the others and saves its
    states; they hear of it after a step and save theirs; each exits with the status of
    the signal as soon as it has saved. Process 0, whose end would break off the others,
    waits `stop_grace_secs` at most for them.

    Args:
      spec: The training.
      landing: Where its finished experts go.
      names: Experts of all joined processes, the same in each.
      todo: Those of them that were not finished, the same in each.
      train_all: Trains some of them, on local devices; None if there is nothing to do.

    Raises:
      SystemExit: A signal came to one of the processes.
    """
    topic = f"failures of share {next(_shares)}"
    grace_secs = spec.saving.stop_grace_secs
    share = shards.Shard(jax.process_index(), jax.process_count()).choose(names)
    todo_here = [name for name in share if name in todo]
    with processes.apart():
        try:
            failures = train_unfinished(
                spec, landing, names=share, todo=todo_here, train_all=train_all
            )
            texts = _wait_for_all(topic, failures)
        except SystemExit as stop:
            agreement.pass_on(signals.number_of(stop.code))
            _leave_last(topic, most_secs=grace_secs)
            raise
        if texts:
            _leave_last(topic, most_secs=grace_secs)
    return {n: errors.TrainingError(text) for n, text in texts.items()} | failures


def _wait_for_all(
    topic: str, failures: Mapping[str, errors.ElmError]
) -> dict[str, str]:
    """Returns what failed in all processes, when all are through with their shares.

    Raises:
      SystemExit: One was stopped.
    """
    texts = {name: f"{error}" for name, error in failures.items()}
    messages.tell(topic, json.dumps(texts))
    reports, is_first = messages.read_all(topic), True
    while len(reports) < jax.process_count():
        _exit_if_stopped()
        if is_first:
            text = "this share is finished; waiting for the other processes"
            print(text, file=sys.stderr, flush=True)  # noqa: T201
        is_first = False
        time.sleep(_POLL_SECS)
        reports = messages.read_all(topic)
    _exit_if_stopped()
    return {
        name: text
        for report in reports.values()
        for name, text in json.loads(report).items()
    }


def _exit_if_stopped() -> None:
    number = agreement.passed_on()
    if number:
        raise SystemExit(signals.exit_status(number))


def _leave_last(topic: str, *, most_secs: float) -> None:
    """Lets process 0 wait until the others are about to end: they would end with it."""
    topic = f"leaving after {topic}"
    messages.tell(topic, "")
    if jax.process_index() > 0:
        return
    until = time.monotonic() + most_secs
    while (
        len(messages.read_all(topic)) < jax.process_count() and time.monotonic() < until
    ):
        time.sleep(_POLL_SECS)
    time.sleep(_LEAVING_SECS)


@contextlib.contextmanager
def _hold_unheld(spec: TrainingSpec, names: Sequence[str]) -> Iterator[list[str]]:
    """Holds what no other run trains; the first process does so for all."""
    with contextlib.ExitStack() as stack:
        held: list[str] = []
        if processes.is_main():
            folders = {spec.experts[name].work_dir: name for name in names}
            held = stack.enter_context(lock.hold_free(folders))
        yield processes.agree(held)


def raise_failures(failures: Mapping[str, errors.ElmError], total: int) -> None:
    """Raises TrainingError that names all experts that failed, if any, with reasons.

    Args:
      failures: Reasons by expert.
      total: How many experts were to be trained; of one alone its own error is raised.
    """
    if len(failures) == 1 == total:
        raise next(iter(failures.values()))
    if failures:
        reasons = "\n".join(f"  {n}: {error}" for n, error in failures.items())
        raise errors.TrainingError(
            found=f"{len(failures)} of {total} experts failed; the others are"
            f" finished\n{reasons}",
            expected="every expert to finish",
            do="Change what each message says, then give the command again: it"
            " trains only what is not finished",
        )
