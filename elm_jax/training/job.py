"""One expert in training, alone or beside others: the same type for both."""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent import futures

import jax

from elm_jax.training import finite, programs
from elm_jax.training.state import TrainState
from elm_jax.training.tally import Tally
from elm_jax.types import Batch, ScheduledHook


def _note_nothing(step: int) -> None:
    pass


@dataclasses.dataclass(kw_only=True, eq=False)
class Job:
    """What an expert is trained on, where it stands, and what is due after its steps.

    Attributes:
      name: Of the expert.
      state: Where it starts; None once a fleet's slot has it.
      batch_fn: Gives the batch of the step that follows n finished ones.
      num_steps: Steps at which it is complete.
      report: Gets the metrics summed since the last report, and a state or None.
      save: Gets the state, and what was summed for the next report.
      after_step: Called with the number of each step, before `save` is asked.
      sums: Of the steps since the last report of a training that goes on.
      last_good: Names the newest saved state of at most so many steps, for messages.
      close: Closes what is open for it; called once, however it ends.
      start_step: Step of `state`.
      step: Steps given to the devices so far.
      saved_step: Of its newest saved state.
      tally: Metrics since the last report.
      batch: Of its next step; {} after the last.
      has_failed: Whether it has left because of an error.
      last_turn: The fleet's step at which it came, or was part of one.
      saving: The newest save that was asked for, which another thread does.
    """

    name: str
    state: TrainState | None
    batch_fn: Callable[[int], Batch]
    num_steps: int
    report: ScheduledHook
    save: ScheduledHook
    after_step: Callable[[int], None] = _note_nothing
    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    last_good: finite.LastGood = finite.nothing_saved
    close: Callable[[], None] = lambda: None
    start_step: int = dataclasses.field(init=False)
    step: int = dataclasses.field(init=False)
    saved_step: int = dataclasses.field(init=False)
    tally: Tally = dataclasses.field(init=False)
    batch: Batch = dataclasses.field(init=False, default_factory=dict)
    has_failed: bool = dataclasses.field(init=False, default=False)
    last_turn: int = dataclasses.field(init=False, default=0)
    saving: "futures.Future[None] | None" = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        """Begins at the step of the state."""
        assert self.state is not None
        self.start_step = int(jax.device_get(self.state.step))
        self.step = self.saved_step = self.start_step
        self.tally = Tally(
            expert=self.name, last_good=self.name_last_good, sums=self.sums
        )

    @property
    def is_complete(self) -> bool:
        """Whether its last step is on its way."""
        return self.step >= self.num_steps

    @property
    def shape(self) -> programs.Shape:
        """The shape of its next batch, which decides the program of the step."""
        return programs.shape_of(self.batch)

    def draw_batch(self) -> None:
        """Makes the batch of the next step, if there is one."""
        self.batch = {} if self.is_complete else self.batch_fn(self.step)

    def wait_for_save(self) -> None:
        """Waits until its newest state is on disk, or is known not to be."""
        if self.saving is not None:
            futures.wait([self.saving])

    def check(self, step: int, state: TrainState) -> None:
        """Raises TrainingError if the state after a step is not finite."""
        finite.check_state(
            state, step=step, expert=self.name, last_good=self.name_last_good
        )

    def name_last_good(self, most: int) -> str:
        """Returns the name of the newest saved state of at most so many steps."""
        self.wait_for_save()
        return self.last_good(most)
