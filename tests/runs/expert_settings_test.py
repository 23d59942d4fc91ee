import pytest

import tasks.pocket  # noqa: F401 - registers the tasks
from elm_jax import errors
from elm_jax.runs import expert_settings, task_data, train
from elm_jax.training import optimizers

TASKS = ("pocket_kinds_which_is", "pocket_notes_tell")
DATA = task_data.TaskData(
    vocabulary_path="unused", feature_lengths={"inputs": 8, "targets": 8}
)


def make_run(pattern="*_tell", optimizer=None, **settings):
    return train.Train(
        model_dir="unused",
        kind="prompt",
        expert_parts="norms",
        tasks=TASKS,
        data=DATA,
        optimizer=optimizer or optimizers.AdamW(),
        train_steps=5,
        batch_size=8,
        initial_checkpoint_path="base",
        per_expert={pattern: expert_settings.ExpertSettings(**settings)},
    )


def test_an_expert_has_its_own_settings_and_the_runs_others():
    run = make_run(train_steps=3, learning_rate=0.5, decay="constant")
    experts = run.spec().experts
    changed, unchanged = (experts[name] for name in TASKS[::-1])
    assert changed.train_steps == 3
    assert changed.optimizer == optimizers.AdamW(learning_rate=0.5, decay="constant")
    assert changed.random_seed == unchanged.random_seed == run.random_seed
    assert unchanged.optimizer == run.optimizer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_steps": 0}, "train_steps = 0"),
        ({"train_steps": "many"}, "train_steps = 'many'"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0"),
        ({"max_examples": -1}, "max_examples = -1"),
    ],
)
def test_a_wrong_value_is_told_with_its_pattern_when_the_run_is_made(settings, message):
    with pytest.raises(errors.ConfigError) as raised:
        make_run(**settings)
    assert f"per_expert['*_tell'].{message}" in str(raised.value)


def test_a_setting_that_the_optimiser_does_not_have_is_refused():
    run = make_run(optimizer=optimizers.Adafactor(), decay="linear")
    with pytest.raises(errors.ConfigError, match="settings that Adafactor has"):
        run.spec()


def test_a_pattern_that_fits_no_expert_is_refused():
    with pytest.raises(errors.ConfigError, match=r"kinds_\*"):
        expert_settings.check_patterns(
            {"kinds_*": expert_settings.ExpertSettings()}, TASKS
        )
