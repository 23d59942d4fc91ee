"""launch/slurm.sh: the batch script it submits, and what that does when warned."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

SHELLCHECK = pathlib.Path(sys.executable).parent / "shellcheck"
TASK = {"SLURM_JOB_ID": 9, "SLURM_ARRAY_TASK_ID": 2}
TRAIN = (
    "trap 'sleep 0.2; echo saved >> saved; exit 143' TERM\n"
    'echo "$*" > started\nwhile :; do sleep 0.05; done'
)


def batch_script(machine, *command, **settings):
    arguments = ("--dry_run", *command)
    done = machine.run("slurm.sh", *arguments, **{"SHARDS": 4, **settings})
    assert done.returncode == 0, done.stderr
    path = machine.folder / "batch.sh"
    path.write_text(done.stdout)
    return path


@pytest.fixture
def cluster(machine):
    # srun hands on signals that it gets, as SLURM's does.
    machine.add_program("srun", 'shift; exec "$@"')
    machine.add_program(
        "scontrol",
        'case $1 in show) cat state;; *) echo "$*" >> requeued;; esac',
    )
    (machine.folder / "state").write_text("JobId=9\n JobState=RUNNING Reason=None\n")
    machine.add_program("train", TRAIN)
    return machine


def test_the_batch_script_asks_for_what_the_settings_say(machine):
    settings = {"PARTITION": "gpu", "PARALLEL": 3, "TIME": "4:00:00", "GRACE_SECS": 90}
    path = batch_script(machine, "elm_train", "--gin.X=it's", **settings)
    directives = [line for line in path.read_text().splitlines() if "#SBATCH" in line]
    assert {
        "#SBATCH --array=0-3%3",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@90",
        "#SBATCH --time=4:00:00",
        "#SBATCH --partition=gpu",
        "#SBATCH --open-mode=append",
        "#SBATCH --gpus-per-node=1",
    } <= set(directives)
    assert not [line for line in directives if "account" in line]


def test_the_batch_script_passes_the_shell_linter(machine):
    path = batch_script(machine, "elm_train", "--gin.X=it's", SETUP="module load x")
    assert "\nmodule load x\n" in path.read_text()
    subprocess.run([SHELLCHECK, path], check=True)


def test_a_task_trains_its_shard_with_the_words_as_they_were(cluster):
    cluster.add_program("train", "printf '%s\\n' \"$@\"")
    path = batch_script(cluster, "train", "--gin.X=it's $HOME")
    done = cluster.run(path, **TASK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["--gin.X=it's $HOME", "--gin.SHARD=2/4"]


def stopped_by(cluster, number, **settings):
    path = batch_script(cluster, "train")
    with cluster.start(path, **TASK, **settings) as process:
        while not cluster.lines("started"):
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(timeout=30)


def test_a_task_that_is_warned_of_its_limit_saves_and_requeues_itself(cluster):
    assert stopped_by(cluster, signal.SIGUSR1) == 143
    assert cluster.lines("saved") == ["saved"]
    assert cluster.lines("requeued") == ["requeue 9"]


def test_a_task_requeues_itself_no_more_often_than_set(cluster):
    assert stopped_by(cluster, signal.SIGUSR1, SLURM_RESTART_COUNT=50) == 143
    assert not cluster.lines("requeued")


def taken_away(cluster):
    """What SLURM does then: SIGTERM for the batch shell, and for the training."""
    path = batch_script(cluster, "train")
    cluster.add_program("train", f"echo $$ > pid\n{TRAIN}")
    with cluster.start(path, **TASK) as process:
        while not cluster.lines("started"):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        os.kill(int(cluster.lines("pid")[0]), signal.SIGTERM)
        return process.wait(timeout=30)


def test_a_cancelled_task_saves_and_stays_away(cluster):
    (cluster.folder / "state").write_text("JobState=COMPLETING Reason=None\n")
    assert taken_away(cluster) == 143
    assert cluster.lines("saved") == ["saved"]
    assert not cluster.lines("requeued")


def test_a_preempted_task_saves_and_requeues_itself(cluster):
    assert taken_away(cluster) == 143
    assert cluster.lines("saved") == ["saved"]
    assert cluster.lines("requeued") == ["requeue 9"]


def test_a_task_that_fails_ends_with_its_status(cluster):
    cluster.add_program("train", "exit 5")
    assert cluster.run(batch_script(cluster, "train"), **TASK).returncode == 5
    assert not cluster.lines("requeued")


def test_what_is_submitted_is_what_the_dry_run_shows(machine):
    machine.add_program("sbatch", "cat > submitted")
    assert machine.run("slurm.sh", "train", SHARDS=4).returncode == 0
    shown = batch_script(machine, "train").read_text()
    assert (machine.folder / "submitted").read_text() == shown


def test_a_machine_without_slurm_is_told(machine):
    done = machine.run("slurm.sh", "train", SHARDS=4)
    assert done.returncode == 1
    assert "no sbatch" in done.stderr
