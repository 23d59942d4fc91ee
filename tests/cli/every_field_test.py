"""Every field of every run, and of the parts of runs, refuses what it cannot mean."""

import ast
import dataclasses
import math
import pathlib
import typing
from collections.abc import Mapping
from typing import Annotated

import pytest

from elm_jax import errors, fields, paths
from elm_jax.cli import gin_flags
from elm_jax.runs import train
from tests.cli import conftest as runs

ROOT = pathlib.Path(__file__).parents[2]


def plain_types(hint):
    """Yields the types in an annotation, those that carry a meaning as a pair."""
    if typing.get_origin(hint) is Annotated:
        plain, meaning = typing.get_args(hint)[:2]
        yield plain, meaning
    elif typing.get_args(hint) and typing.get_origin(hint) is not typing.Literal:
        for argument in typing.get_args(hint):
            yield from plain_types(argument)
    else:
        yield hint, None


def annotated(kind):
    """Every field of every part whose annotation has a meaning of a kind."""
    return [
        pytest.param(part, field.name, meaning, id=f"{part.__name__}.{field.name}")
        for part in runs.PARTS
        for field in fields.of(part)
        for _, meaning in plain_types(field.hint)
        if isinstance(meaning, kind)
    ]


def put(part, name, value):
    """Returns a part with another value in a field, or in all values of a mapping."""
    hint = {field.name: field.hint for field in fields.of(type(part))}[name]
    if typing.get_origin(hint) is tuple:
        value = (value,)
    if typing.get_origin(hint) is Mapping:
        is_tuple = typing.get_origin(typing.get_args(hint)[1]) is tuple
        value = (value,) if is_tuple else value
        value = dict.fromkeys(getattr(part, name) or ["a"], value)
    return dataclasses.replace(part, **{name: value})


def refusal(part, name, value):
    with pytest.raises(errors.ConfigError) as caught:
        fields.check(put(part, name, value))  # some are checked by the run alone
    message = str(caught.value)
    assert f"{type(part).__name__}.{name} = " in message
    assert "Expected: " in message
    return message


@pytest.mark.parametrize("part", runs.PARTS, ids=lambda part: part.__name__)
def test_every_number_declares_its_range(part):
    for field in fields.of(part):
        for plain, meaning in plain_types(field.hint):
            if plain in (int, float):
                assert isinstance(meaning, fields.Range), field.name


@pytest.mark.parametrize("part", runs.PARTS, ids=lambda part: part.__name__)
def test_every_text_that_is_named_like_a_path_declares_its_kind(part):
    for field in fields.of(part):
        if field.name.endswith(("_dir", "_path", "_paths", "_url")):
            for plain, meaning in plain_types(field.hint):
                assert plain is not str or isinstance(meaning, paths.Kind), field.name


def outside(limits, *, is_whole):
    """Yields numbers that a range just leaves out."""
    step = (lambda x, y: x + math.copysign(1, y)) if is_whole else math.nextafter
    if limits.least > -math.inf:
        below = limits.least if limits.is_open else step(limits.least, -math.inf)
        yield int(below) if is_whole else below
    if limits.most < math.inf:
        above = limits.most if limits.is_open_above else step(limits.most, math.inf)
        yield int(above) if is_whole else above
    if limits.also is not None:
        yield int(limits.also) - 1


@pytest.mark.slow
@pytest.mark.parametrize(("part", "name", "limits"), annotated(fields.Range))
def test_a_number_just_outside_of_its_range_is_refused_by_name(
    examples, part, name, limits
):
    hint = {field.name: field.hint for field in fields.of(part)}[name]
    is_whole = int in [plain for plain, _ in plain_types(hint)]
    odd = [*outside(limits, is_whole=is_whole), True, "3"]
    odd += [1.5] if is_whole else [math.nan, math.inf, -math.inf]
    for value in odd:
        message = refusal(examples[part], name, value)
        assert f"{limits}" in message, value


@pytest.mark.parametrize(("part", "name", "kind"), annotated(paths.Kind))
def test_a_path_that_cannot_be_is_refused_by_name(examples, part, name, kind):
    odd = [" ", "a\nb", "a\tb", "a\x1b[31mb", "a\x00b", "{MODEL_DRI}/a"]
    if kind.is_name:
        odd += ["a/b", "..", ".", ".a", "-a", "a b", "ü", "[/]x", "a*", "x" * 201]
    odd += [] if kind.may_be_empty else [""]
    for value in odd:
        refusal(examples[part], name, value)
    if kind.may_be_empty:
        assert not kind.wrong("")


@pytest.mark.parametrize(("part", "name", "kind"), annotated(paths.Kind))
def test_a_path_may_have_any_other_character(examples, part, name, kind):
    if kind.is_name:
        texts = ("a", "7b", "_x", "dream_v1.0-b", "mc4:en#2", "x" * 200)
    else:
        texts = ("a [x]*?", "~/a b", "a$b", "ü/東", "-a", "a:smile:")
    for text in texts:
        assert put(examples[part], name, text)


@pytest.mark.parametrize("run_type", runs.RUN_TYPES, ids=lambda run: run.__name__)
def test_paths_of_a_run_are_absolute_and_never_patterns(
    built_runs, run_type, tmp_path, monkeypatch
):
    home, working_dir = tmp_path / "ho[1]me", tmp_path / "he[1]re"
    working_dir.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(working_dir)
    built = built_runs[run_type]
    for model_dir, expected in (
        ("~/r [v2]", home / "r [v2]"),
        ("r[v2]*", working_dir / "r[v2]*"),
        ("/r?", pathlib.Path("/r?")),
        ("{PACKAGE}/r", ROOT / "r"),
    ):
        run = dataclasses.replace(built, model_dir=model_dir)
        assert run.path("{MODEL_DIR}/x") == expected / "x"
        assert run.place("{MODEL_DIR}/x") == f"{expected}/x"
        assert run.path("~/x") == home / "x"
        assert run.path("x[1]") == working_dir / "x[1]"
        assert run.place("") == ""
        assert run.place("gs://bucket/a") == "gs://bucket/a"


def test_an_empty_work_folder_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.ConfigError, match="model_dir = ''"):
        gin_flags.build_run(
            [train.Train],
            gin_files=["gin/pocket/base.gin"],
            bindings=["MODEL_DIR = ''"],
        )
    assert not list(tmp_path.iterdir())


def calls(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.slow
@pytest.mark.parametrize("room", ["elm_jax", "tasks"])
def test_one_file_alone_expands_paths_and_looks_for_patterns(room):
    odd = {"glob.glob", "glob.iglob", "os.path.expanduser", "os.path.expandvars"}
    for path in ROOT.glob(f"{room}/**/*.py"):
        if path.name != "paths.py":
            called = {c for c in calls(path) if c in odd or c.endswith(".expanduser")}
            assert not called, path


@pytest.mark.slow
def test_one_file_alone_makes_consoles():
    for path in ROOT.glob("elm_jax/**/*.py"):
        if path.name != "terminal.py":
            odd = {"rich.print", "Console", "rich.console.Console"}
            assert not odd.intersection(calls(path)), path
