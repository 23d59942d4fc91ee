"""What `.ci/run` tests, on a machine with stand-ins for Pythons and for the tests."""

import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Answers as a Python of another version.
PYTHON = """
case "$*" in
  -c*) exec "{real}" -c "import sys; sys.version_info = (3, {minor}, 1)
sys.executable = '$0'
$2" ;;
  --version) echo "Python 3.{minor}.1" ;;
esac
"""
TESTS = """
cd "$(dirname "$0")/.."
echo "$PWD ${PYTHON:-none} ${ELM_NEEDS_COMPILERS:-0} $*" >> "$TOLD"
exit "${STATUS:-0}"
"""


@pytest.fixture
def ci(machine):
    """Runs a copy of `.ci/run`, whose environment has Python 3.`installed`."""

    def run(installed, *arguments, minors, **settings):
        folder = machine.folder / "tree"
        for name, text in {
            "launch/test.sh": TESTS,
            ".venv/bin/python": PYTHON.format(real=sys.executable, minor=installed),
            "elm_jax/runs/run.py": "",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}", "utf-8")
            (folder / name).chmod(0o755)
        (folder / ".ci").mkdir(exist_ok=True)
        script = shutil.copy(ROOT / ".ci/run", folder / ".ci")
        for minor in range(11, 14):
            is_here = minor in minors
            text = PYTHON.format(real=sys.executable, minor=minor)
            machine.add_program(f"python3.{minor}", text if is_here else "exit 127")
        settings = {"PYENV_ROOT": machine.folder / "pyenv", **settings}
        settings["TOLD"] = machine.folder / "told"
        return machine.run(script, *arguments, **settings)

    return run


@pytest.mark.parametrize(
    ("installed", "minors", "second"),
    [
        (11, (11, 12, 13), "3.13"),
        (11, (11, 12), "3.12"),
        (13, (11, 12, 13), "3.11"),
        (12, (11, 12), "3.11"),
    ],
)
def test_the_fast_tests_run_on_a_python_of_the_other_lock(
    ci, machine, installed, minors, second
):
    done = ci(installed, minors=minors)
    assert (done.returncode, done.stderr) == (0, "")
    first, again = (line.split() for line in machine.lines("told"))
    assert first == [str(machine.folder / "tree"), "none", "1"]
    folder, python, needs, flag = again
    assert folder != first[0]
    assert not pathlib.Path(folder).exists()  # the copy is gone
    assert python == str(machine.folder / "bin" / f"python{second}")
    assert (needs, flag) == ("0", "--fast")
    assert f"ci: the fast tests on Python {second}.1" in done.stdout


@pytest.mark.parametrize(
    ("minors", "settings"), [((11,), {}), ((11, 13), {"ELM_ONE_PYTHON": 1})]
)
def test_on_one_python_only_the_whole_suite_runs(ci, machine, minors, settings):
    done = ci(11, minors=minors, **settings)
    assert done.returncode == 0
    assert len(machine.lines("told")) == 1
    assert "ci: done, on one Python (3.11)" in done.stdout


def test_what_fails_on_the_first_python_is_not_tried_on_the_second(ci, machine):
    assert ci(11, minors=(11, 13), STATUS=3).returncode == 3
    assert len(machine.lines("told")) == 1


def test_the_second_python_is_told_without_a_test(ci, machine):
    done = ci(11, "--second_python", minors=(11, 13))
    assert done.stdout == f"{machine.folder}/bin/python3.13\n"
    assert machine.lines("told") == []
