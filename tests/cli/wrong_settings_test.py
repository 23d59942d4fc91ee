"""A wrong setting is told before anything is made, compiled or written."""

import pytest

from tasks import pocket
from tests.cli.failing import fail


@pytest.mark.parametrize(
    ("binding", "parts"),
    [
        ("TRAIN_STEP = 2", ["TRAIN_STEP", "mean: TRAIN_STEPS, "]),
        ("train.Train.train_step = 2", ["'train_step'", "mean: train_steps"]),
        ("train.Trian.train_steps = 2", ["'train.Trian'", "train.Train?"]),
        ("config.T5Config.emb_dims = 2", ["'emb_dims'", "Did you mean: emb_dim"]),
        ("train.Train.train_steps = %STEPS", ["no macro STEPS", "TRAIN_STEPS?"]),
        ("TRAIN_STEPS = [2", ["EOF"]),
        ("TRAIN_STEPS = 'many'", ["'many'", "int"]),
        ("TRAIN_STEPS = 2.5", ["train_steps = 2.5", "int"]),
        ("TRAIN_STEPS = 0", ["train_steps = 0", "at least 1"]),
        ("train.Train.dropout_rate = 2", ["dropout_rate = 2"]),
        ("options.Saving.keep_every_steps = 7", ["keep_every_steps = 7", "multiple"]),
        ("train.Train.kind = 'bass'", ["'bass'", "prompt"]),
        ("placement.Placement.axis_rules = 'dta'", ["'dta'", "Did you mean: data"]),
        (
            "placement.Placement.num_fsdp = 2",
            ["num_fsdp = 2", "'fsdp' or 'fsdp_model'"],
        ),
        ("config.T5Config.emb_dim = 'wide'", ["emb_dim = 'wide'"]),
        ("optimizers.AdamW.learning_rate = 'fast'", ["learning_rate = 'fast'"]),
        ("TASK_FEATURE_LENGTHS = 64", ["64", "TASK_FEATURE_LENGTHS"]),
        ("TASK_FEATURE_LENGTHS = {'inputs': 'a', 'targets': 3}", ["'a'"]),
        ("task_data.TaskData.vocabulary_path = 3", ["vocabulary_path = 3"]),
    ],
)
def test_a_wrong_name_or_value_is_told_before_anything_is_written(
    tmp_path, binding, parts
):
    message = fail(tmp_path, "pocket/base", binding)
    for part in parts:
        assert part in message
    assert not list(tmp_path.iterdir())


def test_a_batch_that_the_devices_do_not_divide_is_told_before_compiling(tmp_path):
    message = fail(tmp_path, "pocket/base", "BATCH_SIZE = 12")
    assert "12 rows for 8 devices" in message
    assert "Set BATCH_SIZE to 16" in message


def test_a_misspelt_file_has_near_names(tmp_path):
    assert "Did you mean: gin/pocket/base.gin" in fail(tmp_path, "pocket/bsae")


def test_a_vocabulary_larger_than_the_model_is_told(tmp_path):
    message = fail(tmp_path, "pocket/base", "config.T5Config.vocab_size = 100")
    assert f"{pocket.VOCABULARY.size} ids for a model with 100" in message


def test_a_missing_vocabulary_is_told_once(tmp_path):
    path = "task_data.TaskData.vocabulary_path = '/no/such.model'"
    assert "'/no/such.model'" in fail(tmp_path, "pocket/base", path)


def test_a_missing_library_is_named_with_the_binary_that_builds_it(tmp_path):
    message = fail(tmp_path, "pocket/retrieve")
    assert f"{tmp_path}/library" in message
    assert "elm_library" in message


def test_a_report_without_results_names_the_binary_that_writes_them(tmp_path):
    message = fail(tmp_path, "pocket/report")
    assert f"{tmp_path}/results.jsonl" in message
    assert "elm_eval" in message


def test_results_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    assert f"{tmp_path}/results.jsonl" in fail(tmp_path, "pocket/report")


def test_a_missing_t5x_checkpoint_is_named(tmp_path):
    message = fail(tmp_path, "t5/import_small", "T5X_PATH = '/no/t5x'")
    assert "no folder /no/t5x" in message
