import logging
import pathlib
import subprocess
import sys

import pytest

from elm_jax.checkpoints import orbax_logs

# Many arrays: Orbax logs for each thread and each task that fails. The program ends
# within the disk that is full, as a user's does.
FULL = """
import pathlib, sys
import jax.numpy as jnp
import numpy as np
from elm_jax import errors
from elm_jax.checkpoints import experts, train_state
from tests.checkpoints import sample

folder = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(0)
state = {f"k{i}": jnp.asarray(rng.normal(size=(64, 64))) for i in range(20)}
store = train_state.TrainStateStore(folder / "states")
store.save(1, state)
store.wait()
with sample.full_disk(3000):
    for step in (2, 3):
        try:
            store.save(step, state)
            store.wait()
        except errors.CheckpointError as error:
            print(str(error).splitlines()[0])
    try:
        experts.save_expert(folder / "x", state, sample.make_manifest())
    except errors.CheckpointError as error:
        print(str(error).splitlines()[0])
"""


@pytest.mark.slow
def test_a_full_disk_is_told_in_one_line_and_nothing_else(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        check=True,
        text=True,
        timeout=300,
    )
    states = f"Found: {tmp_path}/states cannot be written: File too large."
    expert = f"Found: {tmp_path}/x cannot be written: File too large."
    assert done.stdout.splitlines() == [states, states, expert]
    assert done.stderr == ""


def test_what_others_log_is_still_seen(caplog):
    orbax_logs.silence()
    logging.getLogger("absl").error("of a user's module")
    logging.getLogger("asyncio").error("of a user's task")
    assert [record.getMessage() for record in caplog.records] == [
        "of a user's module",
        "of a user's task",
    ]
