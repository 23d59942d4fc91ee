"""launch/ray_train.py: shards as Ray tasks, also when a node dies under one."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time

import pytest

from tests.launch.conftest import LAUNCH
from tests.runs.shapes import SHAPE
from tests.runs.training import fleets

SCRIPT = LAUNCH / "ray_train.py"
EXPERTS = ("pocket_kinds_which_is", "pocket_notes_tell")
NUM_STEPS = 120
BEGUN = re.compile(r"shard (?P<shard>\d)/2 begins on node (?P<node>\w+)")


def run(*arguments, **settings):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_prints_the_tasks():
    command = ("elm_train", "--gin.X=it's", "--gin.MODEL_DIR=/runs")
    done = run("--dry_run", "--shards=2", "--num_gpus=2", *command)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("task of {'num_cpus': 1, 'num_gpus': 2.0")
    assert "elm_train" in first
    assert second.endswith("--gin.MODEL_DIR=/runs --gin.SHARD=1/2")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--shards=2",), "the command ''"),
        (("--shards=2", "rm", "x"), "the command 'rm x'"),
        (("--shards=0", "elm_train", "--gin.MODEL_DIR=/x"), "--shards=0"),
        (("--shards=2", "elm_train", "--gin.MODEL_DIR=x"), "an absolute path"),
        (
            ("--shards=2", "--resources=TPU", "elm_train", "--gin.MODEL_DIR=/x"),
            "--resources=TPU",
        ),
    ],
)
def test_what_cannot_work_on_a_cluster_is_an_error(arguments, text):
    done = run("--dry_run", *arguments)
    assert done.returncode == 1
    assert text in done.stderr
    assert "To do:" in done.stderr


def test_a_missing_package_is_named_with_its_extra(tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('none')")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    arguments = ("--shards=1", "elm_train", "--gin.MODEL_DIR=/x")
    done = run(*arguments, PYTHONPATH=path)
    assert done.returncode == 1
    assert "pip install 'elm_jax[ray]'" in done.stderr


def command(folder, gin_file, *bindings):
    flags = [f"--gin_bindings={text}" for text in bindings]
    gin_flag = f"--gin_file=gin/pocket/{gin_file}.gin"
    return ["elm_train", gin_flag, f"--gin.MODEL_DIR={folder}", *flags]


@pytest.fixture
def short_folder():
    """Ray's sockets lie in it: their paths may have 107 characters."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.mkdir(f"{folder}/ray")
        yield folder


@contextlib.contextmanager
def cluster_of(num_nodes):
    """A head that runs no tasks, and nodes that run one each."""
    from ray import cluster_utils

    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    head = {"num_cpus": 0, **small}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(num_nodes)]
        yield cluster, nodes
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_experts_of_a_node_that_dies_finish_on_the_other(
    tmp_path, short_folder, monkeypatch
):
    monkeypatch.setenv("RAY_TMPDIR", short_folder)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 waits for all other tests
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")  # as the tests' own
    bindings = (
        f"MIXTURE_OR_TASK_NAME = {EXPERTS}",
        f"TRAIN_STEPS = {NUM_STEPS}",
        "BATCH_SIZE = 8",
        "options.Batching.num_shapes = 1",
        "options.Saving.every_steps = 5",
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fleets.start(
        whole, "gin/pocket/base.gin", "TRAIN_STEPS = 2", "BATCH_SIZE = 8", *SHAPE
    )
    fleets.start(whole, "gin/pocket/prompt_experts.gin", *bindings)
    parts.mkdir()
    for name in ("base", "cache"):
        os.symlink(whole / name, parts / name)
    with cluster_of(2) as (cluster, nodes):
        arguments = ["--shards=2", "--num_gpus=0", f"--address={cluster.address}"]
        arguments += command(parts, "prompt_experts", *bindings)
        with subprocess.Popen(
            [sys.executable, SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as driver:
            begun = next(filter(None, map(BEGUN.search, driver.stdout)))
            name = EXPERTS[int(begun["shard"])]
            state = parts / "work" / "prompt_experts" / name / "state"
            while not any(path.name.isdigit() for path in state.glob("*")):
                assert driver.poll() is None, driver.stdout.read()
                time.sleep(0.02)
            (node,) = [n for n in nodes if n.node_id == begun["node"]]
            cluster.remove_node(node, allow_graceful=False)
            assert not (parts / "prompt_experts" / name).exists(), "killed too late"
            text = driver.communicate(timeout=900)[0]
    assert driver.returncode == 0, text
    again = [m for m in BEGUN.finditer(text) if m["shard"] == begun["shard"]]
    assert again
    assert all(match["node"] != begun["node"] for match in again)
    assert f"{name}: goes on from its own step" in text
    assert fleets.fingerprints(parts) == fleets.fingerprints(whole)
