"""The train loop of a fleet: it fills slots, picks whose step is next, nothing else.

Each expert draws the batches it would draw alone. A step is for experts whose next
batches have one shape; the shape for which most experts wait is taken, so that those
with a rare one gather, until one has waited for many steps. Metrics are read, and
batches made and placed, while the devices are busy with the step before; states are
written by another thread.
"""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from elm_jax import errors
from elm_jax.training import programs
from elm_jax.training.fleet import Slots
from elm_jax.training.job import Job
from elm_jax.training.state import TrainState
from elm_jax.types import Params

_MOST_STEPS_WAITED = 32  # of the fleet, before an expert's shape is taken first
_STEPS_AHEAD = 1  # Steps given to the devices whose metrics are not read yet.


Queue = Iterator[tuple[str, Callable[[], Job]]]
"""Names of experts in their order, and what begins each when its turn comes."""

Finish = Callable[[Job, TrainState], None]
"""Takes an expert and its last state; called in another thread."""


def train_fleet(
    fleet: Slots,
    frozen: Params,
    queue: Queue,
    *,
    finish: Finish,
    listen: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
    answer_stop: Callable[[], None] = lambda: None,
    after_step: Callable[[int], None] = lambda num_steps: None,
    slow_secs: float = math.inf,
) -> dict[str, errors.ElmError]:
    """Trains all experts of a queue; returns those that failed, with the reason.

    An expert whose metrics or state are not finite, that cannot begin, draw a batch,
    report or finish, leaves; the others go on as if it had never been there. When asked
    to stop, all experts in slots are saved where they are.

    Args:
      fleet: With any states, of experts that are through.
      frozen: The part of the model that does not train, on the fleet's devices.
      queue: What to train; states are saved in another thread.
      finish: What becomes of experts that are complete.
      listen: Called before each time that `should_stop` is asked, to learn what other
        processes tell: before a step that compiles as late as can be.
      should_stop: Asked after every step of the fleet, and after every expert that
        begins; once True, always True, and no further one begins.
      answer_stop: Called after this True, before states are saved.
      after_step: Called with the number of the fleet's steps up to now.
      slow_secs: Where compiling may take longer, or more work is unsaved, all states
        are saved before it: no signal is answered meanwhile.

    Raises:
      ElmError: A state could not be saved.
    """
    with futures.ThreadPoolExecutor(max_workers=1) as saver:
        compiled = programs.Programs(slow_secs=slow_secs)
        jobs = _RunningJobs(fleet, queue, finish, saver=saver, compiled=compiled)
        try:
            while jobs.fill_slots(listen, should_stop):
                if jobs.must_save_before_step():
                    jobs.read_metrics(steps_left=0)
                    jobs.save_all()
                    compiled.note_saved()
                    if not jobs.running:
                        continue
                jobs.step(frozen)
                after_step(jobs.num_steps)
                jobs.read_metrics(steps_left=_STEPS_AHEAD if jobs.running else 0)
            if should_stop():
                answer_stop()
            jobs.read_metrics(steps_left=0)
            jobs.save_all()
        finally:
            try:
                jobs.wait_for_saves()
            finally:
                jobs.close()
    return jobs.failures


class _PendingStep(NamedTuple):
    """A step of one expert that the devices have, and its state if it is due."""

    job: Job
    step: int
    lane: int
    state: TrainState | None


class _RunningJobs:
    """Who is in which slot, and what is still to be read or saved."""

    def __init__(
        self,
        fleet: Slots,
        queue: Queue,
        finish: Finish,
        *,
        saver: futures.ThreadPoolExecutor,
        compiled: programs.Programs,
    ) -> None:
        self._fleet, self._queue, self._saver = fleet, queue, saver
        self._finish_fn, self._programs = finish, compiled
        self.num_steps = 0
        self.running: dict[int, Job] = {}
        self.failures: dict[str, errors.ElmError] = {}
        self._pending: collections.deque[tuple[Any, list[_PendingStep]]]
        self._pending = collections.deque()
        self._saves: list[futures.Future[None]] = []

    def fill_slots(
        self, listen: Callable[[], None], should_stop: Callable[[], bool]
    ) -> bool:
        """Puts experts of the queue into free slots; returns whether to take a step."""
        listen()
        while len(self.running) < self._fleet.num_slots and not should_stop():
            name, begin = next(self._queue, ("", None))
            if begin is None:
                break
            try:
                self._begin(begin())
            except errors.ElmError as error:
                self.failures[name] = error
            listen()
        return bool(self.running) and not should_stop()

    def _begin(self, job: Job) -> None:
        assert job.state is not None
        try:
            job.draw_batch()
        except BaseException:
            job.close()
            raise
        if job.is_complete:
            self._finish(job, job.state)
            return
        slot, job.last_turn = self._choose_slot(), self.num_steps
        self._fleet.put(slot, job.state)
        job.state = None  # it lives in the slot from now on, and only there
        self.running[slot] = job

    def must_save_before_step(self) -> bool:
        """Returns whether the next step has to compile, so that much could be lost."""
        first_job = next(iter(self._choose_jobs().values()))
        return self._programs.must_save_before(first_job.batch)

    def step(self, frozen: Params) -> None:
        """Gives the devices a step of the experts whose turn it is."""
        chosen = self._choose_jobs()
        batches = {slot: job.batch for slot, job in chosen.items()}
        with self._programs.running(next(iter(batches.values()))):
            metrics, lanes = self._fleet.step(frozen, batches)
        self.num_steps += 1
        steps = []
        for slot, job in chosen.items():
            job.step += 1
            job.last_turn = self.num_steps
            job.after_step(job.step)
            is_due = job.save.is_due(job.step)
            state = self._fleet.get(slot) if is_due or job.is_complete else None
            steps.append(_PendingStep(job, job.step, lanes[slot], state))
            if job.is_complete:
                del self.running[slot]
        self._pending.append((metrics, steps))
        self._draw_batches(chosen.values())

    def _draw_batches(self, jobs: Iterable[Job]) -> None:
        """Makes the next batches while the devices are busy, or counts the time."""
        begun = time.monotonic()
        for job in jobs:
            try:
                job.draw_batch()
            except errors.ElmError as error:
                self._remove(job, error)
        if self._fleet.is_idle:
            self._fleet.waited_secs += time.monotonic() - begun

    def read_metrics(self, *, steps_left: int) -> None:
        """Waits for all steps but the newest, and does what is due after them."""
        while len(self._pending) > steps_left:
            metrics, steps = self._pending.popleft()
            host = {n: np.asarray(v) for n, v in jax.device_get(metrics).items()}
            for step in steps:
                if not step.job.has_failed:
                    self._note(step, {n: float(v[step.lane]) for n, v in host.items()})
        self._raise_failed_saves()

    def save_all(self) -> None:
        """Saves every expert that is in a slot, where it is."""
        for slot, job in list(self.running.items()):
            if job.step > job.saved_step:
                state = self._fleet.get(slot)
                try:
                    job.check(job.step, state)
                except errors.TrainingError as error:
                    self._remove(job, error)
                    continue
                self._save(job, job.step, state)

    def wait_for_saves(self) -> None:
        """Waits until all states are on disk, and raises what went wrong."""
        futures.wait(self._saves)
        self._raise_failed_saves()

    def close(self) -> None:
        """Closes what the experts in slots have open."""
        with contextlib.ExitStack() as closing:
            for job in self.running.values():
                closing.callback(job.close)

    def _choose_slot(self) -> int:
        """Returns a free slot on the device with the fewest experts."""
        count = collections.Counter(map(self._fleet.device_of, self.running))
        free = set(range(self._fleet.num_slots)) - self.running.keys()
        return min(free, key=lambda s: (count[self._fleet.device_of(s)], s))

    def _choose_jobs(self) -> dict[int, Job]:
        """Returns the experts of the next step: most devices busy, then most lanes.

        Unless one has waited for too long: then those who can go with it.
        """
        longest = min(self.running.values(), key=lambda job: job.last_turn)
        is_too_long = self.num_steps - longest.last_turn >= _MOST_STEPS_WAITED
        waiting: dict[Any, dict[int, list[int]]] = {}

        def order(item: tuple[int, Job]) -> tuple[bool, int, int]:
            slot, job = item
            return not (is_too_long and job is longest), job.step, slot

        for slot, job in sorted(self.running.items(), key=order):
            devices = waiting.setdefault(job.shape, {})
            slots = devices.setdefault(self._fleet.device_of(slot), [])
            if len(slots) < self._fleet.lanes_per_device:
                slots.append(slot)
        best = max(waiting.values(), key=lambda d: (len(d), sum(map(len, d.values()))))
        if is_too_long:
            best = waiting[longest.shape]
        return {slot: self.running[slot] for slots in best.values() for slot in slots}

    def _note(self, pending_step: _PendingStep, metrics: Mapping[str, float]) -> None:
        job, step, _, state = pending_step
        is_last = step == job.num_steps
        try:
            job.tally.add(step, metrics)
            if job.report.is_due(step) or is_last:
                job.report.hook(step, None, job.tally.take())
            if state is not None:
                job.check(step, state)
        except errors.ElmError as error:
            self._remove(job, error)
            return
        if is_last and state is not None:
            self._finish(job, state)
        elif state is not None:
            self._save(job, step, state)

    def _remove(self, job: Job, error: errors.ElmError) -> None:
        job.has_failed = True
        self.failures[job.name] = error
        self.running = {s: r for s, r in self.running.items() if r is not job}
        job.wait_for_save()
        with contextlib.suppress(errors.ElmError):  # the first error says more
            job.close()

    def _save(self, job: Job, step: int, state: TrainState) -> None:
        job.saved_step = step
        hook = job.save.hook
        job.saving = self._saver.submit(hook, step, state, job.tally.sums)
        self._saves.append(job.saving)

    def _finish(self, job: Job, state: TrainState) -> None:
        def finish() -> None:
            try:
                job.close()
                self._finish_fn(job, state)
            except errors.ElmError as error:
                self.failures[job.name] = error

        self._saves.append(self._saver.submit(finish))

    def _raise_failed_saves(self) -> None:
        waiting = []
        for save in self._saves:
            if save.done():
                save.result()
            else:
                waiting.append(save)
        self._saves = waiting
