"""Experts with bottleneck adapters go out to programs of torch, and come in."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.peft import expert_parts
from elm_jax.runs import bases, candidates, convert_bottlenecks, loaded
from tests.checkpoints import (
    bottleneck_sample,
    make_adapterhub_golden,
    peft_sample,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with a base and bottleneck experts."""
    path = tmp_path_factory.mktemp("work")
    params = peft_sample.base(bottleneck_sample.SHAPES)
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(peft_sample.CONFIG),
        trainable_pattern=".*",
    )
    experts.save_expert(path / "base", params, info)
    for case in bottleneck_sample.CASES:
        bottleneck_sample.save(path / "experts" / case, path / "base", case)
    return path


@pytest.mark.slow
def test_experts_are_exported_for_transformers_once(work, tmp_path, capsys):
    run = convert_bottlenecks.ExportBottleneck(
        model_dir=str(work),
        experts="{MODEL_DIR}/experts/*",
        export_dir=str(tmp_path / "torch"),
        base_model="google/t5",
    )
    assert run.plan()["finished already"] == 0
    run.run()
    assert run.plan()["finished already"] == 3
    for case in bottleneck_sample.CASES:
        expected = bottleneck_sample.export(case, tmp_path / "expected" / case)
        for path in expected.iterdir():
            assert (tmp_path / "torch" / case / path.name).read_bytes() == (
                path.read_bytes()
            )
    capsys.readouterr()
    run.run()
    assert capsys.readouterr().out.count("finished already: ") == 3


def test_what_has_no_bottlenecks_is_refused_before_anything_is_written(work, tmp_path):
    source = work / "experts/paper"
    params, info = experts.load_expert(source)
    plain = dataclasses.replace(info, adapter=None, name="plain")
    experts.save_expert(tmp_path / "experts/plain", params, plain)
    run = convert_bottlenecks.ExportBottleneck(
        model_dir=str(tmp_path), experts="{MODEL_DIR}/experts/plain"
    )
    for act in (run.plan, run.run):
        with pytest.raises(errors.ConfigError, match=r"'plain'(.|\n)*export_hf\.gin"):
            act()
    assert not (tmp_path / "torch").exists()


def test_tensors_that_a_manifest_does_not_tell_of_are_refused(work, tmp_path):
    params, info = experts.load_expert(work / "experts/paper")
    adapter = json.loads(json.dumps(info.adapter)) | {"reduction_factor": 2}
    experts.save_expert(
        tmp_path / "experts/paper", params, dataclasses.replace(info, adapter=adapter)
    )
    run = convert_bottlenecks.ExportBottleneck(
        model_dir=str(tmp_path), experts="{MODEL_DIR}/experts/paper"
    )
    with pytest.raises(errors.CheckpointError, match="misshapen"):
        run.run()
    assert not (tmp_path / "torch").exists()


# AdapterHub's `adapters`.


def importing(work, source, **fields):
    return convert_bottlenecks.ImportAdapterHub(
        model_dir=str(work),
        source_paths=str(source),
        initial_checkpoint_path="{MODEL_DIR}/base",
        **fields,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", make_adapterhub_golden.CASES)
def test_an_adapter_of_adapterhub_is_one_of_our_experts(work, case):
    run = importing(work, make_adapterhub_golden.FOLDER / case)
    run.run()
    assert run.plan()["finished already"] == 1
    base = loaded.Base.load(work / "base")
    candidate = candidates.Candidate("x", (work / "imported" / case,))
    params, adapter = candidate.load(base)
    model = bases.build_model(base.config, adapter)
    tokens = (peft_sample.INPUTS, peft_sample.TARGETS)
    logits = jax.jit(model.apply)({"params": params}, *tokens)
    expected = np.load(make_adapterhub_golden.FOLDER / case / "logits.npy")
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    info = manifest.read_manifest(work / "imported" / case)
    assert info.trainable_pattern == expert_parts.ADAPTERS


def exporting(work, tmp_path, **fields):
    return convert_bottlenecks.ExportAdapterHub(
        model_dir=str(work), export_dir=str(tmp_path / "hub"), **fields
    )


def test_an_expert_comes_back_from_adapterhub_s_format_bit_for_bit(
    work, tmp_path, capsys
):
    run = exporting(
        work, tmp_path, experts="{MODEL_DIR}/experts/paper", layer_norms="beside"
    )
    run.run()
    assert "to be loaded besides the adapter: " in capsys.readouterr().out
    assert run.plan()["finished already"] == 1
    importing(work, tmp_path / "hub/paper", expert_name="again").run()
    params, info = experts.load_expert(work / "imported/again")
    expected, original = experts.load_expert(work / "experts/paper")
    assert trees.fingerprint(params) == trees.fingerprint(expected)
    assert info.adapter == original.adapter
    assert info.trainable_pattern == original.trainable_pattern


def test_layer_norms_and_parallel_adapters_are_refused_by_a_dry_run(work, tmp_path):
    run = exporting(work, tmp_path, experts="{MODEL_DIR}/experts/paper")
    for act in (run.plan, run.run):
        with pytest.raises(errors.ConfigError, match="layer norms.*\n.*\n.*'beside'"):
            act()
    run = exporting(work, tmp_path, experts="{MODEL_DIR}/experts/parallel")
    for act in (run.plan, run.run):
        with pytest.raises(errors.CheckpointError, match="parallel = True"):
            act()
    assert not (tmp_path / "hub").exists()


def test_a_head_that_was_trained_is_not_left_behind(work, tmp_path):
    folder = shutil.copytree(make_adapterhub_golden.FOLDER / "houlsby", tmp_path / "x")
    path = folder / "model_head.safetensors"
    head = safetensors.numpy.load_file(path)
    head["lm_head.weight"][3, 4] += 0.01
    safetensors.numpy.save_file(head, path)
    with pytest.raises(errors.CheckpointError, match=r"another head.*lm_head\.weight"):
        importing(work, folder).run()
    assert not (work / "imported/x").exists()


def test_exports_say_that_the_base_was_held_as_int8(work, tmp_path, capsys):
    params, info = experts.load_expert(work / "experts/paper")
    held = dataclasses.replace(info, model=info.model | {"base_dtype": "int8"})
    experts.save_expert(tmp_path / "experts/paper", params, held)
    chosen = {"model_dir": str(tmp_path), "experts": "{MODEL_DIR}/experts/paper"}
    for run in (
        convert_bottlenecks.ExportBottleneck(**chosen),
        convert_bottlenecks.ExportAdapterHub(**chosen, layer_norms="beside"),
    ):
        run.run()
        assert "was trained on base held as int8" in capsys.readouterr().out
        assert run.plan()["finished already"] == 1
    for path in ("torch/paper/elm_expert.json", "adapterhub/paper/elm_jax.json"):
        assert json.loads((tmp_path / path).read_text())["base_dtype"] == "int8"
    with pytest.raises(errors.CheckpointError, match="with base_dtype = 'int8'"):
        importing(work, tmp_path / "adapterhub/paper", expert_name="other").run()
