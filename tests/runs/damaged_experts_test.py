"""Damaged adapters of PEFT and experts of ours: what is said, and nothing written."""

import dataclasses
import shutil

import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.peft import lora
from elm_jax.runs import convert_experts, export, loaded, merge
from tests.checkpoints import peft_sample, sample
from tests.checkpoints.sample import change

DEEP = "[" * 100_000

# Adapters of PEFT.


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with the base of PEFT's adapters, and one that was imported."""
    path = tmp_path_factory.mktemp("work")
    params = peft_sample.base(peft_sample.shapes())
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(peft_sample.CONFIG),
        trainable_pattern=".*",
    )
    experts.save_expert(path / "base", params, info)
    importing(path, peft_sample.FOLDER / "lora").run()
    return path


def importing(work, source):
    return convert_experts.ImportPeft(
        model_dir=str(work),
        source_paths=str(source),
        initial_checkpoint_path="{MODEL_DIR}/base",
    )


ADAPTERS = [
    ({"lora_alpha": 0}, "lora_alpha = 0"),
    ({"lora_alpha": -8}, "lora_alpha = -8"),
    ({"lora_alpha": None}, "lora_alpha = None"),
    ({"lora_alpha": "8"}, "lora_alpha = '8'"),
    ({"lora_alpha": 1e308}, r"lora_alpha = 1e\+308"),
    ({"alpha_pattern": {"q": 1e308}}, r"alpha_pattern = {'q': 1e\+308}"),
    ({"alpha_pattern": ["q"]}, "alpha_pattern"),
    ({"use_rslora": "false"}, "use_rslora = 'false'"),
    ({"use_rslora": 1}, "use_rslora = 1"),
    ({"lora_dropout": None}, "lora_dropout = None"),
    ({"lora_dropout": 1.5}, "lora_dropout = 1.5"),
    ({"r": 8.0}, "r = 8.0"),
    ({"r": True}, "r = True"),
    ({"r": 10**12}, "r = 1000000000000"),
    ({"r": 5}, r"lora_A\.weight \(4, 16\) instead of \(5, 16\)"),
    ({"r": 2**30}, r"instead of \(1073741824, 16\)"),
    ({"rank_pattern": {"q": 2.0}}, "rank_pattern"),
    ({"target_modules": 5}, "target_modules = 5"),
    ({"target_modules": [5]}, r"target_modules = \[5\]"),
    ({"target_modules": {"q": 1}}, "target_modules = {'q': 1}"),
    ({"target_modules": "("}, "cannot be read: .*unterminated"),
    ({"exclude_modules": 5}, "exclude_modules = 5"),
    ({"layers_to_transform": "1"}, "layers_to_transform = '1'"),
    ({"layers_to_transform": [0], "layers_pattern": "("}, "cannot be read"),
    ({"init_lora_weights": ["eva"]}, r"init_lora_weights = \['eva'\]"),
    ({"peft_type": ["LORA"]}, r"peft_type \['LORA'\]"),
    ({"\x1b[2J": 1}, r"\\x1b\[2J = 1"),
    ('{"r": Infinity}', "Infinity, which is not finite"),
    (DEEP, "more than 64 lists"),
    ("[]", "a list instead of an object"),
    (b"\xff", "no UTF-8"),
    ("", "no JSON"),
]


@pytest.mark.parametrize(("changes", "message"), ADAPTERS, ids=lambda v: f"{v}"[:40])
def test_damaged_settings_of_an_adapter_are_refused(work, tmp_path, changes, message):
    folder = shutil.copytree(peft_sample.FOLDER / "lora", tmp_path / "damaged")
    change(folder / "adapter_config.json", changes)
    with pytest.raises(errors.CheckpointError, match=message):
        importing(work, folder).run()
    assert not (work / "imported" / "damaged").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_an_adapter_with_a_number_that_is_not_finite_is_refused(
    work, tmp_path, kind, bad
):
    folder = shutil.copytree(peft_sample.FOLDER / kind, tmp_path / "damaged")
    path = folder / "adapter_model.safetensors"
    loaded = safetensors.numpy.load_file(path)
    name = sorted(loaded)[0]
    loaded[name].flat[-1] = bad
    safetensors.numpy.save_file(loaded, path)
    with pytest.raises(errors.CheckpointError, match=f"1 of [0-9]+ in {name}"):
        importing(work, folder).run()
    loaded[name].flat[-1] = 0
    loaded[name] = loaded[name].astype(np.int32)
    safetensors.numpy.save_file(loaded, path)
    with pytest.raises(
        errors.CheckpointError, match="(lora_A.weight|ia3_l) of dtypes float32, int32"
    ):
        importing(work, folder).run()
    assert not (work / "imported" / "damaged").exists()


# Experts of ours, with manifests that somebody changed.


@pytest.fixture
def expert(work, tmp_path):
    """A copy of the imported expert."""
    return shutil.copytree(work / "imported" / "lora", tmp_path / "expert")


def folding(work, expert):
    return convert_experts.FoldExpert(
        model_dir=str(expert.parent),
        expert_path=str(expert),
        initial_checkpoint_path=str(work / "base"),
    )


def merging(work, expert):
    return merge.Merge(
        model_dir=str(expert.parent),
        experts=(str(expert),),
        expert_name="merged",
        initial_checkpoint_path=str(work / "base"),
    )


SPECS = [
    ({"rank": 5}, r"lora_a \(2, 16, 4\) instead of \(2, 16, 5\)"),
    ({"rank": 2**30}, r"instead of \(2, 16, 1073741824\)"),
    ({"rank": 10**12}, "rank = 1000000000000"),
    ({"rank": 4.0}, "rank = 4.0"),
    ({"alpha": 1e308}, r"alpha = 1e\+308"),
    ({"alpha": 0}, "alpha = 0"),
    ({"rank_stabilized": "false"}, "rank_stabilized = 'false'"),
    ({"dropout": None}, "dropout = None"),
    ({"targets": "("}, r"targets = '\('"),
    ({"kind": ["lora"]}, r"adapter kind \('lora',\)"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize("make", [folding, merging])
@pytest.mark.parametrize(("changes", "message"), SPECS, ids=lambda v: f"{v}"[:40])
def test_an_expert_is_not_folded_or_merged_by_a_spec_that_is_not_its_tensors(
    work, expert, make, changes, message
):
    adapter = manifest.read_manifest(expert).adapter | changes
    sample.edit_manifest(expert, adapter=adapter)
    for act in (make(work, expert).plan, make(work, expert).run):
        with pytest.raises(errors.CheckpointError, match=message):
            act()
    assert {p.name for p in expert.parent.iterdir()} == {expert.name}


def test_what_becomes_infinite_by_folding_is_not_saved(work, expert):
    """A scale that is allowed, and matrices that are finite: their product is not."""
    params, info = experts.load_expert(expert)
    large = {
        name: np.full_like(leaf, 1e30) for name, leaf in trees.flatten(params).items()
    }
    shutil.rmtree(expert)
    experts.save_expert(expert, trees.unflatten(large), info)
    with pytest.raises(errors.CheckpointError, match="NaN or infinite"):
        folding(work, expert).run()
    assert not (expert.parent / "folded").exists() or not any(
        (expert.parent / "folded").iterdir()
    )


@pytest.fixture
def infinite(work, tmp_path, monkeypatch):
    """An expert and a base with an infinite number, as release 0.1 would save them."""
    monkeypatch.setattr(experts.tensors, "check_finite", lambda arrays, of: None)
    params, info = experts.load_expert(work / "imported" / "lora")
    leaves = trees.flatten(params)
    leaves[next(iter(leaves))].flat[0] = np.inf
    experts.save_expert(tmp_path / "expert", trees.unflatten(leaves), info)
    whole = loaded.Base.load(work / "base")
    leaves = trees.flatten(whole.params)
    leaves["decoder/decoder_norm/scale"] = np.full(16, np.nan, np.float32)
    broken = trees.unflatten(leaves)
    changed = dataclasses.replace(
        whole.manifest, base_fingerprint=trees.fingerprint(broken)
    )
    experts.save_expert(tmp_path / "broken", broken, changed)
    monkeypatch.undo()
    return tmp_path


def exports(folder):
    model_dir = {"model_dir": str(folder)}
    base = model_dir | {"expert_path": str(folder / "broken")}
    yield export.ExportHuggingFace(**base), "decoder.final_layer_norm.weight"
    for file_format in ("orbax", "legacy"):
        yield export.ExportT5X(**base, file_format=file_format), "decoder_norm/scale"
    yield (
        convert_experts.ExportPeft(**model_dir, experts=str(folder / "expert")),
        "lora_",
    )


@pytest.mark.slow
def test_what_is_not_finite_is_neither_exported_nor_merged_nor_folded(infinite, work):
    for run, message in exports(infinite):
        with pytest.raises(errors.CheckpointError, match=f"NaN or infinite.*{message}"):
            run.run()
    for make in (folding, merging):
        with pytest.raises(errors.ElmError, match="NaN or infinite|not finite"):
            make(work, infinite / "expert").run()
    files = {p.relative_to(infinite) for p in infinite.rglob("*") if p.is_file()}
    assert {path.parts[0] for path in files} == {"expert", "broken"}


def test_the_scale_of_a_spec_is_one_that_float32_holds():
    with pytest.raises(errors.ConfigError, match=r"alpha: float, above 0 and below"):
        lora.Lora(alpha=1e308)
