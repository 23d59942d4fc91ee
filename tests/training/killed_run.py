"""A whole small training as a program, for tests that kill it.

Prints `saving N` when a save begins, `saved N` once it is known to be on disk, and at
the end the bits of the final state.
"""

import hashlib
import time

import jax
import numpy as np

from elm_jax.checkpoints import train_state
from elm_jax.training import hooks, loop, signals, writers
from tests.training import toy

NUM_STEPS, SAVE_STEPS, LOG_STEPS, GRACE_SECS = 36, 3, 4, 2.0


class TalkingStore(train_state.TrainStateStore):
    def save(self, step, state, sums):
        super().save(step, state, sums)  # waits for the save before
        print(f"saving {step}", flush=True)
        self._under_way = step

    def wait(self):
        super().wait()
        if step := getattr(self, "_under_way", None):
            print(f"saved {step}", flush=True)
            self._under_way = None


def stuck(step_fn, at):
    """Returns the step function, with slow steps and one without end."""
    spin = jax.jit(lambda x: jax.lax.while_loop(lambda x: x > 0, lambda x: x + 1.0, x))

    def call(state, frozen, batch):
        step = int(state.step)
        time.sleep(GRACE_SECS * 0.6)
        if step == at:
            print(f"stuck after {step}", flush=True)
            spin(1.0).block_until_ready()
        return step_fn(state, frozen, batch)

    return call


def main(folder, stuck_at=None):
    """Trains in a folder.

    Args:
      folder: Made if it is not there.
      stuck_at: If not None, steps are slow for a signal's time of grace, and the step
        that follows so many never ends.
    """
    store = TalkingStore(folder / "states", config={"seed": toy.SEED})
    state, frozen, step_fn = toy.start(num_steps=NUM_STEPS)
    state = store.restore(state) or state
    start_step = int(state.step)
    path = folder / "metrics.jsonl"
    report = hooks.ReportMetrics(
        [writers.JsonLinesWriter(path, start_step=start_step)], num_steps=NUM_STEPS
    )
    if stuck_at is not None:
        step_fn = stuck(step_fn, stuck_at)
    with signals.StopRequest(grace_secs=GRACE_SECS) as stop:
        saving = hooks.SaveSchedule(
            SAVE_STEPS,
            stop.waiting_for(hooks.save_states(store)),
            slow_secs=GRACE_SECS / 2,
        )
        state = loop.train(
            state,
            frozen,
            step_fn=step_fn,
            batches=toy.batches(start_step),
            num_steps=NUM_STEPS,
            report=loop.Every(LOG_STEPS, report),
            sums=store.read_sums() or {},
            hooks=[saving],
            after_step=saving.note_step,
            should_stop=stop.is_requested,
            answer_stop=stop.note_answered,
            last_good=store.name_last_good,
        )
        store.close()
    stop.exit_if_requested()
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    print(f"done {int(state.step)} {digest.hexdigest()}", flush=True)
