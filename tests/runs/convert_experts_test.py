"""Experts of other programs come in, are used as our own, and go out."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, peft_folders
from elm_jax.peft import bottleneck
from elm_jax.runs import bases, candidates, convert_experts, export, loaded, merge
from tests.checkpoints import peft_sample, sample

SHAPES = peft_sample.shapes()
TOKENS = (peft_sample.INPUTS, peft_sample.TARGETS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder with a base, and experts that PEFT wrote."""
    path = tmp_path_factory.mktemp("work")
    params = peft_sample.base(SHAPES)
    fingerprint = trees.fingerprint(params)
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=fingerprint,
        model=dataclasses.asdict(peft_sample.CONFIG),
        trainable_pattern=".*",
    )
    experts.save_expert(path / "base", params, info)
    run = convert_experts.ImportPeft(
        model_dir=str(path),
        source_paths=str(peft_sample.FOLDER / "*"),
        initial_checkpoint_path="{MODEL_DIR}/base",
    )
    assert run.plan()["finished already"] == 0
    run.run()
    assert run.plan()["finished already"] == 6
    return path


def logits(folder, expert):
    base = loaded.Base.load(folder / "base")
    candidate = candidates.Candidate("x", (folder / expert,))
    params, adapter = candidate.load(base)
    model = bases.build_model(base.config, adapter)
    return jax.jit(model.apply)({"params": params}, *TOKENS)


def golden(case):
    return np.load(peft_sample.FOLDER / case / "logits.npy")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lora", "ia3"])
def test_an_imported_expert_is_one_of_ours(folder, case):
    expected = golden(case)
    # float32 sums in another order.
    error = np.abs(logits(folder, f"imported/{case}") - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()
    info = manifest.read_manifest(folder / "imported" / case)
    assert (info.name, info.kind, info.tasks) == (case, "prompt", (case,))
    assert info.trainable_pattern == "_adapter/"
    assert info.data["peft_path"].endswith(case)


def test_a_second_import_does_nothing(folder, capsys):
    convert_experts.ImportPeft(
        model_dir=str(folder),
        source_paths=(str(peft_sample.FOLDER / "lora"),),
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()
    assert capsys.readouterr().out == "finished already: lora\n"


def test_two_folders_for_one_name_are_refused(folder):
    run = convert_experts.ImportPeft(
        model_dir=str(folder),
        source_paths=str(peft_sample.FOLDER / "*"),
        initial_checkpoint_path="{MODEL_DIR}/base",
        expert_name="one",
    )
    with pytest.raises(errors.ConfigError, match="a name for each"):
        run.plan()


@pytest.mark.slow
def test_an_export_comes_back_bit_for_bit(folder):
    run = convert_experts.ExportPeft(
        model_dir=str(folder),
        experts="{MODEL_DIR}/imported/lora*",
        base_model="google/t5",
    )
    assert run.plan()["experts"].startswith("4: lora, ")
    run.run()
    for case in ("lora", "lora_patterns"):
        again = peft_folders.load_peft(folder / "peft" / case, SHAPES)
        params, _ = experts.load_expert(folder / "imported" / case)
        assert trees.fingerprint(again.params) == trees.fingerprint(params)


@pytest.mark.parametrize("name", ["../../ESCAPED", "", ".", "a/b", "/tmp/x"])
def test_a_name_that_leads_elsewhere_writes_nothing(folder, tmp_path, name):
    outer = tmp_path / "outer"
    shutil.copytree(folder / "base", outer / "work/base")
    shutil.copytree(folder / "imported/lora", outer / "work/imported/lora")
    sample.rename(outer / "work/imported/lora", name)
    before = sorted(tmp_path.rglob("*"))
    model_dir = {"model_dir": str(outer / "work")}
    expert = {"expert_path": "{MODEL_DIR}/imported/lora"}
    base = {"initial_checkpoint_path": "{MODEL_DIR}/base"}
    for run in (
        convert_experts.ExportPeft(experts="{MODEL_DIR}/imported/*", **model_dir),
        convert_experts.FoldExpert(**expert, **base, **model_dir),
        export.ExportHuggingFace(**expert, **model_dir),
        export.ExportT5X(**expert, **model_dir),
    ):
        for act in (run.plan, run.run):
            with pytest.raises(errors.CheckpointError, match="1 to 200"):
                act()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_whose_name_gives_none_needs_an_expert_name(folder, tmp_path):
    shutil.copytree(peft_sample.FOLDER / "lora", tmp_path / "東京")
    run = convert_experts.ImportPeft(
        model_dir=str(folder),
        source_paths=str(tmp_path / "東京"),
        initial_checkpoint_path="{MODEL_DIR}/base",
        experts_dir=str(tmp_path / "imported"),
    )
    with pytest.raises(errors.ConfigError, match="expert_name"):
        run.plan()
    dataclasses.replace(run, expert_name="tokyo").run()
    assert manifest.read_manifest(tmp_path / "imported/tokyo").name == "tokyo"


def test_what_is_no_lora_is_not_exported(folder):
    run = convert_experts.ExportPeft(
        model_dir=str(folder), experts="{MODEL_DIR}/imported/ia3"
    )
    with pytest.raises(errors.ConfigError, match="a LoRA expert"):
        run.run()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lora_patterns", "ia3"])
def test_a_folded_expert_is_a_whole_model_that_can_be_exported(folder, case):
    convert_experts.FoldExpert(
        model_dir=str(folder),
        expert_path=f"{{MODEL_DIR}}/imported/{case}",
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()
    expected = golden(case)
    error = np.abs(logits(folder, f"folded/{case}") - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()
    export.ExportHuggingFace(
        model_dir=str(folder), expert_path=f"{{MODEL_DIR}}/folded/{case}"
    ).run()
    assert (folder / "huggingface" / case / "model.safetensors").is_file()


@pytest.mark.slow
def test_lora_experts_merge_to_the_means_of_their_matrices(folder):
    source = folder / "imported" / "lora"
    params, info = experts.load_expert(source)
    twice = jax.tree.map(lambda leaf: 3 * leaf, params)
    other_info = dataclasses.replace(info, name="other")
    experts.save_expert(folder / "imported" / "other", twice, other_info)
    merge.Merge(
        model_dir=str(folder),
        experts=("{MODEL_DIR}/imported/lora", "{MODEL_DIR}/imported/other"),
        expert_name="both",
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()
    merged, info = experts.load_expert(folder / "merged" / "both")
    assert info.adapter == manifest.read_manifest(source).adapter
    for name, leaf in trees.flatten(merged).items():
        np.testing.assert_allclose(leaf, 2 * trees.flatten(params)[name], rtol=1e-6)
    assert np.isfinite(logits(folder, "merged/both")).all()


def test_experts_of_the_elm_code_are_named_after_dataset_and_prompt(folder):
    names = ("cosmos qa/no prompt text", "wiki_qa/Is This True?")
    for name in names:
        place = folder / "expert_weights" / name / "adapter_params"
        place.mkdir(parents=True)
        (place / "shared.weight.pt").write_bytes(b"")
    run = convert_experts.ImportElmExperts(
        model_dir=str(folder),
        source_paths="{MODEL_DIR}/expert_weights/*/*/adapter_params",
        initial_checkpoint_path="{MODEL_DIR}/base",
        adapter=bottleneck.Bottleneck(reduction_factor=4),
    )
    expert_names = list(run.sources())
    assert expert_names == ["cosmos_qa_no_prompt_text", "wiki_qa_Is_This_True_"]
    # Without torch, and else because the files are empty.
    with pytest.raises((errors.MissingExtraError, errors.CheckpointError)):
        run.run()
    assert not list((folder / "imported").glob("cosmos*"))


def test_a_path_that_names_nothing_is_refused(folder):
    run = convert_experts.ImportPeft(
        model_dir=str(folder),
        source_paths="{MODEL_DIR}/nothing/*",
        initial_checkpoint_path="{MODEL_DIR}/base",
    )
    with pytest.raises(errors.CheckpointError, match="no folder matches"):
        run.run()


def on_int8(folder, path):
    """Returns where experts are imported onto the base as int8, and of plain what."""
    params, info = experts.load_expert(folder / "base")
    held = dataclasses.replace(info, model=info.model | {"base_dtype": "int8"})
    experts.save_expert(path / "base", params, held)
    return convert_experts.ImportPeft(
        model_dir=str(path),
        source_paths=str(peft_sample.FOLDER / "lora"),
        initial_checkpoint_path="{MODEL_DIR}/base",
    )


def test_an_adapter_that_does_not_say_its_base_s_form_is_imported_with_a_note(
    folder, tmp_path, capsys
):
    run = on_int8(folder, tmp_path)
    note = "does not say how its base was held: taken to be of base held as int8"
    assert note in str(run.plan()["note"])
    run.run()
    assert note in capsys.readouterr().out
    assert manifest.read_manifest(tmp_path / "imported/lora").base_dtype == "int8"
    assert run.plan()["finished already"] == 1


def test_an_import_onto_the_other_form_of_the_base_is_not_finished(folder, tmp_path):
    run = on_int8(folder, tmp_path)
    run.run()
    plain = dataclasses.replace(run, initial_checkpoint_path=str(folder / "base"))
    assert "note" not in dataclasses.replace(plain, model_dir=str(folder)).plan()
    for act in (plain.plan, plain.run):
        with pytest.raises(errors.CheckpointError, match="base_dtype: 'int8' before"):
            act()


def test_an_exported_adapter_comes_back_onto_its_base_s_form_alone(
    folder, tmp_path, capsys
):
    on_int8(folder, tmp_path).run()
    exports = {"int8": tmp_path, "": folder}
    for path in exports.values():
        capsys.readouterr()
        convert_experts.ExportPeft(
            model_dir=str(path),
            experts="{MODEL_DIR}/imported/lora",
            export_dir=f"{tmp_path / path.name}_peft",
        ).run()
        out = capsys.readouterr().out
        assert ("was trained on base held as int8" in out) == (path == tmp_path)
    for held, path in exports.items():
        source = f"{tmp_path / path.name}_peft/lora"
        for base, other in exports.items():
            run = convert_experts.ImportPeft(
                model_dir=str(tmp_path / f"again_{held}"),
                source_paths=source,
                initial_checkpoint_path=str(other / "base"),
            )
            if base == held:
                assert "note" not in run.plan()
                run.run()
                assert "not say" not in capsys.readouterr().out
                continue
            for act in (run.plan, run.run):
                with pytest.raises(
                    errors.CheckpointError, match=f"with base_dtype = '{held}'"
                ):
                    act()
