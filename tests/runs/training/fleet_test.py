"""A run of several experts trains them as a fleet; each is what it would be alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from elm_jax import errors
from elm_jax.checkpoints import bucket, experts
from elm_jax.library import catalogue
from tests.partitioning import addresses
from tests.runs.training.fleets import (
    ALONE,
    FEW,
    KEEP,
    LISTED,
    NAMED,
    OFTEN,
    PER_EXPERT,
    TASKS,
    WILD,
    fingerprints,
    metrics_of,
    prepare,
    rows_of,
    train_in,
)

pytestmark = [pytest.mark.slow, pytest.mark.optimized]  # claims of bits


def start_joined(folder, base, *bindings, text=PER_EXPERT):
    """Starts two processes, each with as many devices as this one."""
    command = [sys.executable, "-m", "elm_jax.cli.elm_train"]
    command += [f"--gin_file={prepare(folder, base, text)}"]
    published = f"PUBLISH_URL = '{folder / 'bucket'}'"
    bindings = (
        f"MODEL_DIR = '{folder}'",
        LISTED,
        published,
        *NAMED,
        *FEW,
        *OFTEN,
        *bindings,
    )
    command += ["--gin." + "=".join(each.split(" = ")) for each in bindings]
    command += [
        f"--coordinator_address={addresses.free_address()}",
        "--process_count=2",
    ]
    environ = {n: v for n, v in os.environ.items() if n != "XLA_FLAGS"}
    environ["JAX_NUM_CPU_DEVICES"] = f"{jax.local_device_count()}"
    return [
        subprocess.Popen(
            [*command, f"--process_index={index}", "--heartbeat_secs=20"],
            env=environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def finish(runs):
    """Returns exit statuses, and what each wrote to standard error."""
    texts = [run.communicate(timeout=300)[1] for run in runs]
    print("\n\n".join(texts))
    return [run.returncode for run in runs], texts


def wait_for(run, text):
    """Waits until a line of standard error begins with a text."""
    for line in run.stderr:
        print(line, end="")
        if line.startswith(text):
            return
    raise AssertionError(f"{text!r} did not come; status {run.wait()}")


def test_every_expert_lands_with_its_own_settings(whole):
    infos = {
        name: experts.load_expert(whole / "prompt_experts" / name)[1] for name in TASKS
    }
    assert [info.steps for info in infos.values()] == [6, 4, 6]
    assert [info.seed for info in infos.values()] == [7, 42, 42]
    assert not [*(whole / "work").rglob("state")]
    assert sorted(catalogue.Catalogue(whole / "library").experts()) == sorted(TASKS)
    for name, info in infos.items():
        card = (whole / "prompt_experts" / name / "card.md").read_text()
        assert card.startswith(f"# {name}\n")
        assert f"| steps | {info.steps} |" in card
        assert f"{name}:\n\n```jinja\n" in card
        lines = metrics_of(whole, name)
        rows = [json.loads(line) for line in lines]
        assert [row["step"] for row in rows] == list(range(1, info.steps + 1))
        assert all(0 <= row["data_wait_share"] <= 1 for row in rows)
        assert [*(whole / "work" / "prompt_experts" / name / "tensorboard").iterdir()]
    rates = [row["learning_rate"] for row in rows_of(whole, "pocket_notes_tell")]
    assert rates == pytest.approx([0, 1.5e-3, 3e-3, 1.5e-3])


def test_steps_of_a_fleet_are_traced_in_a_folder_of_its_own(whole):
    (trace,) = (whole / "work" / "prompt_experts" / "fleet" / "profile").rglob(
        "*.xplane.pb"
    )
    assert trace.stat().st_size > 0


def test_each_expert_has_the_bits_that_it_has_alone(whole, base, tmp_path):
    for n in range(3):
        train_in(tmp_path, base, f"SHARD = '{n}/3'")
    assert fingerprints(tmp_path) == fingerprints(whole)


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """Experts trained one after another, of which every second state is kept."""
    folder = tmp_path_factory.mktemp("alone")
    train_in(folder, base, KEEP, ALONE)
    return folder


def assert_close(folder, whole):
    """One device adds in another order than eight: loss to 1e-4 after 6 steps."""
    for name in TASKS:
        pairs = zip(rows_of(folder, name), rows_of(whole, name), strict=True)
        for row, expected in pairs:
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_an_expert_of_a_fleet_is_close_to_the_one_that_had_all_devices(whole, alone):
    assert_close(alone, whole)


def cut_back(folder, step):
    """Makes a training whose states were kept one that was stopped at a step."""
    shutil.rmtree(folder / "prompt_experts")
    for state in (folder / "work").glob("*/*/state/*"):
        if int(state.name) != step:
            shutil.rmtree(state)


def test_an_expert_begun_alone_is_finished_in_a_fleet_and_the_other_way_round(
    whole, alone, base
):
    """To the bound of those that were never stopped."""
    for way in ((), (ALONE,)):
        cut_back(alone, 2)
        train_in(alone, base, KEEP, *way)
        assert_close(alone, whole)


def test_a_rate_that_breaks_an_expert_is_named_and_the_others_land(
    whole, base, tmp_path
):
    with pytest.raises(errors.TrainingError, match="1 of 3 experts failed") as raised:
        train_in(tmp_path, base, text=PER_EXPERT + WILD)
    assert "pocket_reviews_good_or_bad: " in str(raised.value)
    prints, expected = fingerprints(tmp_path), fingerprints(whole)
    assert prints == {name: expected[name] for name in TASKS[:2]}


@pytest.mark.parametrize("setting", ["train_steps = 0", "learning_rate = -1.0"])
def test_what_is_wrong_with_one_expert_is_told_before_any_trains(
    base, tmp_path, setting
):
    text = PER_EXPERT + f"short/expert_settings.ExpertSettings.{setting}\n"
    with pytest.raises(errors.ConfigError, match=f"{setting}"):
        train_in(tmp_path, base, text=text)
    assert not (tmp_path / "work").exists()


def test_a_base_is_not_split_over_more_devices_than_the_process_has(base, tmp_path):
    split = (
        "placement.Placement.axis_rules = 'data_model'",
        "placement.Placement.num_model = 16",
    )
    with pytest.raises(errors.ConfigError, match="Fleet.size = 0 to train one after"):
        train_in(tmp_path, base, *split)


@pytest.fixture(scope="module")
def joined(base, tmp_path_factory):
    """Experts by two processes that one thing after another befell, and what befell.

    Shards are dealt out to the processes again: of 0/2 each has an expert, and the
    second one's breaks; of 1/2 the first has the only one; then both finish the rest,
    where the second process goes on with what the first began.
    """
    folder = tmp_path_factory.mktemp("joined")
    wild = PER_EXPERT + WILD
    broken = finish(start_joined(folder, base, "SHARD = '0/2'", text=wild))
    runs = start_joined(folder, base, "SHARD = '1/2'")
    wait_for(runs[1], "this share is finished")
    runs[1].send_signal(signal.SIGTERM)
    stopped = finish(runs)
    runs = start_joined(folder, base, "SHARD = '1/2'")
    wait_for(runs[0], "pocket_notes_tell: step 2/4")
    runs[0].send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    killed = finish(runs), time.monotonic() - killed_at
    return folder, broken, stopped, killed, finish(start_joined(folder, base))


def test_experts_of_joined_processes_have_the_bits_that_one_process_gives_them(
    whole, joined
):
    folder, *_, (statuses, texts) = joined
    assert statuses == [0, 0]
    assert "pocket_notes_tell: landed, 1 of 1" in texts[1]
    assert fingerprints(folder) == fingerprints(whole)
    assert sorted(catalogue.Catalogue(folder / "library").experts()) == sorted(TASKS)
    assert sorted(bucket.Bucket(f"{folder / 'bucket'}").experts()) == sorted(TASKS)
    for name in TASKS[:2]:
        losses = [[row["loss"] for row in rows_of(f, name)] for f in (folder, whole)]
        assert losses[0] == losses[1]


def test_an_expert_that_fails_in_one_process_is_told_by_all(joined):
    statuses, texts = joined[1]
    assert statuses == [1, 1]
    for text in texts:
        assert "1 of 2 experts failed" in text
        assert "pocket_reviews_good_or_bad: Found: " in text


def test_a_signal_to_a_process_that_waits_stops_and_saves_the_one_that_trains(joined):
    statuses, texts = joined[2]
    assert statuses == [143, 143]
    assert "SIGTERM to another process: saving" in texts[0]


def test_when_a_process_dies_the_other_ends(joined):
    (statuses, _), secs = joined[3]
    assert statuses[0] == -signal.SIGKILL
    assert statuses[1]
    assert secs < 60
