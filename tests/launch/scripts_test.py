"""What all scripts that train on many machines have in common."""

import pytest

SETTINGS = {
    "gpu.sh": {"GPUS": "0,1"},
    "slurm.sh": {"SHARDS": "2"},
    "kubernetes.sh": {"SHARDS": "2", "IMAGE": "i", "CLAIM": "c"},
    "tpu_vm.sh": {
        "SHARDS": "2",
        "PROJECT": "p",
        "ZONE": "z",
        "ACCELERATOR_TYPE": "a",
        "RUNTIME_VERSION": "r",
    },
}
COMMAND = ("elm_train", "--gin_file=gin/t5/prompt_experts.gin", "--gin.X=it's")
MISSING = [
    (script, name)
    for script, settings in SETTINGS.items()
    for name in settings
    if (script, name) != ("tpu_vm.sh", "SHARDS")  # one VM by default
]


def action(script):
    return ("train",) if script == "tpu_vm.sh" else ()


@pytest.mark.parametrize("script", SETTINGS)
def test_help_tells_the_command_and_every_setting(machine, script):
    done = machine.run(script, "--help")
    assert done.returncode == 0
    assert f"bash launch/{script} [--dry_run]" in done.stdout
    assert "set -euo" not in done.stdout
    for name in SETTINGS[script]:
        assert name in done.stdout


@pytest.mark.parametrize(("script", "name"), MISSING)
def test_a_setting_that_is_missing_is_named(machine, script, name):
    settings = {n: v for n, v in SETTINGS[script].items() if n != name}
    arguments = ("--dry_run", *action(script), *COMMAND)
    done = machine.run(script, *arguments, **settings)
    assert done.returncode == 1
    assert name in done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "Found",
        "Expected",
        "To do",
    ]


@pytest.mark.parametrize("script", SETTINGS)
def test_a_command_that_is_missing_is_an_error(machine, script):
    done = machine.run(script, "--dry_run", *action(script), **SETTINGS[script])
    assert done.returncode == 1
    assert "no command" in done.stderr


@pytest.mark.parametrize("script", ["slurm.sh", "kubernetes.sh", "tpu_vm.sh"])
def test_a_number_of_shards_that_is_none_is_an_error(machine, script):
    settings = SETTINGS[script] | {"SHARDS": "0"}
    done = machine.run(script, "--dry_run", *action(script), *COMMAND, **settings)
    assert done.returncode == 1
    assert "SHARDS='0'" in done.stderr


@pytest.mark.parametrize("script", SETTINGS)
def test_a_dry_run_writes_nothing_and_keeps_the_words_of_the_command(machine, script):
    arguments = ("--dry_run", *action(script), *COMMAND)
    done = machine.run(script, *arguments, **SETTINGS[script])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "--gin_file=gin/t5/prompt_experts.gin" in done.stdout
    assert [path.name for path in machine.folder.iterdir()] == ["bin"]
