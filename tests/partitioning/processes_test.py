"""Several processes as one program."""

import socket
import subprocess
import sys

import pytest

from elm_jax import errors
from elm_jax.partitioning import processes

PROGRAM = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from elm_jax.partitioning import mesh, processes
rank = int(sys.argv[1])
processes.start(coordinator_address=sys.argv[2], num_processes=2, process_id=rank)
devices = mesh.make_mesh()
rows = np.full((4, 1), rank + 1, np.int32)
batch = mesh.shard_batch({"rows": rows}, devices)
print(batch["rows"].shape[0], int(jax.jit(lambda b: b["rows"].sum())(batch)))
"""


def test_one_process_needs_no_coordinator():
    processes.start()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_processes": 2},
        {"process_id": 1},
        {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(arguments):
    with pytest.raises(errors.ConfigError, match="process_id"):
        processes.start(**arguments)


def test_two_processes_share_one_batch():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), address],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [text.splitlines()[-1] for text in outputs] == ["8 12", "8 12"]
