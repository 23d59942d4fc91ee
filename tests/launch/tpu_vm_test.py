"""launch/tpu_vm.sh: queued resources that are made, used, made again and deleted."""

import os
import shlex
import signal
import time

import pytest

SETTINGS = {
    "PROJECT": "lab",
    "ZONE": "here",
    "ACCELERATOR_TYPE": "v5litepod-8",
    "RUNTIME_VERSION": "v2-alpha-tpuv5-lite",
    "POLL_SECS": "0.01",
}
# Google's program, as far as it is used. Requests are folders with a file `state`;
# `preempt` and `fail` hold how often a run on the workers is yet to end so.
GCLOUD = r"""
echo "$*" >> calls
node=$5
case "$3 $4" in
  "queued-resources create") mkdir "$node" && echo PROVISIONING > "$node/state" ;;
  "queued-resources describe")
    [ -d "$node" ] || exit 1
    cat "$node/state"
    grep -q PROVISIONING "$node/state" && echo ACTIVE > "$node/state"
    grep -q SUSPENDING "$node/state" && echo SUSPENDED > "$node/state"
    exit 0 ;;
  "queued-resources delete") rm -r "$node" ;;
  "tpu-vm ssh")
    case $* in *flock*) ;; *) exit 0 ;; esac
    for what in preempt fail; do
      left=$(cat $what 2>/dev/null || echo 0)
      if [ "$left" -gt 0 ]; then
        echo $((left - 1)) > $what
        [ $what = fail ] || echo SUSPENDING > "$node/state"
        exit 1
      fi
    done ;;
esac
"""


def verbs(machine):
    return [" ".join(line.split()[2:4]) for line in machine.lines("calls")]


def runs(machine):
    return [line for line in machine.lines("calls") if "flock" in line]


def test_a_dry_run_prints_the_whole_course_with_the_shards(machine):
    command = ("elm_train", "--gin.X=it's a")
    settings = SETTINGS | {"SHARDS": 2, "SPOT": 1, "SETUP": "mount-it"}
    done = machine.run("tpu_vm.sh", "--dry_run", "train", *command, **settings)
    calls = [["gcloud", *shlex.split(c)] for c in done.stdout.split("gcloud ")[1:]]
    assert [call[3:5] for call in calls[:6]] == [
        ["queued-resources", "create"],
        ["queued-resources", "describe"],
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],
        ["tpu-vm", "ssh"],
        ["queued-resources", "delete"],
    ]
    assert all({"--project=lab", "--zone=here"} <= set(call) for call in calls)
    create, _, _, install, run, _ = calls[6:]
    assert create[5:9] == [
        "elm-1",
        "--node-id=elm-1",
        "--accelerator-type=v5litepod-8",
        "--runtime-version=v2-alpha-tpuv5-lite",
    ]
    assert "--spot" in create
    assert {"--worker=all"} <= set(install) & set(run)
    assert install[-3].endswith("-e '.[tpu]'\nmount-it")
    words = shlex.split(run[-3].partition("flock ")[2])
    assert words == [".running", *command, "--gin.SHARD=1/2"]


@pytest.mark.slow
def test_a_shard_whose_vm_is_preempted_goes_on_on_a_new_one(machine):
    machine.add_program("gcloud", GCLOUD)
    (machine.folder / "preempt").write_text("2")
    done = machine.run("tpu_vm.sh", "train", "elm_train", **SETTINGS)
    assert done.returncode == 0, done.stderr + "\n".join(machine.lines("calls"))
    assert verbs(machine).count("queued-resources create") == 3
    assert len(runs(machine)) == 3
    assert verbs(machine)[-1] == "queued-resources delete"
    assert "all 1 shards are finished" in done.stdout


@pytest.mark.slow
def test_a_vm_is_not_made_again_for_ever(machine):
    machine.add_program("gcloud", GCLOUD)
    (machine.folder / "preempt").write_text("99")
    settings = SETTINGS | {"PREEMPTIONS": 2}
    done = machine.run("tpu_vm.sh", "train", "elm_train", **settings)
    assert done.returncode == 1
    assert verbs(machine).count("queued-resources create") == 3
    assert machine.lines("runs/logs/tpu-0.log")[-1].endswith("giving up")


def test_a_command_that_fails_on_a_living_vm_is_tried_again_and_the_vm_stays(machine):
    machine.add_program("gcloud", GCLOUD)
    (machine.folder / "fail").write_text("99")
    settings = SETTINGS | {"RETRIES": 1}
    done = machine.run("tpu_vm.sh", "train", "elm_train", **settings)
    assert done.returncode == 1
    assert "1 of 1 shards failed" in done.stderr
    assert len(runs(machine)) == 2
    assert "queued-resources delete" not in verbs(machine)


@pytest.mark.slow
def test_every_shard_has_a_vm_of_its_own(machine):
    machine.add_program("gcloud", GCLOUD)
    settings = SETTINGS | {"SHARDS": 3, "TPU_NAME": "x"}
    assert machine.run("tpu_vm.sh", "create", **settings).returncode == 0
    assert machine.run("tpu_vm.sh", "wait", **settings).returncode == 0
    done = machine.run("tpu_vm.sh", "status", **settings)
    assert done.stdout.split() == ["ACTIVE"] * 3
    assert machine.run("tpu_vm.sh", "install", **settings).returncode == 0
    assert machine.run("tpu_vm.sh", "run", "elm_train", **settings).returncode == 0
    assert sorted(line.split()[4] for line in runs(machine)) == ["x-0", "x-1", "x-2"]
    for i in range(3):
        assert any(f"x-{i}" in r and f"SHARD={i}/3" in r for r in runs(machine))
    assert machine.run("tpu_vm.sh", "delete", **settings).returncode == 0
    assert not [p for p in machine.folder.iterdir() if p.name.startswith("x-")]


def test_ctrl_c_ends_what_runs_here_and_leaves_the_vms(machine):
    machine.add_program(
        "gcloud", GCLOUD.replace("*flock*) ;;", "*flock*) exec sleep 60 ;;")
    )
    process = machine.start(
        "tpu_vm.sh", "train", "elm_train", start_new_session=True, **SETTINGS
    )
    with process:
        while not runs(machine):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 143
        assert "the VMs are still there" in process.stderr.read()
    assert (machine.folder / "elm-0").exists()
