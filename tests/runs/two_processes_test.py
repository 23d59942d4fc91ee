"""The binaries on two processes: one training, one evaluation, one set of files.

The processes are forks of one that has imported all, but for two that begin as users'
do.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts
from tests.partitioning import addresses
from tests.runs import binaries, shapes

pytestmark = pytest.mark.slow

TASK = "pocket_reviews_good_or_bad"
SHAPE = [f"--gin.{binding.replace(' ', '')}" for binding in shapes.SHAPE]
TRAIN = ["--gin.TRAIN_STEPS=4", "--gin.BATCH_SIZE=8"]
TRAIN += ["--gin.options.Metrics.every_steps=1", "--gin.options.Saving.every_steps=2"]
PROMPT = [f"--gin.MIXTURE_OR_TASK_NAME=('{TASK}',)", *TRAIN]
SPLIT = [
    "--gin.placement.Placement.axis_rules=fsdp",
    "--gin.placement.Placement.num_fsdp=4",
]
SCORE = [f"--gin.evaluate.Evaluate.tasks='{TASK}'"]
SCORE += [f"--gin.evaluate.Evaluate.{n}" for n in ("max_examples=24", "batch_size=8")]


def run(started, binary, gin_file, folder, arguments, *, count):
    """Runs a binary in some processes; returns what each printed, and its errors."""
    flags = [[] for _ in range(count)]
    if count > 1:
        common = [f"--coordinator_address={addresses.free_address()}"]
        common += [f"--process_count={count}", "--heartbeat_secs=20"]
        flags = [[*common, f"--process_index={index}"] for index in range(count)]
    files, runs = [], []
    for index, process_flags in enumerate(flags):
        name = f"{binary} {gin_file} {index}"
        files.append([folder.parent / f"{folder.name} {name} {n}" for n in (1, 2)])
        gin_path = f"gin/pocket/{gin_file}.gin"
        each = (binary, gin_path, folder, *arguments, *process_flags)
        runs.append(started.start_with(*each, outputs=files[-1]))
    try:
        for each in runs:
            each.join(600)
    finally:
        for each in runs:
            if each.is_alive():  # it waits for one that has ended
                each.kill()
                each.join()
    outputs = [[path.read_text() for path in paths] for paths in files]
    for each, (_, errors) in zip(runs, outputs, strict=True):
        assert each.exitcode == 0, errors
    return outputs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, an expert and scores by two processes, and the same by one."""
    by_count = []
    for count in (2, 1):
        folder = tmp_path_factory.mktemp(f"by_{count}")
        started = binaries.Binaries(
            tmp_path_factory.mktemp("binaries"), num_devices=4 // count
        )
        runs = (
            ("elm_train", "base", folder, [*TRAIN, *SHAPE, *SPLIT]),
            ("elm_train", "prompt_experts", folder, [*PROMPT, *SPLIT]),
            ("elm_eval", "own_tasks", folder, SCORE),
        )
        by_count.append((folder, [run(started, *each, count=count) for each in runs]))
    return by_count


@pytest.mark.parametrize("name", ["base", f"prompt_experts/{TASK}"])
def test_what_two_processes_train_is_what_one_trains(folders, name):
    (by_two, _), (by_one, _) = folders
    trained, expected = (
        experts.load_expert(folder / name)[0] for folder in (by_two, by_one)
    )
    # Four steps of at most the rate each, of which sums in another order change
    # little: a thousandth of the weights' size.
    for path, leaf in trees.flatten(expected).items():
        np.testing.assert_allclose(
            trees.flatten(trained)[path], leaf, rtol=0, atol=1e-3, err_msg=path
        )


def test_each_step_is_reported_once_and_by_the_first_process(folders):
    (by_two, outputs), (by_one, _) = folders
    for name in ("base", f"prompt_experts/{TASK}"):
        losses = []
        for folder in (by_two, by_one):
            lines = (folder / "work" / name / "metrics.jsonl").read_text().splitlines()
            losses.append({row["step"]: row["loss"] for row in map(json.loads, lines)})
            assert len(lines) == 4
        # Of other rows they would be other losses, at whatever rate.
        np.testing.assert_allclose(
            list(losses[0].values()), list(losses[1].values()), rtol=1e-4
        )
        assert losses[0].keys() == losses[1].keys() == {1, 2, 3, 4}
    for _, second in outputs:
        assert "step 4/4" not in second[1]
        assert second[0].replace("[Gloo]", "").count("expert") == 0
    assert "step 4/4" in outputs[0][0][1]


def test_two_processes_score_as_one_does(folders):
    rows = []
    for folder, _ in folders:
        lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
        rows.append({(r["expert"], r["metric"]): r["value"] for r in lines})
    assert rows[0].keys() == rows[1].keys()
    assert {expert for expert, _ in rows[0]} == {"base", TASK}
    for key, value in rows[1].items():
        assert abs(rows[0][key] - value) < 9, key  # two of 24 rows near a tie


def test_processes_that_were_told_different_things_are_refused(tmp_path):
    command = [sys.executable, "-m", "elm_jax.cli.elm_train"]
    command += ["--gin_file=gin/pocket/prompt_experts.gin"]
    command += [
        f"--gin.MODEL_DIR={tmp_path}",
        f"--coordinator_address={addresses.free_address()}",
    ]
    command += [*PROMPT, "--process_count=2", "--heartbeat_secs=20"]
    runs = [
        subprocess.Popen(
            [
                *command,
                f"--process_index={index}",
                f"--gin.train.Train.random_seed={index}",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    texts = [each.communicate(timeout=300)[1] for each in runs]
    assert all(each.returncode for each in runs)
    assert any("another configuration in processes [1]" in text for text in texts)
