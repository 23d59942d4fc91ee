"""`--compile_for`: whether a run fits on an accelerator that is not here."""

import dataclasses
import json
import re

import pytest

from elm_jax import errors
from elm_jax.cli import compile_flag
from elm_jax.compiling import targets, topology
from elm_jax.model import cost
from elm_jax.runs import evaluate, score_memory, train
from elm_jax.runs.compiling import (
    compile_for,
    compiler,
    of_runs,
    plan,
    result,
)
from elm_jax.runs.placement import Devices
from tests.runs import scored
from tests.runs.compiling import compilers, tiny
from tests.runs.compiling.built import SMALL, build

GIB = 2**30


@pytest.fixture
def anything_installed(monkeypatch):
    monkeypatch.setattr(topology, "check_installed", lambda target: None)


def compiled_by(monkeypatch, total_gib):
    """Lets programs take what a function of them says; returns what was compiled."""
    compiled = []

    def compile_program(program, target, *, keep_in=""):
        assert not keep_in
        compiled.append((program, target))
        size = int(total_gib(program) * GIB)
        memory = result.Memory(
            arguments=size, outputs=0, aliased=0, temporaries=0, code=0
        )
        return result.Compiled(memory=memory)

    monkeypatch.setattr(compiler, "compile_program", compile_program)
    return compiled


@pytest.mark.slow
def test_without_a_base_gin_files_tell_the_shape():
    run, shape = build(train.Train, "gin/t5/prompt_experts.gin", SMALL)
    (planned,) = of_runs.planned(run, targets.find("v5litepod-16"), shape)
    program = planned.program
    assert program.kind == "fleet step"
    assert (program.model.emb_dim, program.model.dropout_rate) == (512, 0.1)
    assert (program.batch.inputs_length, program.batch.targets_length) == (256, 128)
    # Experts are dealt out to four hosts, and lie on the four devices of one.
    of_one_host = -(-len(run.experts()) // 4)
    assert program.devices.num_data == 4
    assert 0 <= program.num_slots - of_one_host < 4
    assert program.adapter is not None


@pytest.mark.slow
def test_experts_with_all_parameters_train_on_all_devices():
    run, shape = build(
        train.Train,
        *("gin/t5/dataset_experts.gin", SMALL),
        bindings=[
            *("BATCH_SIZE = 32", "NUM_FSDP = -1"),
            "placement.Placement.axis_rules = 'fsdp'",
        ],
    )
    (planned,) = of_runs.planned(run, targets.find("v5litepod-16"), shape)
    assert planned.program.kind == "step"
    assert planned.program.devices.num_fsdp == 16


def test_an_evaluation_ranks_and_decodes():
    run, shape = build(evaluate.Evaluate, "gin/t5/evaluate.gin", SMALL)
    ranking, decoding = of_runs.planned(run, targets.find("h100"), shape)
    assert ranking.program.num_choices == score_memory.NUM_CHOICES
    assert decoding.program.kind == "decoding"
    assert ranking.bytes_by_use["parameters"] == decoding.bytes_by_use["parameters"]


def test_without_base_and_shape_nothing_is_compiled(tmp_path):
    with pytest.raises(
        errors.ConfigError, match=r"no shape of a model[\s\S]*--gin_file"
    ):
        of_runs.base_shape(tmp_path / "base", None)


def test_the_manifest_of_a_base_tells_its_shape(tmp_path):
    scored.save_base(tmp_path)
    base = tmp_path / "base"
    assert of_runs.base_shape(base, None) == scored.SHAPE
    numerics = dataclasses.replace(scored.SHAPE, remat="layer", dtype="bfloat16")
    assert of_runs.base_shape(base, numerics) == scored.SHAPE
    wider = dataclasses.replace(scored.SHAPE, emb_dim=32)
    with pytest.raises(errors.ConfigError, match="emb_dim = 16, not 32"):
        of_runs.base_shape(base, wider)


@pytest.mark.slow
@pytest.mark.usefixtures("anything_installed")
def test_a_run_that_fits_ends_with_0(monkeypatch, capsys):
    run, shape = build(train.Train, "gin/t5/prompt_experts.gin", SMALL)
    compiled_by(monkeypatch, lambda program: 3)
    outcomes = compile_for.compile_run(run, "v5litepod-1", model=shape)
    assert compile_for.show(outcomes) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("fleet step fits on v5litepod-1: ")
    assert last.endswith("of 15.75 GiB per device")
    assert " GiB by plan, 3." in last
    assert json.loads(json.dumps(outcomes[0].to_json()))["fits"]


@pytest.mark.slow
@pytest.mark.usefixtures("anything_installed")
def test_a_run_that_does_not_fit_says_what_would(monkeypatch, capsys):
    plain = ("gin/parts/execution.gin",)
    run, shape = build(
        train.Train,
        *("gin/t5/dataset_experts.gin", SMALL, *plain),
        bindings=["config.Execution.remat = 'none'", "BATCH_SIZE = 16"],
    )
    compiled = compiled_by(
        monkeypatch, lambda program: 5 if program.model.remat == "layer" else 20
    )
    outcomes = compile_for.compile_run(run, "v5litepod-1", model=shape)
    assert compile_for.show(outcomes) == compile_for.EXIT_DOES_NOT_FIT
    printed = capsys.readouterr().out
    assert "Execution.remat = 'layer'" in printed
    assert "5.00 compiled" in printed
    assert "does not fit on v5litepod-1" in printed.splitlines()[-1]
    assert compiled[0][0].model.remat == "none"
    assert any(target.name != "v5litepod-1" for _, target in compiled)  # a larger slice


# Each is all that helps: what fits, on what of how many rows, and what is told of it.
ADVICE = {
    "recomputation": (
        *("v5litepod-1", lambda program: program.model.remat == "layer"),
        "Execution.remat = 'layer'",
    ),
    "parts": (
        *("v5litepod-1", lambda program: program.num_parts >= 4),
        "Batching.num_parts = 4",
    ),
    "batch": (
        *("v5litepod-1", lambda program: program.batch.batch_size <= 2),
        "a batch_size of 2",
    ),
    "rules": (
        *("v5litepod-4", lambda program: program.devices.num_fsdp == 4),
        "Placement.axis_rules = 'fsdp' and num_fsdp = -1",
    ),
    "slice": (
        *("v5litepod-1", lambda program: program.devices.count >= 8),
        "v5litepod-8",
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("anything_installed")
@pytest.mark.parametrize("kind", ADVICE)
def test_the_least_change_of_each_kind_that_fits_is_told(monkeypatch, kind):
    name, fits, change = ADVICE[kind]
    run, shape = build(
        train.Train,
        *("gin/t5/dataset_experts.gin", SMALL, "gin/parts/execution.gin"),
        bindings=[
            *("config.Execution.remat = 'none'", "BATCH_SIZE = 8", "NUM_FSDP = 1"),
            "placement.Placement.axis_rules = 'data'",
        ],
    )
    compiled_by(monkeypatch, lambda program: 5 if fits(program) else 20)
    (outcome,) = compile_for.compile_run(run, name, model=shape)
    assert not outcome.fits
    (line,) = outcome.alternatives
    assert re.fullmatch(rf"{change}: \d+\.\d\d GiB by plan, 5\.\d\d compiled", line)


@pytest.mark.slow
@pytest.mark.usefixtures("anything_installed")
def test_a_fleet_that_does_not_fit_is_told_of_fewer_lanes(monkeypatch):
    run, shape = build(
        train.Train,
        *("gin/t5/prompt_experts.gin", SMALL),
        bindings=["options.Fleet.lanes = 8", "BATCH_SIZE = 1"],
    )
    compiled_by(monkeypatch, lambda program: 5 if program.num_lanes <= 2 else 20)
    (outcome,) = compile_for.compile_run(run, "v5litepod-1", model=shape)
    (line,) = outcome.alternatives
    assert line.startswith("Fleet.lanes = 2: ")
    assert re.search(r" GiB by plan, 5\.\d\d compiled", line)


@pytest.mark.usefixtures("anything_installed")
def test_a_batch_that_the_devices_do_not_divide_is_refused_before_compiling():
    for run_type, file, name in (
        (train.Train, "gin/t5/dataset_experts.gin", "BATCH_SIZE"),
        (evaluate.Evaluate, "gin/t5/evaluate.gin", "evaluate.Evaluate.batch_size"),
    ):
        run, shape = build(run_type, file, SMALL, bindings=[f"{name} = 6"])
        with pytest.raises(errors.ConfigError, match="6 rows for 4 devices"):
            compile_for.compile_run(run, "v5litepod-4", model=shape)


@pytest.mark.parametrize("flag", ["dry_run", "multiprocess"])
def test_flags_that_cannot_be_honoured_beside_it_are_refused(flag):
    with pytest.raises(errors.ConfigError, match=f"Leave --{flag} out"):
        compile_flag.check_alone({flag: True})
    compile_flag.check_alone({flag: None})


def test_other_runs_compile_nothing():
    with pytest.raises(errors.ConfigError, match="a training or an evaluation"):
        compile_for.compile_run(object(), "h100")


@pytest.mark.usefixtures("anything_installed")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed .SIGSEGV"),
        ("raise ValueError('no such topology')", "ValueError: no such topology"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "Give this machine",
        ),
    ],
)
def test_a_compiler_that_ends_is_told_in_a_sentence(code, message):
    with pytest.raises(errors.ConfigError, match=message):
        compiler.compile_program(
            tiny.RANKING, targets.find("v5litepod-8"), child=("-c", code)
        )


def of_small(devices, **fields):
    """Returns a ranking that takes compilers seconds."""
    layers = {"num_encoder_layers": 3, "num_decoder_layers": 3}
    model = dataclasses.replace(tiny.TINY, emb_dim=128, mlp_dim=256, **layers)
    return dataclasses.replace(tiny.RANKING, model=model, devices=devices, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5litepod-8", "h100:8"])
def test_a_small_program_is_compiled_for_what_is_not_here(monkeypatch, name):
    target = compilers.need(monkeypatch, name)
    program = of_small(tiny.RANKING.devices)
    compiled = compiler.compile_program(program, target)
    assert compiled.memory is not None
    parts = plan.bytes_by_use(program, target.platform)
    assert compiled.memory.arguments >= parts["parameters"]
    assert compiled.work is not None
    assert {each.kind for each in compiled.work.collectives} >= {"all-reduce"}
    assert compiled.work.flops > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4-8", "v5p-8", "v6e-8", "a100", "h200", "b200"])
def test_compilers_know_each_kind_of_accelerator(monkeypatch, name):
    target = compilers.need(monkeypatch, name)
    num_devices = target.num_devices
    devices = Devices(num_data=num_devices, num_model=1, axis_rules="data")
    program = of_small(devices, num_choices=1)
    compiled = compiler.compile_program(program, target)
    assert compiled.memory is not None
    parts = plan.bytes_by_use(program, target.platform)
    assert compiled.memory.arguments >= parts["parameters"]
    assert compiled.work is not None
    # Rows are dealt out. Compilers add less than a thousandth to the model's products.
    expected = cost.forward_flops(program.model, program.batch, program.params[1])
    assert compiled.work.flops * num_devices == pytest.approx(expected, rel=1e-3)
