"""launch/gpu.sh: one shard on each GPU, tried again, stopped by signals."""

import os
import signal
import time

import pytest


def test_a_dry_run_prints_one_command_for_each_gpu(machine):
    done = machine.run("gpu.sh", "--dry_run", "elm_train", "--gin.X=a b", GPUS="2,5")
    first, second = done.stdout.splitlines()
    assert first.startswith("CUDA_VISIBLE_DEVICES=2 'elm_train' '--gin.X=a b'")
    assert "--gin.SHARD=0/2 " in first
    assert second.startswith("CUDA_VISIBLE_DEVICES=5 ")
    assert "--gin.SHARD=1/2 " in second


def test_one_process_may_have_all_gpus_and_no_shard(machine):
    settings = {"GPUS": "0,1", "TOGETHER": 1}
    done = machine.run("gpu.sh", "--dry_run", "elm_train", **settings)
    assert done.stdout == "CUDA_VISIBLE_DEVICES=0,1 'elm_train'\n"
    machine.add_program("train", "echo $CUDA_VISIBLE_DEVICES $*; exit 7")
    done = machine.run("gpu.sh", "train", "a", **settings)
    assert (done.returncode, done.stdout) == (7, "0,1 a\n")


def test_gpus_are_those_that_the_driver_lists(machine):
    machine.add_program("nvidia-smi", "printf '0\\n1\\n2\\n'")
    done = machine.run("gpu.sh", "--dry_run", "elm_train")
    assert len(done.stdout.splitlines()) == 3


def test_each_shard_runs_on_its_gpu_and_one_that_fails_is_tried_again(machine):
    machine.add_program(
        "train",
        'echo "$CUDA_VISIBLE_DEVICES $*" >> calls\n'
        "case $2 in --gin.SHARD=1/2) [ -e once ] || { touch once; exit 1; };; esac",
    )
    done = machine.run("gpu.sh", "train", "--steps=3", GPUS="4,5")
    assert done.returncode == 0, done.stderr
    assert sorted(machine.lines("calls")) == [
        "4 --steps=3 --gin.SHARD=0/2",
        "5 --steps=3 --gin.SHARD=1/2",
        "5 --steps=3 --gin.SHARD=1/2",
    ]
    assert "all 2 shards are finished" in done.stdout


def test_a_shard_that_always_fails_is_named_and_the_others_finish(machine):
    machine.add_program(
        "train", "case $1 in *1/2) echo no; exit 9;; esac; sleep 0.2; touch done"
    )
    done = machine.run("gpu.sh", "train", GPUS="0,1", RETRIES=1, LOG_DIR="logs")
    assert done.returncode == 1
    assert "1 of 2 shards failed" in done.stderr
    assert "ended with 9, try 2 of 2; see logs/shard-1-of-2.log" in done.stderr
    assert machine.lines("logs/shard-1-of-2.log") == ["no", "no"]
    assert (machine.folder / "done").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_shard_which_saves_and_is_not_tried_again(
    machine, number
):
    machine.add_program(
        "train",
        "trap 'sleep 0.2; echo saved >> saved; exit 143' TERM\n"
        "echo started >> started\nwhile :; do sleep 0.05; done",
    )
    with machine.start("gpu.sh", "train", GPUS="0,1") as process:
        while len(machine.lines("started")) < 2:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(timeout=30) == 143
    assert machine.lines("saved") == ["saved", "saved"]
    assert len(machine.lines("started")) == 2


def test_ctrl_c_in_a_terminal_reaches_a_training_once(machine):
    """A terminal sends SIGINT to the whole group of the script."""
    machine.add_program(
        "train",
        "trap 'echo got >> got; sleep 0.2; exit 143' TERM INT\n"
        "echo started >> started\nwhile :; do sleep 0.05; done",
    )
    with machine.start("gpu.sh", "train", GPUS="0", start_new_session=True) as process:
        while not machine.lines("started"):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 143
    assert machine.lines("got") == ["got"]
