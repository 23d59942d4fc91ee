"""Several processes as one program."""

import subprocess
import sys

import pytest

from elm_jax import errors
from elm_jax.partitioning import processes
from tests.partitioning import addresses

PROGRAM = """
import sys, time

def say(*words):  # on a line of its own among those that libraries print
    print("\\nSAID", *words, flush=True)

import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from elm_jax import errors
from elm_jax.partitioning import mesh, messages, processes
rank = int(sys.argv[1])
environ = {"JOB_COMPLETION_INDEX": sys.argv[1]}
processes.start(coordinator_address=sys.argv[2], process_count=2, environ=environ)

def total(devices, rows, part=None):
    batch = mesh.shard_batch({"rows": rows}, devices, part=part)
    placed = batch["rows"]
    return placed.shape[0], int(jax.jit(lambda x: x.sum())(placed))

split, shared = mesh.make_mesh(), mesh.make_mesh(num_model=4)
say(mesh.process_part(split) == (rank, 2), mesh.process_part(shared) == (0, 1))
own = np.full((4, 1), rank + 1, np.int32)
say(*total(split, own), *total(shared, np.arange(4, dtype=np.int32)[:, None]))
say(*total(split, np.arange(8, dtype=np.int32)[:, None], part=(0, 1)))
try:
    mesh.shard_batch({"rows": own}, split, part=(0, 2))
    say("none refused" if rank else "own rows")
except errors.ElmError as error:
    say("own rows" if "rows 4 to 6" in str(error) else error)
say(processes.agree({"found": ["a", rank + 7]}), processes.is_main() == (rank == 0))
processes.check_same("text", name="text")
try:
    processes.check_same(f"{rank}", name="step")
except errors.ConfigError as error:
    say("another step in processes [1]" in str(error))
whole = mesh.place({"encoder_norm": {"scale": np.arange(8.0)}}, shared, "data")
say(processes.gather(whole)["encoder_norm"]["scale"].sum())
with processes.main_first("test"):
    pass
say(processes.exchange([rank, 5]).tolist())
with processes.apart():
    say(processes.is_main(), processes.agree(rank) == rank, processes.are_apart())
    processes.check_same(f"{rank}", name="step")
    messages.tell("colour", "blue")
    messages.tell("colour", f"green {rank}")
    colours = {}
    while sorted(colours.values()) != ["green 0", "green 1"]:
        time.sleep(0.05)
        colours = messages.read_all("colour")
say(colours, messages.read_all("size"), processes.are_several())
"""

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "gpu[08-09,11]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}


def no_name():
    return "host"


def pod_name():
    return "train-1.pods.default.svc.cluster.local"


def test_one_process_needs_no_coordinator():
    processes.start(environ={})
    assert not processes.are_several()
    assert processes.is_main()
    assert processes.agree([1, "a"]) == [1, "a"]
    assert processes.exchange([3]).tolist() == [[3]]


@pytest.mark.parametrize(
    "arguments",
    [
        {"process_count": 2},
        {"process_index": 1},
        {"coordinator_address": "host:1", "process_count": 2, "process_index": 2},
        {"coordinator_address": "host", "process_count": 2, "process_index": 1},
        {"process_count": 2, "environ": {"JOB_COMPLETION_INDEX": "0"}},
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(arguments):
    with pytest.raises(errors.ConfigError, match="process_index = "):
        processes.start(**{"environ": {}, **arguments})


def test_slurm_tells_all():
    membership = processes.complete(processes.Membership(), SLURM, no_name)
    assert membership == processes.Membership("gpu08:61441", 3, 2)


def test_processes_on_one_slurm_node_have_a_gpu_each():
    shared = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "5"}
    membership = processes.complete(processes.Membership(), shared, no_name)
    assert membership.local_device_ids == (5,)
    bound = shared | {"SLURM_GPUS_PER_TASK": "1"}  # then SLURM shows one GPU only
    membership = processes.complete(processes.Membership(), bound, no_name)
    assert membership.local_device_ids is None


def test_kubernetes_tells_index_and_address_but_not_the_number():
    environ = {"JOB_COMPLETION_INDEX": "1"}
    incomplete = processes.Membership(process_count=4)
    membership = processes.complete(incomplete, environ, pod_name)
    address = "train-0.pods.default.svc.cluster.local:8476"
    assert membership == processes.Membership(address, 4, 1)
    assert membership.is_whole
    assert not processes.complete(incomplete, environ, no_name).is_whole


def test_variables_of_jax_go_before_those_of_a_scheduler_and_flags_before_both():
    environ = SLURM | {"JAX_COORDINATOR_ADDRESS": "own:1", "JAX_PROCESS_ID": "0"}
    membership = processes.complete(
        processes.Membership(process_count=2), environ, no_name
    )
    assert membership == processes.Membership("own:1", 2, 0)


def test_a_pod_of_a_tpu_slice_is_left_to_jax():
    environ = {"TPU_WORKER_HOSTNAMES": "a,b", "JOB_COMPLETION_INDEX": "1"}
    nothing = processes.Membership()
    assert processes.complete(nothing, environ, pod_name) == nothing


def test_a_variable_that_is_no_number_is_refused_by_name():
    with pytest.raises(errors.ConfigError, match="SLURM_PROCID = 'two'"):
        processes.complete(
            processes.Membership(), SLURM | {"SLURM_PROCID": "two"}, no_name
        )


def test_several_tasks_of_a_slurm_step_do_not_all_do_the_same():
    with pytest.raises(errors.ConfigError, match="Add --multiprocess"):
        processes.start(environ=SLURM)
    processes.start(multiprocess=False, environ=SLURM)
    processes.start(environ=SLURM | {"SLURM_STEP_NUM_TASKS": "1"})


@pytest.mark.slow
def test_two_processes_share_one_batch_agree_and_part(tmp_path):
    address, runs = addresses.free_address(), []
    for rank in range(2):
        with (tmp_path / f"{rank}").open("w") as log:
            command = [sys.executable, "-c", PROGRAM, str(rank), address]
            runs.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    try:
        statuses = [run.wait(timeout=400) for run in runs]
    finally:
        for run in runs:
            run.kill()
    logs = [(tmp_path / f"{rank}").read_text() for rank in range(2)]
    assert statuses == [0, 0], "\n".join(logs)
    for log in logs:
        said = [n.partition("SAID ")[2] for n in log.splitlines() if "SAID " in n]
        assert said == [
            "True True",
            "8 12 4 6",
            "8 28",
            "own rows",
            "{'found': ['a', 7]} True",
            "True",
            "28.0",
            "[[0, 5], [1, 5]]",
            "True True True",
            "{0: 'green 0', 1: 'green 1'} {} True",
        ], log
