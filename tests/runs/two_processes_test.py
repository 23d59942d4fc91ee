"""The binaries on two processes: one training, one evaluation, one set of files."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts
from tests.partitioning import addresses
from tests.runs import shapes

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


def run(binary, gin_file, folder, arguments, *, count, num_devices):
    """Runs a command in some processes; returns their outputs, errors and statuses."""
    command = [sys.executable, "-m", f"elm_jax.cli.{binary}"]
    command += [f"--gin_file=gin/pocket/{gin_file}.gin", f"--gin.MODEL_DIR={folder}"]
    command += arguments
    if count > 1:
        command += [f"--coordinator_address={addresses.free_address()}"]
        command += [f"--process_count={count}", "--heartbeat_secs=20"]
    environ = os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices)}
    runs = [
        subprocess.Popen(
            [*command, *([f"--process_index={index}"] if count > 1 else [])],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        outputs = [each.communicate(timeout=600) for each in runs]
    finally:
        for each in runs:
            if each.poll() is None:  # it waits for one that has ended
                each.kill()
                each.communicate()
    return [(*out, each.returncode) for each, out in zip(runs, outputs, strict=True)]


def succeed(*arguments, **options):
    results = run(*arguments, **options)
    for _, err, status in results:
        assert status == 0, err
    return results


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, an expert and scores by two processes, and the same by one."""
    by_count = []
    for count in (2, 1):
        folder = tmp_path_factory.mktemp(f"by_{count}")
        how = {"count": count, "num_devices": 4 // count}
        arguments = [*TRAIN, *SHAPE, *SPLIT]
        outputs = [succeed("elm_train", "base", folder, arguments, **how)]
        arguments = [*PROMPT, *SPLIT]
        outputs += [succeed("elm_train", "prompt_experts", folder, arguments, **how)]
        outputs += [succeed("elm_eval", "own_tasks", folder, SCORE, **how)]
        by_count.append((folder, outputs))
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
