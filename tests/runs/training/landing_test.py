"""A run begins with what a killed one has left, and refuses experts of another kind."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import bucket, experts, manifest
from elm_jax.library import catalogue
from elm_jax.partitioning import cpu_devices
from elm_jax.runs import loaded, placement, train
from elm_jax.runs.training import options, record
from tests.checkpoints import sample
from tests.runs.training.landed import (
    LONG,
    PER_EXPERT,
    SHORT,
    TASKS,
    facts_of,
    make_run,
)


def result_of(run, name):
    spec = run.spec()
    training = record.settings(spec, spec.experts[name])
    training |= record.of_tokens(spec, spec.open_data())
    facts = facts_of(name, training=training)
    return loaded.Expert({"norm": np.ones(3, np.float32)}, facts)


def save(run, *names):
    """Saves experts and no more, as a run that is killed right after it."""
    for name in names:
        result = result_of(run, name)
        experts.save_expert(run.expert_dir(name), result.params, result.manifest)


def listed(folder):
    return sorted(catalogue.Catalogue(folder / "library").experts())


def test_an_expert_that_lands_is_listed_and_its_states_go(folder):
    run = make_run(folder)
    (run.work_dir(SHORT) / "state" / "2").mkdir(parents=True)
    run.landing.land(SHORT, result_of(run, SHORT))
    assert listed(folder) == [SHORT]
    assert not (run.work_dir(SHORT) / "state").exists()
    assert run.landing.unfinished(TASKS) == [LONG]
    assert run.landing.describe(TASKS) == {"finished already": 1}


def test_what_was_saved_and_no_more_is_listed_published_and_cleared_up(folder):
    run = make_run(folder, f"PUBLISH_URL = '{folder / 'bucket'}'")
    states = [run.work_dir(name) / "state" for name in TASKS]
    states[0].mkdir(parents=True)
    save(run, *TASKS)
    states[1].mkdir(parents=True)
    os.utime(states[1], (2**32, 2**32))  # of another training, later
    assert run.landing.list_and_publish(TASKS) == {}
    assert run.landing.finish(TASKS) == {}
    assert listed(folder) == sorted(TASKS)
    assert sorted(bucket.Bucket(f"{folder / 'bucket'}").experts()) == sorted(TASKS)
    assert [path.exists() for path in states] == [False, True]


def test_states_to_keep_stay_also_then(folder):
    run = make_run(folder, "options.Saving.keep_every_steps = 1000")
    (run.work_dir(SHORT) / "state").mkdir(parents=True)
    save(run, SHORT)
    run.landing.list_and_publish([SHORT])
    assert (run.work_dir(SHORT) / "state").exists()


def test_an_expert_that_cannot_be_listed_is_told_at_the_end(folder, capsys):
    run = make_run(folder)
    of_another_base = facts_of("other", fingerprint="another base")
    experts.save_expert(folder / "other", {"norm": np.ones(3)}, of_another_base)
    catalogue.Catalogue(folder / "library").add(folder / "other")
    run.landing.land(SHORT, result_of(run, SHORT))
    assert "pocket_notes_tell is finished, but not listed: " in capsys.readouterr().err
    failures = run.landing.finish(TASKS)
    assert list(failures) == [SHORT]
    assert "Keep one library per base" in str(failures[SHORT])


def test_a_folder_without_an_expert_where_one_is_to_land_is_refused_first(folder):
    run = make_run(folder)
    save(run, SHORT)
    run.landing.check_free(TASKS)
    run.expert_dir(LONG).mkdir()
    with pytest.raises(errors.CheckpointError, match=f"{LONG} has no manifest.json"):
        run.plan()


def test_a_plan_changes_no_setting_of_jax_but_to_show_it_does(folder, monkeypatch):
    requests = []
    monkeypatch.setattr(cpu_devices, "request", lambda: requests.append("request"))
    run = make_run(folder)
    run.plan()
    assert requests == []
    run.show_plan()
    assert requests == ["request"]


def test_finished_experts_of_the_same_settings_are_fine(folder):
    save(make_run(folder), *TASKS)
    same = ("options.Fleet.size = 0", "options.Saving.every_steps = 7")
    make_run(folder, *same).landing.check_unchanged(TASKS)
    # A manifest that does not tell, or knows settings that are no more, is no reason.
    path = folder / "prompt_experts" / SHORT / manifest.FILE_NAME
    sample.edit_manifest(path.parent)
    content = json.loads(path.read_text())
    for training in ({}, {"gone": 1}, None):
        content["training"] = training
        if training is None:
            del content["training"]
        path.write_text(json.dumps(content))
        make_run(folder).landing.check_unchanged(TASKS)


def check_refused(folder, changed, expected):
    with pytest.raises(errors.CheckpointError) as raised:
        changed.plan()
    with pytest.raises(errors.CheckpointError):
        changed.run()
    text = str(raised.value)
    assert expected in text
    assert "resume_changed_config=True" in text
    return text


def test_more_steps_than_finished_experts_have_are_refused_by_name(folder):
    save(make_run(folder), *TASKS)
    changed = make_run(folder, "TRAIN_STEPS = 9")
    text = check_refused(folder, changed, f"{LONG}: train_steps: 5 before, 9 now")
    assert SHORT not in text  # it has steps of its own
    allowed = "options.Saving.resume_changed_config = True"
    allowed = make_run(folder, "TRAIN_STEPS = 9", allowed)
    assert allowed.landing.unfinished(TASKS) == []
    allowed.landing.check_unchanged(TASKS)


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        (
            "TASK_FEATURE_LENGTHS = {'inputs': 48, 'targets': 9}",
            "tokens/feature_lengths/targets: 12 before, 9 now",
        ),
        ("task_data.TaskData.extra_ids = 9", "tokens/vocabulary: "),
        ("task_data.TaskData.inputs_eos = False", "tokens/inputs_eos: True before"),
        ("task_data.TaskData.protocol = 'elm'", "tokens/protocol: '' before, 'elm'"),
    ],
)
def test_other_tokens_than_finished_experts_had_are_refused(folder, binding, expected):
    save(make_run(folder), *TASKS)
    check_refused(folder, make_run(folder, binding), expected)


CHANGES = {
    "kind": "train.Train.kind = 'dataset'",
    "optimizer": "LEARNING_RATE = 0.5",
    "train_steps": "TRAIN_STEPS = 9",
    "batch_size": "BATCH_SIZE = 9",
    "max_examples": "options.Batching.max_examples = 9",
    "adapter": "bottleneck.Bottleneck.reduction_factor = 2",
    "expert_parts": "train.Train.expert_parts = 'adapters'",
    "dropout_rate": "train.Train.dropout_rate = 0.25",
    "num_shapes": "options.Batching.num_shapes = 3",
    "pack": "options.Batching.pack = True",
    "num_parts": "options.Batching.num_parts = 2",
    "execution": "config.Execution.dtype = 'bfloat16'",
    "random_seed": "train.Train.random_seed = 7",
}


# Fields that shape no bit of an expert, or do so by what else is compared.
MAY_CHANGE = {
    *("model_dir", "tasks", "data", "shard", "initial_checkpoint_path", "per_expert"),
    *("axis_rules", "num_fsdp", "num_model"),  # where it is computed
    *("size", "lanes", "device_memory_gib"),
    *("every_steps", "keep_last", "keep_every_steps", "stop_grace_secs"),
    *("resume_changed_config", "profile_steps", "trackers", "tracker_project"),
    *("experts_dir", "expert_name", "publish_url", "library_dir"),
}
PARTS = (
    *(options.Batching, options.Fleet, options.Saving, options.Metrics),
    *(options.Results, placement.Placement),
)


def test_every_field_of_a_training_shapes_experts_or_is_known_not_to():
    names = {field.name for part in PARTS for field in dataclasses.fields(part)}
    parts = {new.partition(".")[0] for new in options.MOVED.values()}
    names |= {field.name for field in dataclasses.fields(train.Train)} - parts
    assert names == MAY_CHANGE | CHANGES.keys() | {"model"}


@pytest.mark.slow
@pytest.mark.parametrize("field", sorted(CHANGES.keys() - {"kind", "execution"}))
def test_each_field_that_shapes_experts_is_refused_once_they_are_there(folder, field):
    save(make_run(folder), *TASKS)
    check_refused(folder, make_run(folder, CHANGES[field]), field)


def test_experts_of_any_number_of_parts_will_do_where_it_is_left_open(folder):
    save(make_run(folder, CHANGES["num_parts"]), *TASKS)
    check_refused(folder, make_run(folder), "num_parts: 2 before, 1 now")
    is_open = make_run(folder, "options.Batching.num_parts = 0")
    is_open.landing.check_unchanged(TASKS)


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("attention_dropout = False", "execution/attention_dropout: True before"),
        ("logits_chunks = 4", "execution/logits_chunks: 0 before, 4 now"),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_fields_that_records_leave_out_at_their_defaults_are_compared(
    folder, binding, expected, is_reversed
):
    of_execution = (
        "from elm_jax.model import config\n"
        "train.Train.execution = @config.Execution()\n"
    )
    both = ("config.Execution.scan_unroll = 0", f"config.Execution.{binding}")
    first, second = reversed(both) if is_reversed else both
    (folder / "experts.gin").write_text(f"{PER_EXPERT}{of_execution}{first}\n")
    save(make_run(folder), *TASKS)
    make_run(folder).landing.check_unchanged(TASKS)
    (folder / "experts.gin").write_text(f"{PER_EXPERT}{of_execution}{second}\n")
    name = expected.partition(":")[0]
    with pytest.raises(errors.CheckpointError, match=name if is_reversed else expected):
        make_run(folder).landing.check_unchanged(TASKS)


def test_other_rows_than_finished_experts_had_are_refused(folder):
    run = make_run(folder)
    rows = run.spec().open_data().open(SHORT, "train").fingerprint
    result = result_of(run, SHORT)
    for fingerprint in (rows, "other rows"):
        data = {SHORT: {"num_examples": 1, "fingerprint": fingerprint}}
        info = dataclasses.replace(result.manifest, data=data)
        shutil.rmtree(run.expert_dir(SHORT), ignore_errors=True)
        experts.save_expert(run.expert_dir(SHORT), result.params, info)
        if fingerprint == rows:
            run.landing.check_rows([SHORT])
    with pytest.raises(errors.CheckpointError, match=f"{SHORT} .rows of {SHORT}"):
        run.landing.check_rows([SHORT])


@pytest.mark.slow
def test_states_that_release_0_1_kept_elsewhere_are_not_begun_anew(folder):
    run = make_run(folder)
    old = folder / "work" / LONG
    (old / "state" / "3").mkdir(parents=True)
    with pytest.raises(errors.CheckpointError, match=r"saved states .*work"):
        run.plan()
    run.work_dir(LONG).parent.mkdir(parents=True)
    old.rename(run.work_dir(LONG))
    run.plan()


def test_experts_of_one_name_in_two_folders_share_no_work_folder(folder):
    in_lora = make_run(folder, "options.Results.experts_dir = '{MODEL_DIR}/lora'")
    outside = make_run(folder, f"options.Results.experts_dir = '{folder.parent}/x'")
    work_dirs = {run.work_dir(LONG) for run in (make_run(folder), in_lora, outside)}
    assert len(work_dirs) == 3
    assert all(path.is_relative_to(folder / "work") for path in work_dirs)


def test_another_base_is_refused_also_where_experts_are_only_in_the_bucket(folder):
    published = f"PUBLISH_URL = '{folder / 'bucket'}'"
    run = make_run(folder, published)
    save(run, *TASKS)
    run.landing.finish(TASKS)
    (folder / "prompt_experts").rename(folder / "elsewhere")
    sample.edit_manifest(folder / "base", base_fingerprint="new")
    check_refused(folder, make_run(folder, published), "base_fingerprint: ")


@pytest.mark.slow
def test_another_expert_of_a_name_in_the_bucket_is_told_before_training(folder):
    run = make_run(folder, f"PUBLISH_URL = '{folder / 'bucket'}'")
    save(run, *TASKS)
    run.landing.finish(TASKS)
    run.plan()
    shutil.rmtree(run.expert_dir(SHORT))
    result = result_of(run, SHORT)
    reseeded = dataclasses.replace(result.manifest, seed=99)
    experts.save_expert(run.expert_dir(SHORT), result.params, reseeded)
    for act in (run.plan, run.run):
        with pytest.raises(errors.CheckpointError, match=f"{SHORT} in .*bucket"):
            act()
