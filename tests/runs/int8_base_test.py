"""Experts of a base that is held as int8: trained, continued, never mistaken."""

import dataclasses
import json
import shutil
import sys

import pytest

from elm_jax import errors
from elm_jax.checkpoints import experts
from elm_jax.cli import gin_flags
from elm_jax.evaluation import naming, row_lines
from elm_jax.runs import convert_experts, expert_checks, loaded, train
from tests.runs import scored
from tests.runs.training import fleets

pytestmark = [pytest.mark.slow, pytest.mark.optimized]  # a claim of bits


def save_as_int8(source, to):
    """Saves a base as one that is held as int8."""
    params, info = experts.load_expert(source)
    model = info.model | {"base_dtype": "int8"}
    attached = {p.name: p.read_bytes() for p in source.glob("vocabulary.model")}
    info = dataclasses.replace(info, model=model)
    experts.save_expert(to, params, info, attached=attached)


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    """A fleet of the experts of `whole`, on the same base as int8."""
    int8_base = tmp_path_factory.mktemp("int8_base")
    save_as_int8(base / "base", int8_base / "base")
    (int8_base / "cache").symlink_to(base / "cache")
    path = tmp_path_factory.mktemp("int8")
    fleets.train_in(path, int8_base, fleets.KEEP)
    return path


def expert_of(path, name=fleets.TASKS[0]):
    return loaded.Expert.load(path / "prompt_experts" / name)


def test_losses_are_within_a_hundredth_of_those_on_the_base_as_it_is(folder, whole):
    for name in fleets.TASKS:
        pairs = zip(
            fleets.rows_of(folder, name), fleets.rows_of(whole, name), strict=True
        )
        for row, expected in pairs:
            assert row["loss"] == pytest.approx(expected["loss"], rel=0.01)
    assert fleets.fingerprints(folder) != fleets.fingerprints(whole)


def test_a_training_goes_on_from_its_state_to_the_same_bits(folder, tmp_path, capsys):
    path = shutil.copytree(folder, tmp_path / "again", symlinks=True)
    shutil.rmtree(path / "prompt_experts")
    for state in (path / "work").glob("*/*/state/*"):
        if int(state.name) != 2:
            shutil.rmtree(state)
    int8_base = (folder / "base").resolve().parent
    fleets.train_in(path, int8_base, fleets.KEEP)
    assert fleets.fingerprints(path) == fleets.fingerprints(folder)
    out = capsys.readouterr().out
    for name in fleets.TASKS:
        assert f"{name}: goes on from its own step 2" in out
        before, now = fleets.metrics_of(folder, name), fleets.metrics_of(path, name)
        assert now[:2] == before[:2]  # of the training that went before
        assert [json.loads(line)["step"] for line in now] == [*range(1, len(now) + 1)]
        assert len(now) == len(before)
        # Speeds differ, so a line that is made again is another one.
        assert not {*now[2:]} & {*before}


def test_an_expert_says_it_and_fits_on_such_a_base_alone(folder, whole):
    on_int8, plain = expert_of(folder), expert_of(whole)
    assert on_int8.manifest.model == plain.manifest.model | {"base_dtype": "int8"}
    bases = [loaded.Base.open((path / "base").resolve()) for path in (folder, whole)]
    bases[0].check_fits(on_int8)
    bases[1].check_fits(plain)
    with pytest.raises(errors.CheckpointError, match="with base_dtype = 'int8'"):
        bases[1].check_fits(on_int8)
    with pytest.raises(errors.CheckpointError, match="with base_dtype = ''"):
        bases[0].check_fits(plain)
    expert_checks.check_alike([on_int8.manifest, on_int8.manifest])
    with pytest.raises(errors.ConfigError, match="on a base held as int8"):
        expert_checks.check_alike([on_int8.manifest, plain.manifest])


def test_an_expert_with_matrices_of_its_own_is_refused(folder):
    base = loaded.Base.open((folder / "base").resolve())
    info = dataclasses.replace(base.as_base, kind="dataset", name="all")
    with pytest.raises(errors.CheckpointError, match="matrices of its own, such as"):
        base.check_fits(loaded.Expert(base.params, info))


def test_experts_of_all_parameters_are_refused_before_they_train(folder, tmp_path):
    run, _, _ = gin_flags.build_run(
        (train.Train,),
        gin_files=["gin/pocket/dataset_experts.gin"],
        bindings=[
            f"MODEL_DIR = '{tmp_path}'",
            f"INITIAL_CHECKPOINT_PATH = '{(folder / 'base').resolve()}'",
        ],
    )
    with pytest.raises(errors.ConfigError, match="base_dtype = 'int8', and 18 matr"):
        run.plan()


def test_an_expert_of_such_a_base_is_not_folded(folder):
    name = fleets.TASKS[0]
    run = convert_experts.FoldExpert(
        model_dir=str(folder),
        expert_path=f"{{MODEL_DIR}}/prompt_experts/{name}",
        initial_checkpoint_path="{MODEL_DIR}/base",
    )
    with pytest.raises(errors.ConfigError, match="that is held as int8"):
        run.plan()


def test_a_missing_package_is_told_before_a_row_is_scored(tmp_path, monkeypatch):
    scored.save_base(tmp_path / "plain")
    save_as_int8(tmp_path / "plain" / "base", tmp_path / "int8" / "base")
    monkeypatch.setitem(sys.modules, "qwix", None)
    with (
        scored.registered(),
        pytest.raises(errors.MissingExtraError, match="extra `quantized`") as raised,
    ):
        scored.score(tmp_path / "int8", "plain")
    assert not hasattr(raised.value, "__notes__")  # no expert and task: none was begun
    assert not (tmp_path / "int8" / "results.jsonl").exists()


def test_scores_of_the_base_as_int8_are_other_scores(tmp_path):
    rows = {}
    scored.save_base(tmp_path / "plain")
    save_as_int8(tmp_path / "plain" / "base", tmp_path / "int8" / "base")
    for name in ("plain", "int8"):
        with scored.registered():
            scored.score(tmp_path / name, "plain")
        lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
        rows[name] = [json.loads(line) for line in lines]
    plain, int8 = (
        {(row["metric"], row["scoring"]) for row in rows[name]} for name in rows
    )
    assert {metric for metric, _ in plain} == {metric for metric, _ in int8}
    assert not {hash_ for _, hash_ in plain} & {hash_ for _, hash_ in int8}
    protocols = [{row["protocol"] for row in rows[name]} for name in ("plain", "int8")]
    assert protocols == [{"default"}, {"default+int8"}]
    together = [
        row
        for name in ("plain", "int8")
        for row in row_lines.read_rows(tmp_path / name / "results.jsonl")
    ]
    assert len(naming.newest(together)) == len(together)  # neither replaces the other
    with pytest.raises(errors.DataError, match=r"default\+int8"):
        naming.check_comparable(together, [["plain_ask"]])
