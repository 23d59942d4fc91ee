"""Gin files and flags become runs, and every wrong name is told with a remedy."""

import importlib.util
import pathlib
import resource
import sys
from importlib.machinery import PathFinder

import pytest
from absl.testing import flagsaver

import elm_jax
from elm_jax import errors, paths
from elm_jax.cli import gin_flags, selectors
from elm_jax.disk import files
from elm_jax.runs import library

HEADER = """
from __gin__ import dynamic_registration
from elm_jax.runs import library
"""
GOOD = (
    HEADER
    + """
MODEL_DIR = %gin.REQUIRED
library.ListExperts.model_dir = %MODEL_DIR
library.ListExperts.library_dir = "{MODEL_DIR}/books"
"""
)


def build(tmp_path, text, *flags):
    path = tmp_path / "run.gin"
    path.write_text(text)
    arguments = gin_flags.rewrite_arguments(flags)
    return gin_flags.build_run(
        [library.ListExperts, library.BuildLibrary],
        gin_files=[str(path)],
        bindings=[a.removeprefix("--gin_bindings=") for a in arguments],
    )


def test_a_file_and_a_flag_build_a_run(tmp_path):
    run, _, operative = build(tmp_path, GOOD, "--gin.MODEL_DIR=/tmp/x")
    assert isinstance(run, library.ListExperts)
    assert str(run.path(run.library_dir)) == "/tmp/x/books"
    assert "library_dir = '{MODEL_DIR}/books'" in operative


def test_a_flag_overrides_the_file(tmp_path):
    flag = '--gin.library.ListExperts.library_dir="/elsewhere"'
    run, _, _ = build(tmp_path, GOOD, "--gin.MODEL_DIR=x", flag)
    assert run.library_dir == "/elsewhere"


@pytest.mark.parametrize(
    ("flag", "binding"),
    [
        ("--gin.A=3", "A = 3"),
        ("--gin.A=1e-4", "A = 1e-4"),
        ("--gin.A='x y'", "A = 'x y'"),
        ("--gin.A=runs/x", "A = 'runs/x'"),
        ("--gin.A=('a', 'b')", "A = ('a', 'b')"),
        ("--gin.A=%B", "A = %B"),
        ("--gin.a.B.c=@d.E()", "a.B.c = @d.E()"),
        ("--gin.A=None", "A = None"),
    ],
)
def test_values_are_literals_references_or_plain_strings(flag, binding):
    assert gin_flags.rewrite_arguments([flag]) == [f"--gin_bindings={binding}"]


def test_other_arguments_pass_unchanged():
    arguments = ["elm_train", "--dry_run", "--gin_file=a.gin"]
    assert gin_flags.rewrite_arguments(arguments) == arguments


@pytest.mark.parametrize(
    ("text", "flags", "names"),
    [
        (GOOD, [], ["MODEL_DIR", "--gin.MODEL_DIR=path"]),
        (
            GOOD,
            ["--gin.MODEL_DIRR=x", "--gin.MODEL_DIR=x"],
            ["MODEL_DIRR", "MODEL_DIR"],
        ),
        (GOOD, ["--gin.MODEL_DIR=3"], ["model_dir = 3", "str"]),
        (
            GOOD + "library.ListExperts.library_dirr = 'x'",
            ["--gin.MODEL_DIR=x"],
            ["library_dirr", "Did you mean: library_dir?"],
        ),
        (GOOD + "library.LstExperts.model_dir = 'x'", [], ["LstExperts"]),
        (GOOD + "NAME = ", [], ["run.gin"]),
        (GOOD + "import no.such.module", [], ["no"]),
        (GOOD + "include 'no/such.gin'", [], ["no/such.gin"]),
        (HEADER, [], ["no run", "ListExperts"]),
        (
            GOOD + "library.BuildLibrary.num_keys = 3",
            ["--gin.MODEL_DIR=x"],
            ["BuildLibrary", "exactly one"],
        ),
        (
            HEADER + "library.BuildLibrary.model_dir = 'x'",
            [],
            ["experts", "data"],
        ),
    ],
)
def test_wrong_configurations_name_what_is_wrong(tmp_path, text, flags, names):
    with pytest.raises(errors.ConfigError) as caught:
        build(tmp_path, text, *flags)
    message = str(caught.value)
    assert "Found:" in message
    assert "To do:" in message
    for name in names:
        assert name in message


def test_of_many_bindings_that_nothing_reads_the_first_are_told(tmp_path):
    flags = [f"--gin.MODEL_DIR{number:02}=x" for number in range(40)]
    with pytest.raises(errors.ConfigError) as caught:
        build(tmp_path, GOOD, "--gin.MODEL_DIR=x", *flags)
    message = str(caught.value)
    named = "nothing reads: MODEL_DIR00, MODEL_DIR01, MODEL_DIR02 and 37 more"
    assert named in " ".join(message.split())
    assert message.count("Did you mean") == 3
    assert len(message) < 600
    with pytest.raises(errors.ConfigError) as caught:
        build(tmp_path, GOOD, "--gin.MODEL_DIR=x", *flags[:3])
    assert "MODEL_DIR02" in str(caught.value)
    assert " more" not in str(caught.value)


class EditableFinder:
    """Finds the project's packages, as that of an editable install: after the path."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        del path, target
        init = paths.PACKAGE / name / "__init__.py"
        if name not in ("elm_jax", "tasks"):
            return None
        return importlib.util.spec_from_file_location(name, init)


@pytest.mark.parametrize("name", ["tasks", "elm_jax"])
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py", "{}/pocket.py"])
def test_a_users_package_never_wins_over_an_editable_install(
    tmp_path, monkeypatch, name, file
):
    # What another process finds that gets this one's path, as those that build caches.
    monkeypatch.chdir(tmp_path)
    files.write_text(tmp_path / file.format(name), "raise RuntimeError('not ours')\n")
    others = [p for p in sys.path if p and not pathlib.Path(p, "elm_jax").is_dir()]
    monkeypatch.setattr(sys, "path", others)
    monkeypatch.setattr(sys, "meta_path", [PathFinder, EditableFinder])
    build(tmp_path, GOOD, "--gin.MODEL_DIR=x")
    for ours in ("elm_jax", "tasks"):
        monkeypatch.delitem(sys.modules, ours, raising=False)
        spec = importlib.util.find_spec(ours)
        assert spec.origin == str(paths.PACKAGE / ours / "__init__.py")
    assert str(tmp_path) in sys.path


@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
@pytest.mark.parametrize(
    ("name", "line", "by"),
    [
        ("cmd", "import cmd", "cmd.py"),  # of Python
        ("yaml", "import yaml.nodes", "yaml"),  # installed
        ("sys", "import sys", "in the interpreter"),
        ("json", "from json import decoder", "json"),
        ("json", "from json import shoes", "json"),  # which it lacks
    ],
)
def test_a_users_module_that_another_hides_is_told(
    tmp_path, monkeypatch, file, name, line, by
):
    monkeypatch.setattr(sys, "path", [*sys.path])
    files.write_text(tmp_path / file.format(name), "")
    with pytest.raises(errors.ConfigError) as caught:
        build(tmp_path, f"{GOOD}{line}\n", "--gin.MODEL_DIR=x")
    message = str(caught.value)
    user_module = str(tmp_path / file.format(name)).removesuffix("/__init__.py")
    assert f"{user_module} is hidden by" in message
    assert by in message


def test_a_users_module_beside_folders_and_a_copy_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    files.write_text(tmp_path / "json/README.md", "no module")
    files.write_text(tmp_path / "of_mine_alone.py", "")
    files.write_text(tmp_path / "gin_folder/of_mine_alone.py", "")
    text = f"{GOOD}import json\nimport of_mine_alone\n"
    build(tmp_path / "gin_folder", text, "--gin.MODEL_DIR=x")
    # The current folder's, not the copy beside the gin file.
    assert sys.modules["of_mine_alone"].__file__ == str(tmp_path / "of_mine_alone.py")


@pytest.mark.parametrize(
    ("line", "raised"),
    [
        ("{}['such']", "KeyError: 'such'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("assert not 'so'", "AssertionError"),
        ("raise Exception('of mine')", "Exception: of mine"),
        ("open('no_file')", "FileNotFoundError: "),
    ],
)
def test_what_a_users_module_raises_is_told_with_its_line(
    tmp_path, monkeypatch, line, raised
):
    module = f"raising_{abs(hash(line))}"
    files.write_text(tmp_path / f"{module}.py", f"\n{line}\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(errors.ConfigError) as caught:
        build(tmp_path, f"{GOOD}import {module}\n", "--gin.MODEL_DIR=x")
    message = str(caught.value)
    assert f"Found: {raised}" in message
    assert f"{module}.py, line 2)" in message


def test_a_missing_file_lists_near_names():
    with pytest.raises(errors.ConfigError, match="no gin file 'gin/pockt/base.gin'"):
        gin_flags.build_run([library.ListExperts], gin_files=["gin/pockt/base.gin"])


def test_no_file_lists_a_few_of_the_binary_one_a_line():
    with pytest.raises(errors.ConfigError, match="no --gin_file") as caught:
        gin_flags.build_run([library.ListExperts], gin_files=[], binary="elm_library")
    of_binary = selectors.gin_files("elm_library ")
    *_, last = lines = str(caught.value).splitlines()
    shown = [line.strip() for line in lines if line.startswith("  ")]
    assert 3 < len(shown) < 10
    assert {*shown} < {*of_binary}
    assert shown[0].startswith("gin/pocket/")
    assert last == f"--help lists all {len(of_binary)}."
    with pytest.raises(errors.ConfigError, match="gin/pocket/base.gin\n"):
        gin_flags.build_run([library.ListExperts], gin_files=[])


@pytest.mark.parametrize("flag", ["--version", "-version"])
def test_a_binary_tells_its_version(monkeypatch, capsys, flag):
    monkeypatch.setattr(sys, "argv", ["elm_library", flag])
    with flagsaver.flagsaver():
        gin_flags.main("elm_library: lists", library.ListExperts)
    assert capsys.readouterr().out == f"elm_jax {elm_jax.__version__}\n"


def test_a_run_writes_down_its_configuration(tmp_path):
    run, bound, operative = build(tmp_path, GOOD, f"--gin.MODEL_DIR={tmp_path}")
    with pytest.raises(errors.LibraryError):  # there is no library to list
        run.start(config=bound, operative_config=operative)
    folder = tmp_path / "config"
    assert (folder / f"{run.name}.gin").read_text() == bound
    assert run.operative_config() == operative


def test_as_many_files_may_be_open_as_the_system_allows():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        gin_flags.allow_open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))
        assert hard == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
