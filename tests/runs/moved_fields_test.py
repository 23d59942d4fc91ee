"""Fields that have moved into parts of a run are still read by their old names."""

import ast
import dataclasses

import pytest

from elm_jax import errors
from elm_jax.cli import gin_flags
from elm_jax.runs import evaluate, moved_fields, placement, train
from elm_jax.runs.training import options

PROMPT_EXPERTS = "gin/pocket/prompt_experts.gin"
EVALUATION = "gin/pocket/evaluate.gin"
SPLIT = ("placement.Placement.axis_rules = 'fsdp_model'",)
# By old name: a value, and what else has to be said for it to make sense.
OF_TRAIN = {
    "max_examples": ("7", ()),
    "num_shapes": ("9", ()),
    "pack": ("True", ()),
    "axis_rules": ("'fsdp'", ()),
    "num_fsdp": ("4", SPLIT),
    "num_model": ("2", SPLIT),
    "fleet_size": ("0", ()),
    "fleet_lanes": ("2", ()),
    "device_memory_gib": ("1.5", ()),
    "save_every_steps": ("7", ()),
    "keep_last": ("3", ()),
    "keep_every_steps": ("14000", ()),
    "stop_grace_secs": ("2.5", ()),
    "resume_changed_config": ("True", ()),
    "log_every_steps": ("7", ()),
    "profile_steps": ("(2, 4)", ()),
    "experts_dir": ("'elsewhere'", ()),
    "expert_name": ("'mine'", ()),
    "publish_url": ("'gs://bucket/path'", ()),
    "library_dir": ("'library'", ()),
}
OF_EVALUATE = {name: case for name, case in OF_TRAIN.items() if name in placement.MOVED}
CASES = [
    *((train.Train, PROMPT_EXPERTS, name, *case) for name, case in OF_TRAIN.items()),
    *((evaluate.Evaluate, EVALUATION, n, *case) for n, case in OF_EVALUATE.items()),
]


def build(run_type, file, *bindings):
    moved_fields._tell.cache_clear()
    run, *_ = gin_flags.build_run(
        [run_type], gin_files=[file], bindings=["MODEL_DIR = 'x'", *bindings]
    )
    return run


def test_every_moved_field_is_tried():
    assert set(OF_TRAIN) == set(options.MOVED)
    assert set(OF_EVALUATE) == set(placement.MOVED)


@pytest.mark.parametrize(("run_type", "file", "old", "value", "also"), CASES)
def test_an_old_name_builds_the_run_of_its_new_name_and_tells_it_once(
    capsys, run_type, file, old, value, also
):
    name = f"{run_type.__module__.rpartition('.')[2]}.{run_type.__name__}"
    new = options.MOVED[old]
    run = build(run_type, file, *also, f"{name}.{old} = {value}")
    output = capsys.readouterr().err
    part, _, field = new.partition(".")
    part_name = type(getattr(run, part))
    full = f"{part_name.__module__.rpartition('.')[2]}.{part_name.__name__}.{field}"
    assert output.count(f"{name}.{old} is now {full} ") == 1
    plain = build(run_type, file, *also)
    changed = {field: ast.literal_eval(value)}
    changed = {part: dataclasses.replace(getattr(plain, part), **changed)}
    assert run == dataclasses.replace(plain, **changed) != plain
    capsys.readouterr()
    dataclasses.replace(run)
    assert capsys.readouterr().err == ""  # a run that was built has no old names


@pytest.mark.parametrize("run_type", [train.Train, evaluate.Evaluate])
def test_a_wrong_value_under_an_old_name_is_refused_by_its_new_one(run_type):
    file = PROMPT_EXPERTS if run_type is train.Train else EVALUATION
    name = f"{run_type.__module__.rpartition('.')[2]}.{run_type.__name__}"
    with pytest.raises(errors.ConfigError, match=r"Placement.num_model = 0"):
        build(run_type, file, f"{name}.num_model = 0")


def test_a_file_that_names_no_part_is_read_with_old_names(tmp_path):
    path = tmp_path / "old.gin"
    path.write_text(
        "from __gin__ import dynamic_registration\n"
        "from elm_jax.runs import evaluate\n"
        "from elm_jax.runs import task_data\n"
        "evaluate.Evaluate:\n"
        "  model_dir = %MODEL_DIR\n"
        "  data = @task_data.TaskData()\n"
        "  initial_checkpoint_path = 'base'\n"
        "  axis_rules = 'fsdp'\n"
        "  num_fsdp = -1\n"
        "task_data.TaskData.feature_lengths = {'inputs': 8, 'targets': 8}\n"
        "task_data.TaskData.vocabulary_path = 'bytes'\n"
    )
    run = build(evaluate.Evaluate, str(path))
    assert run.placement == placement.Placement(axis_rules="fsdp", num_fsdp=-1)


def test_a_name_that_never_was_is_refused_as_before():
    with pytest.raises(errors.ConfigError, match="num_fdsp"):
        build(train.Train, PROMPT_EXPERTS, "train.Train.num_fdsp = 2")
    with pytest.raises(TypeError, match="num_fdsp"):
        evaluate.Evaluate(num_fdsp=2)


def test_a_training_has_at_most_fifteen_fields_beside_its_parts():
    parts = {new.partition(".")[0] for new in options.MOVED.values()}
    names = {field.name for field in dataclasses.fields(train.Train)} - {"model_dir"}
    assert parts <= names
    assert len(names - parts) <= 15
