"""A whole small training as a program, for tests that kill it.

Usage: python -m tests.training.killed_run FOLDER. Prints `saving N` when a save begins,
`saved N` once it is known to be on disk, and at the end the bits of the final state.
"""

import hashlib
import pathlib
import sys

import jax
import numpy as np

from elm_jax.checkpoints import train_state
from elm_jax.training import hooks, loop, signals, writers
from tests.training import toy

NUM_STEPS, SAVE_STEPS = 36, 3


class TalkingStore(train_state.TrainStateStore):
    def save(self, step, state):
        super().save(step, state)  # waits for the save before
        print(f"saving {step}", flush=True)
        self._under_way = step

    def wait(self):
        super().wait()
        if step := getattr(self, "_under_way", None):
            print(f"saved {step}", flush=True)
            self._under_way = None


def main(folder):
    store = TalkingStore(folder / "states", config={"seed": toy.SEED})
    state, frozen, step_fn = toy.start(num_steps=NUM_STEPS)
    state = store.restore(state) or state
    start_step = int(state.step)
    path = folder / "metrics.jsonl"
    report = hooks.ReportMetrics(
        [writers.JsonLinesWriter(path, start_step=start_step)], num_steps=NUM_STEPS
    )
    with signals.StopRequest() as stop:
        state = loop.train(
            state,
            frozen,
            step_fn=step_fn,
            batches=toy.batches(start_step),
            num_steps=NUM_STEPS,
            hooks=[
                loop.Every(1, report),
                loop.Every(SAVE_STEPS, hooks.save_states(store)),
            ],
            should_stop=stop,
            last_checkpoint=store.latest_step,
        )
    store.close()
    stop.exit_if_requested()
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    print(f"done {int(state.step)} {digest.hexdigest()}", flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
