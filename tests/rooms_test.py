"""Every import in the project obeys the table of rooms."""

import ast
import functools
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

from tests import readmes

ROOT = pathlib.Path(__file__).parents[1]
GROUND = {
    f"elm_jax.{name}"
    for name in (
        *("types", "errors", "trees", "paths", "fields", "printing"),
        *("disk", "limits", "float32_sums", "parameters", "expert_kinds"),
    )
}
ROOMS = (
    *("data", "model", "peft", "partitioning", "training", "checkpoints"),
    *("merging", "library", "routing", "evaluation", "reporting"),
    "compiling",
)
# Besides ground files and the room itself.
ALLOWED = {
    **{room: set() for room in ROOMS},
    "partitioning": {"elm_jax.peft.adapters"},
    "training": {"elm_jax.partitioning"},
    "checkpoints": {"elm_jax.partitioning"},
    "library": {"elm_jax.checkpoints"},
    "routing": {"elm_jax.peft"},
    "reporting": {"elm_jax.evaluation.results", "elm_jax.evaluation.row_columns"},
    "runs": {f"elm_jax.{room}" for room in ROOMS},
    "api": {f"elm_jax.{room}" for room in (*ROOMS, "runs")},
    "cli": {"elm_jax.runs", "elm_jax.training.signals"},
    "tasks": {"elm_jax.data", "elm_jax.evaluation.metrics", "tasks"},
}
# They tell what was done to a thing, or where it lies, and not what it is.
VAGUE = {
    *("asked", "found", "given", "here", "kept", "known", "made", "mine", "one"),
    *("own", "taken", "theirs", "there", "told", "wanted"),
}
DATA_LIBRARIES = {"seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text"}


TESTS = sorted(ROOT.glob("tests/**/*.py"))


def source_files():
    return sorted([*ROOT.glob("elm_jax/**/*.py"), *ROOT.glob("tasks/**/*.py")])


@functools.cache
def names_of(path):
    """What a file imports, `from a import b` as `a.b`; and what else it gives names.

    These are variables, arguments, attributes, functions and methods.
    """
    imported, named = [], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        named.update(bound_names(node))
    return imported, named


def bound_names(node):
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.arguments():
            # `found=`, by name alone, is what errors tell first.
            yield from {arg.arg for arg in node.kwonlyargs} - {"found"}
            rest = (*node.posonlyargs, *node.args, node.vararg, node.kwarg)
            yield from (arg.arg for arg in rest if arg is not None)


def imported_names(path):
    return names_of(path)[0]


def vague_names(path):
    return sorted(name for name in names_of(path)[1] if name.strip("_") in VAGUE)


def vague_names_of_script(path):
    """The same of JavaScript, without its comments and the texts of its strings."""
    code = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.DOTALL)
    code = re.sub(r"//.*|\"[^\"\n]*\"", "", code)
    code = re.sub(r"`[^`]*`", lambda s: " ".join(re.findall(r"\${.*?}", s[0])), code)
    return sorted(VAGUE & {*re.findall(r"\w+", code)})


def room_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "elm_jax" and len(parts) > 2 else parts[0]


def within(name, packages):
    return any(name == p or name.startswith(f"{p}.") for p in packages)


BY_ROOM = pytest.mark.parametrize(
    "room", sorted({room_of(path) for path in source_files()})
)


def files_of(room):
    return [path for path in source_files() if room_of(path) == room]


@BY_ROOM
def test_imports_obey_the_table_of_rooms(room):
    for path in files_of(room):
        ours = [n for n in imported_names(path) if within(n, ["elm_jax", "tasks"])]
        allowed = GROUND | {"elm_jax.__version__"} | ALLOWED.get(room, set())
        if path == ROOT / "elm_jax" / "__init__.py":  # the names of the public surface
            allowed = {"elm_jax.api", "elm_jax.runs.loaded"}
        if room not in ("elm_jax", "tasks"):  # the ground files have no room
            allowed = allowed | {f"elm_jax.{room}"}
        assert not [name for name in ours if not within(name, allowed)], path


def imports_of_files():
    """The files that each file imports, also under TYPE_CHECKING and in functions."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in source_files()
    }

    def module_of(name):
        while name and name not in modules:  # `a.b` names b in a, or a file of its own
            name = name.rpartition(".")[0]
        return name

    return {
        module: {module_of(name) for name in imported_names(path)} - {""}
        for module, path in modules.items()
    }


def test_no_files_import_each_other_in_a_circle():
    """Of all rooms, and of ground files: a reader follows imports downwards only."""
    order = [*graphlib.TopologicalSorter(imports_of_files()).static_order()]
    assert order.index("elm_jax.errors") < order.index("elm_jax.runs.train")


def test_a_circle_would_be_found(monkeypatch, tmp_path):
    for name, imported in (("one", "two"), ("two", "one")):
        text = f"if TYPE_CHECKING:\n    from elm_jax import {imported}\n"
        (tmp_path / "elm_jax").mkdir(exist_ok=True)
        (tmp_path / "elm_jax" / f"{name}.py").write_text(text)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(graphlib.CycleError, match=r"elm_jax\.one"):
        graphlib.TopologicalSorter(imports_of_files()).prepare()


def test_nothing_below_a_training_sees_it():
    below = [*ROOT.glob("elm_jax/runs/training/*.py"), *ROOT.glob("elm_jax/training/*")]
    for path in below:
        if path.suffix == ".py":
            assert "elm_jax.runs.train" not in set(imported_names(path)), path


def test_only_the_run_of_a_training_and_compiling_see_its_parts():
    others = {
        path
        for path in ROOT.glob("elm_jax/runs/**/*.py")
        if path.parent.name not in ("training", "compiling") and path.name != "train.py"
    }
    for path in others:
        names = imported_names(path)
        assert not [n for n in names if within(n, ["elm_jax.runs.training"])], path


@BY_ROOM
def test_only_data_and_tasks_import_seqio_or_tensorflow(room):
    if room not in ("data", "tasks"):
        for path in files_of(room):
            names = imported_names(path)
            assert not [n for n in names if within(n, DATA_LIBRARIES)], path


@BY_ROOM
def test_only_the_flags_file_imports_gin(room):
    for path in files_of(room):
        if path.name != "gin_flags.py":
            gin_names = [n for n in imported_names(path) if within(n, ["gin"])]
            # T5X's settings are parsed as gin's files are; the parser binds nothing.
            parser = ["gin.config_parser"] if path.name == "t5x_config.py" else []
            assert gin_names == parser, path


def test_the_gin_folder_holds_no_python():
    assert not list((ROOT / "gin").glob("**/*.py"))


def test_no_file_is_a_drawer():
    drawers = {"utils", "util", "common", "helpers", "misc", "base"}
    assert not [path for path in source_files() if path.stem in drawers]


def test_files_stay_small():
    for path in (*source_files(), *TESTS):
        folder, room = path.relative_to(ROOT).parts[:2]
        is_large_room = folder == "elm_jax" and room in ("runs", "merging")
        most = 300 if is_large_room else 400
        assert len(path.read_text("utf-8").splitlines()) <= most, path


def test_variables_and_functions_are_named_for_what_they_are():
    for path in (*source_files(), *ROOT.glob("launch/*.py")):
        assert not vague_names(path), path


def test_variables_and_functions_of_scripts_are_named_for_what_they_are():
    paths = [*ROOT.glob("elm_jax/**/*.js")]
    assert paths
    for path in paths:
        assert not vague_names_of_script(path), path


@pytest.mark.parametrize(
    "line",
    [
        *("const one = 1;", "this.found = 1;", "(one) => 1", "function f(told) {}"),
        *("const { line: own } = a;", "`${told.length} of`", 'f("a", one); // b'),
    ],
)
def test_a_vague_name_in_a_script_would_be_found(tmp_path, line):
    path = tmp_path / "file.js"
    path.write_text(f'/** One is found here. */\n{line}\n// own\nf(`the one`, "one");')
    assert len(vague_names_of_script(path)) == 1


@pytest.mark.slow
def test_variables_and_functions_of_tests_are_named_for_what_they_are():
    for path in TESTS:
        assert not vague_names(path), path


@pytest.mark.parametrize(
    "line",
    [
        *("told = 1", "for told in (): pass", "[told for told in ()]", "a.told = 1"),
        *("def told(): pass", "lambda told: 0", "def f(*, told): pass", "_told = 1"),
        *("def f(*told): pass", "def f(**told): pass", "with a as told: pass"),
        *("import a as told", "if told := a: pass", "told: int = 0", "told += 1"),
        *("class A:\n    told = 1", "def f(told=0): pass", "async def told(): pass"),
        "try: pass\nexcept A as told: pass",
    ],
)
def test_a_vague_name_would_be_found(tmp_path, line):
    path = tmp_path / "file.py"
    path.write_text(line)
    (name,) = vague_names(path)
    assert name.strip("_") == "told"


@pytest.mark.parametrize(
    "line", ["print(a.told)", "f(told=1)", "def f(*, found): pass"]
)
def test_a_name_of_others_may_be_vague(tmp_path, line):
    (tmp_path / "file.py").write_text(line)
    assert not vague_names(tmp_path / "file.py")


@pytest.mark.slow
def test_no_module_of_tests_is_a_library_for_others():
    """What several of them use lies in a module without tests, or in a conftest."""
    for path in TESTS:
        parts = [part for name in imported_names(path) for part in name.split(".")]
        assert not [part for part in parts if part.endswith("_test")], path


@pytest.mark.slow
def test_runs_import_without_tensorflow():
    code = (
        "import sys, pkgutil, importlib, elm_jax.runs as runs\n"
        "for m in pkgutil.walk_packages(runs.__path__, 'elm_jax.runs.'):\n"
        "    importlib.import_module(m.name)\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in "
        "('tensorflow', 'seqio', 'torch')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_readme_of_the_code_has_the_same_table():
    text = (ROOT / "elm_jax" / "README.md").read_text("utf-8")
    ground = text[text.index("The ground is") : text.index("| room |")]
    names = re.findall(r"`(\w+)(?:\.py|/)`", ground)
    assert {f"elm_jax.{name}" for name in names} == GROUND
    allowed = {}
    for room, _, imports in readmes.table_after(text, "## Rooms"):
        names = re.findall(r"`([\w/]+?)(?:\.py|/)`", imports)
        rooms = {f"elm_jax.{name.replace('/', '.')}" for name in names}
        if imports == "all rooms above":
            rooms = {f"elm_jax.{name}" for name in allowed}
        allowed[room.strip("`/")] = rooms
    assert allowed == {room: ALLOWED[room] for room in ALLOWED if room != "tasks"}
