"""elm_merge takes LoRAs of PEFT and gives them back as PEFT reads them."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import (
    experts,
    huggingface_files,
    huggingface_import,
    manifest,
    peft_folders,
    t5x,
    tensors,
)
from elm_jax.merging import spectral, task_arithmetic
from elm_jax.runs import bases, convert_experts, export, loaded, merge
from tests.checkpoints import make_peft_golden, make_peft_merge_golden, peft_sample

GOLDEN = make_peft_merge_golden.FOLDER
SHAPES = peft_sample.shapes()
TOKENS = (peft_sample.INPUTS, peft_sample.TARGETS)
SUM = task_arithmetic.TaskArithmetic()
# Float32 sums in another order, as in tests/checkpoints/peft_folders_test.py.
TOLERANCE = 5e-5


@pytest.fixture
def folder(tmp_path):
    params = peft_sample.base(SHAPES)
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(peft_sample.CONFIG),
        trainable_pattern=".*",
    )
    experts.save_expert(tmp_path / "base", params, info)
    return tmp_path


def merge_of(folder, *patterns, **changes):
    fields = {
        "model_dir": str(folder),
        "experts": patterns or (f"{GOLDEN}/*",),
        "expert_name": "both",
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "method": SUM,
        "peft_dir": "{MODEL_DIR}/peft",
    }
    return merge.Merge(**(fields | changes))


def logits(params, adapter):
    whole = trees.replace(peft_sample.base(SHAPES), params)
    model = bases.build_model(peft_sample.CONFIG, adapter)
    return jax.jit(model.apply)({"params": whole}, *TOKENS)


def is_sum(summed):
    expected = np.load(GOLDEN / "sum.npy")
    return np.abs(summed - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("method", [SUM, spectral.LowRankSum()], ids=lambda m: m.name)
def test_the_sum_of_loras_of_peft_is_what_peft_computes_with_both(
    folder, method, capsys
):
    """Of other ranks, one of them by layer and rank-stabilised."""
    merge_of(folder, method=method).run()
    printed = capsys.readouterr().out
    peft_expert = peft_folders.load_peft(folder / "peft" / "both", SHAPES)
    assert is_sum(
        logits(peft_expert.params, bases.spec_from_json(peft_expert.spec, "x"))
    )
    merged = loaded.Expert.load(folder / "merged" / "both")
    assert is_sum(logits(merged.params, merged.adapter))
    assert trees.fingerprint(merged.params) == trees.fingerprint(peft_expert.params)
    assert f"for PEFT: rank {peft_expert.spec['rank']}, alpha " in printed
    first = peft_folders.load_peft(GOLDEN / "one", SHAPES)
    assert not is_sum(logits(first.params, bases.spec_from_json(first.spec, "x")))


def test_one_command_again_changes_nothing_and_another_recipe_is_refused(
    folder, capsys
):
    merge_of(folder).run()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    capsys.readouterr()
    merge_of(folder).run()
    assert capsys.readouterr().out.count("finished already") == 4
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    with pytest.raises(errors.CheckpointError, match="scale"):
        merge_of(folder, method=task_arithmetic.TaskArithmetic(scale=0.5)).run()


@pytest.mark.slow
def test_a_plan_tells_all_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    plan = merge_of(folder).plan()
    assert plan["experts"] == "2: one, other"
    assert plan["finished already"] is False
    assert sorted(folder.rglob("*")) == before
    merge_of(folder, f"{GOLDEN}/one", expert_name="alone").run()
    assert merge_of(folder).plan()["experts"] == "2: one, other"
    assert not (folder / "imported" / "other").exists()
    merge_of(folder).run()
    assert merge_of(folder).plan()["finished already"] is True


@pytest.mark.slow
def test_folders_of_peft_and_experts_of_ours_are_merged_in_the_order_of_their_paths(
    folder,
):
    shutil.copytree(GOLDEN / "other", folder / "mixed" / "b")
    convert_experts.ImportPeft(
        model_dir=str(folder),
        source_paths=f"{GOLDEN}/one",
        initial_checkpoint_path="{MODEL_DIR}/base",
        experts_dir="{MODEL_DIR}/mixed",
        expert_name="a",
    ).run()
    method = task_arithmetic.TaskArithmetic(weights=(1.0, 0.0))
    merge_of(folder, "{MODEL_DIR}/mixed/*", method=method).run()
    merged, _ = experts.load_expert(folder / "merged" / "both")
    first, _ = experts.load_expert(folder / "mixed" / "a")
    # With the greater of both ranks, which is the first one's.
    assert trees.fingerprint(merged) == trees.fingerprint(first)


@pytest.mark.slow
def test_what_peft_has_no_place_for_is_refused_before_anything_is_merged(folder):
    merge_of(folder, peft_dir="").run()
    merged, info = experts.load_expert(folder / "merged" / "both")
    norm = trees.unflatten({"encoder/encoder_norm/scale": np.ones(16, np.float32)})
    more = dataclasses.replace(info, name="more", trainable_pattern="adapter|norm/")
    experts.save_expert(folder / "more", trees.join(merged, norm), more)
    run = merge_of(folder, "{MODEL_DIR}/more", expert_name="x")
    for act in (run.plan, run.run):
        with pytest.raises(errors.ConfigError, match="also holds encoder/encoder_norm"):
            act()
    assert not (folder / "merged" / "x").exists()


@pytest.mark.slow
def test_the_name_of_the_base_goes_from_folder_to_folder(folder):
    for name in ("one", "other"):
        place = folder / "named" / name
        shutil.copytree(GOLDEN / name, place)
        settings = json.loads((place / peft_folders.CONFIG).read_text())
        settings["base_model_name_or_path"] = "google/t5-small-lm-adapt"
        (place / peft_folders.CONFIG).write_text(json.dumps(settings))
    merge_of(folder, "{MODEL_DIR}/named/*").run()
    settings = json.loads((folder / "peft/both" / peft_folders.CONFIG).read_text())
    assert settings["base_model_name_or_path"] == "google/t5-small-lm-adapt"


def fold(folder, place):
    convert_experts.FoldExpert(
        model_dir=str(folder),
        expert_path=f"{{MODEL_DIR}}/{place}",
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()


def exported(folder, place):
    """Exports a whole model, and yields what is there as our programs read it."""
    settings = {"model_dir": str(folder), "expert_path": f"{{MODEL_DIR}}/{place}"}
    name = pathlib.Path(place).name
    export.ExportHuggingFace(**settings).run()
    model = huggingface_files.open_folder(folder / "huggingface" / name)
    leaves = huggingface_import.open_leaves(model, SHAPES, of="x")
    yield tensors.read_all(leaves, np.float32)
    export.ExportT5X(**settings).run()
    yield t5x.load_t5x(next((folder / "t5x" / name).glob("checkpoint_*")))[0]


@pytest.mark.slow
def test_a_merged_lora_is_folded_and_goes_to_hugging_face_and_t5x(folder):
    """As a whole model that computes what PEFT does with both."""
    merge_of(folder, peft_dir="").run()
    fold(folder, "merged/both")
    for params in exported(folder, "folded/both"):
        assert is_sum(logits(params, None))


@pytest.mark.slow
def test_a_merge_of_whole_models_goes_to_hugging_face_and_t5x(folder):
    merge_of(folder, peft_dir="").run()
    for name in ("one", "other"):
        fold(folder, f"imported/{name}")
    whole = {"method": SUM, "peft_dir": "", "expert_name": "whole"}
    merge_of(folder, "{MODEL_DIR}/folded/*", **whole).run()
    merged, _ = experts.load_expert(folder / "merged" / "whole")
    assert is_sum(logits(merged, None))  # the base, and both changes of it
    for params in exported(folder, "merged/whole"):
        assert trees.fingerprint(params) == trees.fingerprint(merged)


# PEFT asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.slow
def test_peft_loads_what_was_merged_and_computes_the_sum(folder):
    peft = pytest.importorskip("peft")
    merge_of(folder).run()
    base = make_peft_golden.make_base()
    model = peft.PeftModel.from_pretrained(base, str(folder / "peft" / "both")).eval()
    assert is_sum(make_peft_golden.logits(model))
