"""The train loop of a fleet: it fills slots, picks whose step is next, nothing else.

Each expert draws the batches it would draw alone. A step is for experts whose next
batches have one shape; the shape for which most experts wait is taken, so that those
with a rare one gather, until one has waited for many steps. Metrics are read, and
batches made and placed, while the devices are busy with the step before; states are
written by another thread.
"""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from elm_jax import errors
from elm_jax.training import finite, programs
from elm_jax.training.fleet import Fleet
from elm_jax.training.state import TrainState
from elm_jax.training.tally import Tally
from elm_jax.types import Batch, Params, ScheduledHook

_MOST_STEPS_WAITED = 32  # of the fleet, before an expert's shape is taken first
_STEPS_AHEAD = 1  # Steps given to the devices whose metrics are not read yet.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """An expert that is about to train, or to go on.

    Attributes:
      state: Where it starts.
      batch_fn: Gives the batch of the step that follows n finished ones.
      num_steps: Steps at which it is complete.
      report: Gets the metrics summed since the last report; its state is None.
      save: Gets the state, and what was summed for the next report, in another
        thread.
      finish: Gets the state after the last step, in another thread.
      sums: Of the steps since the last report of a training that goes on.
      last_good: Names the newest saved state of at most so many steps, for messages.
      close: Called when the expert leaves its slot, for whatever reason.
    """

    state: TrainState
    batch_fn: Callable[[int], Batch]
    num_steps: int
    report: ScheduledHook
    save: ScheduledHook
    finish: Callable[[TrainState], None]
    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    last_good: finite.LastGood = finite.nothing_saved
    close: Callable[[], None] = lambda: None


Queue = Iterator[tuple[str, Callable[[], Member]]]
"""Names of experts in their order, and what readies each when its turn comes."""


def train_fleet(
    fleet: Fleet,
    frozen: Params,
    queue: Queue,
    *,
    should_stop: Callable[[], bool] = lambda: False,
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
      queue: What to train.
      should_stop: Asked after every step of the fleet, and after every expert that
        is readied; once True, always True, and nothing begins any more.
      after_step: Called with the number of the fleet's steps up to now.
      slow_secs: Where compiling may take longer, or more work is unsaved, all states
        are saved before it: no signal is answered meanwhile.

    Raises:
      ElmError: A state could not be saved.
    """
    with futures.ThreadPoolExecutor(max_workers=1) as saver:
        crew = _Crew(fleet, queue, saver, programs.Programs(slow_secs=slow_secs))
        try:
            while crew.fill_slots(should_stop) and not should_stop():
                if crew.must_save_before_step():
                    crew.read_metrics(steps_left=0)
                    crew.save_all()
                    if not crew.running:
                        continue
                crew.step(frozen)
                after_step(crew.num_steps)
                crew.read_metrics(steps_left=_STEPS_AHEAD if crew.running else 0)
            crew.read_metrics(steps_left=0)
            crew.save_all()
        finally:
            try:
                crew.wait_for_saves()
            finally:
                crew.close()
    return crew.failures


class _Runner:
    """An expert in a slot."""

    def __init__(self, name: str, member: Member) -> None:
        self.name, self.member = name, member
        self.step = self.start_step = int(jax.device_get(member.state.step))
        self.saved_step = self.step
        self.has_failed = False
        self.last_turn = 0  # the fleet's step at which it came, or went on
        self.saving: futures.Future[None] | None = None
        self.tally = Tally(expert=name, last_good=self._last_good, sums=member.sums)
        self.batch: Batch = {}

    @property
    def is_complete(self) -> bool:
        """Whether its last step is on its way."""
        return self.step >= self.member.num_steps

    def draw_batch(self) -> None:
        """Makes the next batch; its shape decides when the step may be."""
        self.batch = {} if self.is_complete else self.member.batch_fn(self.step)
        self.shape = programs.shape_of(self.batch)

    def wait_for_save(self) -> None:
        """Waits until its newest state is on disk, or is known not to be."""
        if self.saving is not None:
            futures.wait([self.saving])

    def check(self, step: int, state: TrainState) -> None:
        """Raises TrainingError if a state of its own is not finite."""
        finite.check_state(
            state, step=step, expert=self.name, last_good=self._last_good
        )

    def _last_good(self, most: int) -> str:
        self.wait_for_save()
        return self.member.last_good(most)


class _Taken(NamedTuple):
    """A step of one expert, given to the devices: its lane, the state if it is due."""

    runner: _Runner
    step: int
    lane: int
    state: TrainState | None


class _Crew:
    """Who is in which slot, and what is still to be read or saved."""

    def __init__(
        self,
        fleet: Fleet,
        queue: Queue,
        saver: futures.ThreadPoolExecutor,
        known: programs.Programs,
    ) -> None:
        self._fleet, self._queue, self._saver = fleet, queue, saver
        self._programs = known
        self.num_steps = 0
        self.running: dict[int, _Runner] = {}
        self.failures: dict[str, errors.ElmError] = {}
        self._pending: collections.deque[tuple[Any, list[_Taken]]]
        self._pending = collections.deque()
        self._saves: list[futures.Future[None]] = []

    def fill_slots(self, should_stop: Callable[[], bool]) -> bool:
        """Puts experts of the queue into free slots; returns whether any trains."""
        while len(self.running) < self._fleet.num_slots and not should_stop():
            name, begin = next(self._queue, ("", None))
            if begin is None:
                break
            try:
                self._begin(name, begin())
            except errors.ElmError as error:
                self.failures[name] = error
        return bool(self.running)

    def _begin(self, name: str, member: Member) -> None:
        runner = _Runner(name, member)
        try:
            runner.draw_batch()
        except BaseException:
            member.close()
            raise
        if runner.is_complete:
            self._finish(runner, member.state)
            return
        slot, runner.last_turn = self._choose_slot(), self.num_steps
        self._fleet.put(slot, member.state)
        # The state lives in the slot from now on, and only there.
        runner.member = dataclasses.replace(member, state=None)
        self.running[slot] = runner

    def must_save_before_step(self) -> bool:
        """Returns whether the next step has to compile, so that much could be lost."""
        first = next(iter(self._choose_runners().values()))
        return self._programs.must_save_before(first.batch)

    def step(self, frozen: Params) -> None:
        """Gives the devices a step of the experts whose turn it is."""
        chosen = self._choose_runners()
        batches = {slot: runner.batch for slot, runner in chosen.items()}
        with self._programs.running(next(iter(batches.values()))):
            metrics, lanes = self._fleet.step(frozen, batches)
        self.num_steps += 1
        taken = []
        for slot, runner in chosen.items():
            runner.step += 1
            runner.last_turn = self.num_steps
            is_due = runner.member.save.is_due(runner.step)
            kept = self._fleet.get(slot) if is_due or runner.is_complete else None
            taken.append(_Taken(runner, runner.step, lanes[slot], kept))
            if runner.is_complete:
                del self.running[slot]
        self._pending.append((metrics, taken))
        self._draw_batches(chosen.values())

    def _draw_batches(self, runners: Iterable[_Runner]) -> None:
        """Makes the next batches while the devices are busy, or counts the time."""
        begun = time.monotonic()
        for runner in runners:
            try:
                runner.draw_batch()
            except errors.ElmError as error:
                self._remove(runner, error)
        if self._fleet.is_idle:
            self._fleet.waited_secs += time.monotonic() - begun

    def read_metrics(self, *, steps_left: int) -> None:
        """Waits for all steps but the newest, and does what is due after them."""
        while len(self._pending) > steps_left:
            metrics, taken = self._pending.popleft()
            host = {n: np.asarray(v) for n, v in jax.device_get(metrics).items()}
            for each in taken:
                if not each.runner.has_failed:
                    self._note(each, {n: float(v[each.lane]) for n, v in host.items()})
        self._raise_failed_saves()

    def save_all(self) -> None:
        """Saves every expert that is in a slot, where it is."""
        for slot, runner in list(self.running.items()):
            if runner.step > runner.saved_step:
                state = self._fleet.get(slot)
                try:
                    runner.check(runner.step, state)
                except errors.TrainingError as error:
                    self._remove(runner, error)
                    continue
                self._save(runner, runner.step, state)

    def wait_for_saves(self) -> None:
        """Waits until all states are on disk, and raises what went wrong."""
        futures.wait(self._saves)
        self._raise_failed_saves()

    def close(self) -> None:
        """Closes what the experts in slots have open."""
        with contextlib.ExitStack() as closing:
            for runner in self.running.values():
                closing.callback(runner.member.close)

    def _choose_slot(self) -> int:
        """Returns a free slot on the device with the fewest experts."""
        count = collections.Counter(map(self._fleet.device_of, self.running))
        free = set(range(self._fleet.num_slots)) - self.running.keys()
        return min(free, key=lambda s: (count[self._fleet.device_of(s)], s))

    def _choose_runners(self) -> dict[int, _Runner]:
        """Returns the experts of the next step: most devices busy, then most lanes.

        Unless one has waited for too long: then those who can go with it.
        """
        longest = min(self.running.values(), key=lambda runner: runner.last_turn)
        is_too_long = self.num_steps - longest.last_turn >= _MOST_STEPS_WAITED
        waiting: dict[Any, dict[int, list[int]]] = {}

        def order(item: tuple[int, _Runner]) -> tuple[bool, int, int]:
            slot, runner = item
            return not (is_too_long and runner is longest), runner.step, slot

        for slot, runner in sorted(self.running.items(), key=order):
            devices = waiting.setdefault(runner.shape, {})
            own = devices.setdefault(self._fleet.device_of(slot), [])
            if len(own) < self._fleet.lanes_per_device:
                own.append(slot)
        best = max(waiting.values(), key=lambda d: (len(d), sum(map(len, d.values()))))
        if is_too_long:
            best = waiting[longest.shape]
        return {slot: self.running[slot] for own in best.values() for slot in own}

    def _note(self, taken: _Taken, metrics: Mapping[str, float]) -> None:
        runner, step, _, state = taken
        is_last = step == runner.member.num_steps
        try:
            runner.tally.add(step, metrics)
            report = runner.member.report
            if report.is_due(step) or is_last:
                report.hook(step, None, runner.tally.take())
            if state is not None:
                runner.check(step, state)
        except errors.ElmError as error:
            self._remove(runner, error)
            return
        if is_last and state is not None:
            self._finish(runner, state)
        elif state is not None:
            self._save(runner, step, state)

    def _remove(self, runner: _Runner, error: errors.ElmError) -> None:
        runner.has_failed = True
        self.failures[runner.name] = error
        self.running = {s: r for s, r in self.running.items() if r is not runner}
        runner.wait_for_save()
        with contextlib.suppress(errors.ElmError):  # the first error says more
            runner.member.close()

    def _save(self, runner: _Runner, step: int, state: TrainState) -> None:
        runner.saved_step = step
        hook = runner.member.save.hook
        runner.saving = self._saver.submit(hook, step, state, runner.tally.sums)
        self._saves.append(runner.saving)

    def _finish(self, runner: _Runner, state: TrainState) -> None:
        def finish() -> None:
            try:
                runner.member.close()
                runner.member.finish(state)
            except errors.ElmError as error:
                self.failures[runner.name] = error

        self._saves.append(self._saver.submit(finish))

    def _raise_failed_saves(self) -> None:
        waiting = []
        for save in self._saves:
            if save.done():
                save.result()
            else:
                waiting.append(save)
        self._saves = waiting
