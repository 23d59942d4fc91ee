"""What only a program of its own shows: modules of the user's, locales, signals."""

import ast
import importlib.metadata
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from elm_jax.cli import selectors
from elm_jax.disk import files
from tests import readmes

pytestmark = pytest.mark.slow

ROOT = selectors.files_root()
LIST = """
from __gin__ import dynamic_registration

import my_tasks
from elm_jax.runs import tasks as task_runs

task_runs.ListTasks.model_dir = %MODEL_DIR
task_runs.ListTasks.tasks = "shoes_*"
task_runs.ListTasks.data_dir = "data"
"""


def start(binary, *arguments, cwd, **environment):
    command = [sys.executable, "-m", f"elm_jax.cli.elm_{binary}", *arguments]
    return begin(command, cwd, PYTHONPATH=str(ROOT), **environment)


def begin(command, cwd, **environment):
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def run(binary, *arguments, cwd, **environment):
    return ended(start(binary, *arguments, cwd=cwd, **environment))


def ended(process):
    with process:
        output, stderr = process.communicate(timeout=120)
    return process.returncode, output, stderr


def is_installed_from_here():
    origin = importlib.metadata.distribution("elm_jax").read_text("direct_url.json")
    return json.loads(origin or "{}").get("url") == ROOT.as_uri()


@pytest.fixture
def shoes(tmp_path):
    """The recipe of the README of tasks/, as printed, with rows for it."""
    for block in readmes.blocks(ROOT / "tasks" / "README.md"):
        if block.file:
            files.write_text(tmp_path / block.file, block.code)
    rows = [{"text": "Shoes no. 0 – fine", "label": n % 2} for n in range(304)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    files.write_text(tmp_path / "data/shoes/train.jsonl", lines)
    files.write_text(tmp_path / "mine.gin", LIST)
    return tmp_path


def test_the_recipe_for_a_task_works_as_printed(shoes):
    # The folder has a module `tasks` as well, which `python -m` finds before ours.
    files.write_text(shoes / "tasks.py", "raise RuntimeError('not ours')\n")
    status, output, stderr = run(
        "tasks", "--gin_file=mine.gin", "--gin.MODEL_DIR=out", cwd=shoes
    )
    assert (status, stderr.count(b"Traceback")) == (0, 0)
    assert b"Shoes no. 0" in output


@pytest.mark.skipif(
    not is_installed_from_here(), reason="the installed programs are of another folder"
)
def test_an_installed_program_has_its_own_tasks_beside_a_users(tmp_path):
    files.write_text(tmp_path / "tasks/own.py", "raise RuntimeError('not ours')\n")
    status, output, stderr = ended(
        begin(
            [
                pathlib.Path(sys.executable).with_name("elm_tasks"),
                *("--gin_file=gin/own/tasks.gin", "--gin.MODEL_DIR=out"),
                "--dry_run",
            ],
            tmp_path,
            PYTHONPATH="",
        )
    )
    assert status == 0, stderr
    assert b"own_" in output


def test_a_module_beside_the_gin_file_is_found_from_anywhere(shoes):
    (shoes / "elsewhere").mkdir()
    (shoes / "my_templates").rename(shoes / "elsewhere/my_templates")
    (shoes / "data").rename(shoes / "elsewhere/data")
    status, output, _ = run(
        "tasks",
        f"--gin_file={shoes}/mine.gin",
        "--gin.MODEL_DIR=out",
        cwd=shoes / "elsewhere",
        LC_ALL="C",  # a terminal of ASCII alone
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert status == 0
    assert b"Shoes no. 0 \\u2013 fine" in output


@pytest.mark.parametrize("module", ["tasks", "tasks.shoes"])
def test_a_hidden_module_of_the_users_is_told(shoes, module):
    files.write_text(shoes / "tasks.py", "")
    files.write_text(shoes / "mine.gin", LIST.replace("my_tasks", module))
    status, _, stderr = run(
        "tasks", "--gin_file=mine.gin", "--gin.MODEL_DIR=out", cwd=shoes
    )
    assert status == 1
    assert b"hidden by the project's own package 'tasks'" in stderr
    assert not (shoes / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--gin_file=mine.gin", "--gin.MODEL_DIR=out")],
    ids=("help", "tasks"),
)
def test_a_program_ends_in_silence_when_nobody_reads_on(shoes, arguments):
    with start("tasks", *arguments, cwd=shoes) as process:
        process.stdout.close()  # as `head` does
        stderr = process.stderr.read()
    assert process.returncode == 141
    assert b"Error" not in stderr


def test_a_name_that_the_locale_lacks_is_still_a_folder(shoes):
    status, output, stderr = run(
        "tasks",
        "--gin_file=mine.gin",
        "--gin.MODEL_DIR=läufe [1]",
        "--gin.task_runs.ListTasks.html_path={MODEL_DIR}/page.html",
        cwd=shoes,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert status == 0, stderr
    assert "Shoes no. 0 – fine" in (shoes / "läufe [1]/page.html").read_text("utf-8")
    assert list((shoes / "läufe [1]/config").iterdir())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_in_the_first_seconds_ends_the_program_at_once(
    tmp_path, number, status
):
    arguments = ["--gin_file=gin/pocket/base.gin", "--gin.MODEL_DIR=out"]
    with start("train", *arguments, cwd=tmp_path) as process:
        time.sleep(1.0)  # it is at its imports
        process.send_signal(number)
        begun = time.monotonic()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"{number.name}: leaving; what was saved is whole" in stderr.decode()
    assert b"Traceback" not in stderr
    assert time.monotonic() - begun < 5


def calls_without_encoding(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name, num_arguments = ast.unparse(node.func), len(node.args)
        if any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        first = ast.unparse(node.args[0]) if node.args else ""
        if name.endswith(".read_text") and num_arguments == 0:
            yield ast.unparse(node)
        if name.endswith(".write_text") and num_arguments < 2:
            yield ast.unparse(node)
        if name == "open" and not (
            num_arguments > 1 and "b" in ast.unparse(node.args[1])
        ):
            yield ast.unparse(node)
        if re.fullmatch(r"(self\.)?_?(path|file)\.open", name) and "b" not in first:
            yield ast.unparse(node)


@pytest.mark.parametrize("room", ["elm_jax", "tasks", "launch"])
def test_every_text_file_is_opened_as_utf_8(room):
    for path in (pathlib.Path(__file__).parents[2] / room).rglob("*.py"):
        assert not list(calls_without_encoding(path)), path
