"""Joined processes that each save and load arrays of their own."""

import subprocess
import sys

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts, train_state
from tests.checkpoints import sample
from tests.partitioning import addresses

pytestmark = pytest.mark.slow

PROGRAM = """
import pathlib, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
jax.config.update("jax_num_cpu_devices", 2)
from elm_jax.checkpoints import experts, train_state
from elm_jax.partitioning import processes
from tests.checkpoints import sample
rank, folder = int(sys.argv[1]), pathlib.Path(sys.argv[3])
processes.start(
    coordinator_address=sys.argv[2], process_count=2, process_index=rank
)
mesh = Mesh(np.array(jax.local_devices()), ("data",))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
state = {
    "params": jax.device_put(np.arange(4, dtype=np.float32) + rank, split),
    "step": jax.device_put(np.int32(7 + rank), whole),
}
with processes.apart():
    for step in range(1 + rank):  # in no step with each other
        store = train_state.TrainStateStore(folder / f"state {rank}")
        store.save(step, state)
        store.close()
    store = train_state.TrainStateStore(folder / f"state {rank}")
    found = store.restore(jax.tree.map(jax.numpy.zeros_like, state))
    store.close()
    assert found["params"].sharding == split
    same = jax.tree.map(np.array_equal, jax.device_get(found), jax.device_get(state))
    print("same" if all(jax.tree.leaves(same)) else found)
    facts = sample.make_manifest(name=f"{rank}")
    params = jax.tree.map(lambda leaf: leaf + rank, sample.make_expert())
    experts.save_expert(folder / f"expert {rank}", params, facts)
processes.barrier("end")
"""


def test_what_each_of_two_processes_saves_is_whole_and_its_own(tmp_path):
    address = addresses.free_address()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, f"{rank}", address, f"{tmp_path}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, run in enumerate(runs):
        assert "same" in run.communicate(timeout=120)[0].splitlines()
        params, facts = experts.load_expert(tmp_path / f"expert {rank}")
        assert facts.name == f"{rank}"
        for name, leaf in trees.flatten(sample.make_expert()).items():
            np.testing.assert_array_equal(trees.flatten(params)[name], leaf + rank)
        # By a process that has not joined any.
        store = train_state.TrainStateStore(tmp_path / f"state {rank}")
        empty = {"params": np.zeros(4, np.float32), "step": np.zeros((), np.int32)}
        state = store.restore(empty)
        store.close()
        assert state["step"] == 7 + rank
        np.testing.assert_array_equal(state["params"], np.arange(4) + np.float32(rank))
