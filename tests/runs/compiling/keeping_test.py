"""Programs are kept for devices that need not be here, and a run takes them."""

import dataclasses
import functools
import json
import sys
import types
import warnings
import zlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from elm_jax import errors
from elm_jax.cli import compile_flag, gin_flags
from elm_jax.compiling import targets, topology
from elm_jax.runs import evaluate, train
from elm_jax.runs.compiling import (
    compile_for,
    compiler,
    keeping,
    of_runs,
    programs,
    result,
)
from tests.runs.compiling import compilers, tiny
from tests.runs.compiling.built import SMALL, build
from tests.runs.shapes import SHAPE

PROMPT, DATASET = "gin/t5/prompt_experts.gin", "gin/t5/dataset_experts.gin"
FEW = ("TRAIN_STEPS = 2", "BATCH_SIZE = 8")
EXPERTS = (
    "MIXTURE_OR_TASK_NAME = ('pocket_kinds_which_is', 'pocket_notes_tell')",
    "options.Batching.num_shapes = 2",
)
SERIAL = (*EXPERTS, "options.Fleet.lanes = 1")
STEPS = ("jit_take_step", "jit__one_after_another", "jit__as_one_batch")
SIDE_BY_SIDE = (
    *(*EXPERTS, "options.Fleet.lanes = 2"),
    "options.Results.experts_dir = '{MODEL_DIR}/side_by_side'",
)


@pytest.fixture
def jax_settings():
    """Lets JAX keep programs afterwards where and how it did before."""
    names = ("jax_compilation_cache_dir", *keeping._SETTINGS)
    names += ("jax_persistent_cache_min_compile_time_secs",)
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def pocket(folder, kind, *bindings):
    return gin_flags.build_run(
        (train.Train,),
        gin_files=[f"gin/pocket/{kind}.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", *FEW, *bindings],
    )


def start(built):
    run, bound, operative = built
    run.start(config=bound, operative_config=operative)


def devices_here():
    count = jax.device_count()
    return targets.Target(
        name="here",
        platform="cpu",
        chip="cpu",
        topology="",
        num_devices=count,
        devices_per_host=count,
        memory_bytes=2**40,
        peak_flops=1.0,
        bandwidth=1.0,
        link_bandwidth=1.0,
    )


def keep(run, folder):
    """Compiles a run's programs by shapes alone, as for devices that are not here."""
    planned = of_runs.planned(run, devices_here(), None, all_lengths=True)
    jax.clear_caches()  # as in a process of its own
    with keeping.into(f"{folder}") as kept_names:
        for each in planned:
            programs.lower(each.program, jax.devices()).compile()
    return planned, kept_names


def steps_in(folder):
    """Returns the programs of steps in a folder of programs."""
    return {path.name for path in folder.glob("*-cache") if path.name.startswith(STEPS)}


@pytest.mark.slow
@pytest.mark.usefixtures("jax_settings")
def test_a_run_compiles_no_step_that_was_kept_for_its_devices(tmp_path):
    for kind, bindings, step, count in (
        ("base", SHAPE, STEPS[0], 1),
        ("prompt_experts", SERIAL, STEPS[1], 2),
        ("prompt_experts", SIDE_BY_SIDE, STEPS[2], 2),
    ):
        built, folder = pocket(tmp_path, kind, *bindings), tmp_path / "of" / step
        planned, kept_names = keep(built[0], folder)
        lengths = {each.program.batch for each in planned}
        assert len(kept_names) == len(planned) == len(lengths) == count
        assert steps_in(folder) == {*kept_names}
        assert all(name.startswith(step) for name in kept_names)
        # A folder that was moved is as good: it is not part of what decides a program.
        moved = folder.rename(folder.with_name(f"moved_{step}"))
        jax.clear_caches()
        with keeping.using(moved) as tally:
            start(built)
        assert tally.num_taken >= count
        assert steps_in(moved) == {*kept_names}
        # Others were kept meanwhile.
        assert len([*moved.glob("*-cache")]) > len(kept_names)


@pytest.mark.usefixtures("jax_settings")
def test_nothing_is_kept_outside_of_the_context(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    with keeping.into("") as kept_names:
        assert jax.config.jax_compilation_cache_dir == before
    assert kept_names == []
    with keeping.into(f"{tmp_path / 'new'}") as kept_names:
        jax.jit(lambda x: x + tmp_path.stat().st_ino).lower(1.0).compile()
    assert jax.config.jax_compilation_cache_dir == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == kept_names != []


@pytest.mark.parametrize(
    ("run_type", "file", "target", "message", "do"),
    [
        (train.Train, DATASET, "h100", "tries kernels on the card", "=DIR alone keeps"),
        (
            evaluate.Evaluate,
            *("gin/t5/evaluate.gin", "v5litepod-4"),
            *("lengths of their", "=DIR alone keeps"),
        ),
        (
            train.Train,
            *(PROMPT, "v5litepod-16"),
            *("a fleet on the 4 hosts", "each host compiles its own"),
        ),
    ],
)
def test_programs_that_no_run_would_find_are_refused(
    run_type, file, target, message, do
):
    run, _ = build(run_type, file, SMALL)
    with pytest.raises(errors.ConfigError, match=message) as caught:
        compile_for.compile_run(run, target, keep_in="programs")
    assert do in str(caught.value)


def test_recomputation_is_fitted_into_a_memory_that_both_runs_know(
    monkeypatch, tmp_path
):
    fit, said = "config.Execution.remat = 'fit'", "options.Fleet.device_memory_gib = 14"
    monkeypatch.setattr(compile_for, "_outcomes", lambda *_: [])
    monkeypatch.setattr(topology, "check_installed", lambda target: None)
    files = (DATASET, SMALL, "gin/parts/execution.gin")
    keep = functools.partial(compile_for.compile_run, keep_in=f"{tmp_path}")
    alone, _ = build(train.Train, *files, bindings=[fit])
    both, _ = build(train.Train, *files, bindings=[fit, said])
    with pytest.raises(errors.ConfigError, match="Set options.Fleet.device_memory_gib"):
        keep(alone, "v5litepod-4")
    assert keep(both, "v5litepod-4") == []


@pytest.mark.usefixtures("jax_settings")
def test_programs_are_kept_whatever_variables_say_of_other_caches(tmp_path):
    for name, value in (
        ("jax_enable_compilation_cache", False),
        ("jax_persistent_cache_min_entry_size_bytes", 2**40),
        ("jax_compilation_cache_max_size", 0),
    ):
        jax.config.update(name, value)
        with keeping.into(f"{tmp_path / name}") as kept_names:
            jax.jit(lambda x: x - tmp_path.stat().st_ino).lower(1.0).compile()
        assert len(kept_names) == 1
        assert getattr(jax.config, name) == value
        keeping.use(tmp_path / "used")
        assert getattr(jax.config, name) != value


def compile_anew(number):
    """Compiles a program as a new process would, by the number in it."""
    jax.clear_caches()
    return jax.jit(lambda x: x * number).lower(1.0).compile()


@pytest.mark.slow
@pytest.mark.usefixtures("jax_settings")
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_program_that_was_written_to_no_end_is_compiled_and_kept_anew(
    capsys, tmp_path, left
):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    number = tmp_path.stat().st_ino
    with keeping.using(tmp_path) as tally:
        compile_anew(number)
    [entry] = tmp_path.glob("*-cache")
    whole = entry.read_bytes()
    assert (tally.num_taken, tally.num_asked) == (0, 1)
    assert tally.compile_secs > 0
    entry.write_bytes(whole[: int(left * len(whole))])
    printed = capsys.readouterr().out
    assert printed.startswith("programs: 0 taken, 1 compiled (")
    for num_taken in (0, 1):  # the first finds nothing, and the second what that kept
        with warnings.catch_warnings(), keeping.using(tmp_path) as tally:
            warnings.simplefilter("error")  # JAX warns of what it cannot read
            compile_anew(number)
        assert (tally.num_taken, tally.num_asked) == (num_taken, 1)
        printed = capsys.readouterr().out
        assert (f"unfinished program {entry.name}" in printed) == (not num_taken)
        assert f"programs: {num_taken} taken, {1 - num_taken} compiled (" in printed
    assert [path.name for path in tmp_path.glob("*-cache")] == [entry.name]


def test_the_time_of_taking_a_program_is_none_of_the_compilers():
    tally = keeping.Tally()
    tally.note_secs(keeping._ASKED_SECS, 5.0)  # a program that is compiled
    tally.note(keeping._TAKEN)
    tally.note_secs(keeping._TAKING_SECS, 2.0)  # within the time of the next one
    tally.note_secs(keeping._ASKED_SECS, 2.0)
    assert f"{tally}" == "programs: 1 taken, 1 compiled (5.0 s)"


@pytest.mark.usefixtures("jax_settings")
@pytest.mark.parametrize("has_zstandard", [False, True])
def test_unfinished_programs_go_but_for_those_that_nothing_here_can_unpack(
    capsys, monkeypatch, tmp_path, has_zstandard
):
    """JAX compresses by zstandard where that is installed, and else by zlib."""
    empty = b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"  # by zstandard

    def decompress(packed):
        if packed != empty:
            raise ValueError("not whole")

    package = types.SimpleNamespace(decompress=decompress) if has_zstandard else None
    monkeypatch.setitem(sys.modules, "zstandard", package)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    packed = {"zlib": zlib.compress(b"program"), "zstandard": empty}
    for name, content in packed.items():
        for part, size in (("whole", len(content)), ("half", len(content) - 2)):
            (tmp_path / f"{name}-{part}-cache").write_bytes(content[:size])
    keeping.use(tmp_path)
    gone = {f"{name}-half-cache" for name in packed if name == "zlib" or has_zstandard}
    printed = capsys.readouterr().out
    assert all(f"unfinished program {name}" in printed for name in gone)
    left = {path.name for path in tmp_path.glob("*-cache")}
    assert (
        left
        == {f"{name}-{part}-cache" for name in packed for part in ("whole", "half")}
        - gone
    )


def test_a_program_that_was_compiled_and_not_kept_is_an_error(monkeypatch):
    monkeypatch.setattr(topology, "check_installed", lambda target: None)
    memory = result.Memory(arguments=1, outputs=1, aliased=0, temporaries=1, code=0)
    line = json.dumps(result.to_json(result.Compiled(memory=memory)))
    code = f"import sys; sys.stderr.write('Warning: full'); print({line!r})"
    ask = functools.partial(
        compiler.compile_program,
        tiny.STEP,
        targets.find("v5litepod-8"),
        child=("-c", code),
    )
    assert ask().memory == memory
    with pytest.raises(errors.ConfigError, match="Warning: full"):
        ask(keep_in="programs")


def set_flag(monkeypatch, value):
    flag = types.SimpleNamespace(value=value)
    monkeypatch.setattr(compile_flag, "_KEEP_PROGRAMS", flag)


@pytest.mark.usefixtures("jax_settings")
def test_the_flag_names_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    set_flag(monkeypatch, "programs")
    before = jax.config.jax_compilation_cache_dir
    with compile_flag.kept_programs(is_dry=True):
        assert jax.config.jax_compilation_cache_dir == before
    assert not [*tmp_path.iterdir()]
    with compile_flag.kept_programs():
        assert jax.config.jax_compilation_cache_dir == f"{tmp_path / 'programs'}"


@pytest.mark.parametrize(
    ("place", "message"),
    [("gs://bucket/programs", "folder of this machine"), ("file", "cannot be written")],
)
def test_a_place_where_nothing_can_be_kept_is_refused_at_once(
    monkeypatch, tmp_path, place, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    set_flag(monkeypatch, place)
    before = jax.config.jax_compilation_cache_dir
    with (
        pytest.raises(errors.ElmError, match=message),
        compile_flag.kept_programs(),
    ):
        pass
    assert jax.config.jax_compilation_cache_dir == before
    run, _ = build(train.Train, DATASET, SMALL)
    with pytest.raises(errors.ElmError, match=message):
        compile_for.compile_run(run, "v5litepod-8", keep_in=place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_program_for_a_tpu_is_kept_under_the_same_name_each_time(
    monkeypatch, tmp_path
):
    target = compilers.need(monkeypatch, "v5litepod-8")
    step = dataclasses.replace(
        tiny.RANKING, model=dataclasses.replace(tiny.TINY, emb_dim=128, mlp_dim=256)
    )
    # The second time in another folder, from which nothing can be taken.
    first, second = (
        compiler.compile_program(step, target, keep_in=f"{tmp_path / each}").saved_as
        for each in ("first", "second")
    )
    assert first == second
    # Beside small programs of this machine's, which lowering compiles.
    names = first.split(", ")
    assert sum(name.startswith("jit_score-") for name in names) == 1
    for folder in (tmp_path / "first", tmp_path / "second"):
        assert sorted(path.name for path in folder.iterdir()) == names
        assert all(path.stat().st_size > 0 for path in folder.iterdir())
