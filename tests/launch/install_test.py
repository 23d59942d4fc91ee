"""What `install.sh` installs, on a machine with stand-ins for Pythons."""

import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COPIED = ("launch/install.sh", "requirements.lock", "requirements-newest.lock")

# Answers as a Python of another version, makes environments of itself, and keeps the
# list of pins that pip is asked to install.
PYTHON = """
case "$*" in
  -c*) exec "{real}" -c "import sys; sys.version_info = (3, {minor}, 1); $2" ;;
  --version) echo "Python 3.{minor}.1" ;;
  *venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *" -r "*) cat "${{@: -1}}" > pins ;;
esac
"""
NO_PYTHON = 'echo "$0: not chosen in this folder" >&2; exit 127'


@pytest.fixture
def install(machine):
    """Installs a copy of the project where only the named Pythons work."""
    for name in (*COPIED, "setup.py"):
        target = machine.folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target)

    def run(*arguments, minors, **settings):
        for name in ("python3", *(f"python3.{minor}" for minor in range(10, 15))):
            machine.add_program(name, NO_PYTHON)
        for minor in minors:
            text = PYTHON.format(real=sys.executable, minor=minor)
            machine.add_program(f"python3.{minor}", text)
        script = machine.folder / "launch/install.sh"
        return machine.run(script, *arguments, **settings)

    return run


@pytest.mark.parametrize(
    ("minors", "minor", "lock"),
    [
        ((11, 12, 13), 13, "requirements-newest.lock"),
        ((11, 12), 12, "requirements-newest.lock"),
        ((11, 14), 11, "requirements.lock"),
    ],
)
def test_the_newest_supported_python_is_taken_and_told(
    install, machine, minors, minor, lock
):
    done = install(minors=minors)
    assert (done.returncode, done.stderr) == (0, "")
    pins = (ROOT / lock).read_text("utf-8")
    count = sum("==" in line for line in pins.splitlines())
    assert (
        f"with Python 3.{minor}.1 and {count} pinned packages of {lock}" in done.stdout
    )
    assert machine.lines("pins") == pins.splitlines()


def test_a_python_that_is_named_is_taken_although_there_is_a_newer_one(install):
    done = install(minors=(11, 13), PYTHON="python3.11")
    assert "with Python 3.11.1 and" in done.stdout
    assert "requirements.lock" in done.stdout


def test_without_tensorflow_only_what_runs_need_is_installed(install, machine):
    install("--without_tensorflow", minors=(13,))
    pins = "\n".join(machine.lines("pins"))
    assert "jax==" in pins
    assert "seqio" not in pins
    assert "minilm" not in pins
    assert "pytest" not in pins


@pytest.mark.slow
def test_the_second_time_nothing_is_done_until_the_python_or_the_pins_change(install):
    assert "install: done" in install(minors=(12,)).stdout
    again = install(minors=(12,))
    assert again.stdout == "install: .venv is up to date (Python 3.12)\n"
    assert "install: done" in install("--without_tensorflow", minors=(12,)).stdout
    assert "install: done" in install(minors=(12, 13)).stdout


@pytest.mark.parametrize(
    ("minors", "settings", "versions"),
    [
        ((10, 14), {}, "no Python of a supported version."),
        ((10, 13), {"PYTHON": "python3.10"}, "(python3.10)."),
    ],
)
def test_without_a_supported_python_the_versions_are_told(
    install, machine, minors, settings, versions
):
    done = install(minors=minors, **settings)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Found: ")
    assert lines[0].endswith(versions)
    assert lines[1] == "Expected: Python 3.11, 3.12 or 3.13."
    assert lines[2].startswith("To do: ")
    assert not (machine.folder / ".venv").exists()


def test_an_environment_of_another_checkout_is_not_emptied_through_a_link(
    install, machine
):
    another = machine.folder / "other"
    (another / "bin").mkdir(parents=True)
    (machine.folder / ".venv").symlink_to(another)
    done = install(minors=(11,))
    assert done.returncode == 1
    assert f".venv is a link to {another}" in done.stderr
    assert (another / "bin").is_dir()
