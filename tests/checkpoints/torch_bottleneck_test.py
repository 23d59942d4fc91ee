"""Bottleneck experts for transformers compute there what they compute here."""

import ast
import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors, trees
from elm_jax.checkpoints import torch_bottleneck
from elm_jax.peft import bottleneck, points
from tests import readmes
from tests.checkpoints import (
    bottleneck_sample,
    make_peft_golden,
    make_torch_bottleneck_golden,
    peft_sample,
)

LOADER = pathlib.Path(torch_bottleneck.__file__).with_name("elm_expert.py")
ALL = pytest.mark.parametrize("case", bottleneck_sample.CASES)
TOLERANCE = 1e-5  # of the largest logit; float32 sums in another order


def expert(case):
    spec, parts = bottleneck_sample.CASES[case]
    return spec, bottleneck_sample.draw(spec, parts)


def golden(case, name):
    return bottleneck_sample.FOLDER / case / name


def error_of(logits, expected):
    return np.abs(logits - expected).max() / np.abs(expected).max()


@pytest.mark.slow
@ALL
def test_transformers_computed_with_an_exported_expert_what_we_compute(case):
    expected = np.load(golden(case, "logits.npy"))
    assert error_of(bottleneck_sample.logits(*expert(case)), expected) <= TOLERANCE


@ALL
def test_what_is_exported_is_what_transformers_computed_with(case, tmp_path):
    folder = bottleneck_sample.export(case, tmp_path / "new" / case)
    exported, expected = (
        safetensors.numpy.load_file(path / "elm_expert.safetensors")
        for path in (folder, golden(case, ""))
    )
    assert exported.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(exported[name], array, rtol=1e-6)
    exported_settings, original_settings = (
        json.loads((path / "elm_expert.json").read_text())
        for path in (folder, golden(case, ""))
    )
    content = (folder / "elm_expert.safetensors").read_bytes()
    assert (
        exported_settings.pop("weights_sha256") == hashlib.sha256(content).hexdigest()
    )
    original_settings.pop("weights_sha256")
    assert exported_settings == original_settings
    digest = hashlib.sha256((folder / "elm_expert.py").read_bytes()).hexdigest()
    made_with = (bottleneck_sample.FOLDER / "loader.sha256").read_text().strip()
    assert digest == made_with, "run make_torch_bottleneck_golden.py again"


@ALL
def test_the_experts_of_the_golden_files_change_the_result(case):
    spec, params = expert(case)
    silent = trees.unflatten(
        {
            name: np.zeros_like(leaf) if "/up/" in name else np.ones_like(leaf)
            for name, leaf in trees.flatten(params).items()
            if "_adapter/" in name
        }
    )
    plain = bottleneck_sample.logits(spec, silent)
    assert error_of(np.load(golden(case, "logits.npy")), plain) > 0.1


def test_the_loader_knows_every_activation_and_point_of_ours():
    tables = {
        node.targets[0].id: node.value
        for node in ast.parse(LOADER.read_text("utf-8")).body
        if isinstance(node, ast.Assign)
    }
    activations = {key.value for key in tables["_ACTIVATIONS"].keys}
    for activation in activations:  # ours takes every one, and refuses others
        bottleneck.Bottleneck(activation=activation)
    with pytest.raises(errors.ConfigError) as caught:
        bottleneck.Bottleneck(activation="unknown")
    assert f"one of {', '.join(sorted(activations))}" in f"{caught.value}"
    assert {*ast.literal_eval(tables["_PLACES"])} == {*points.SUB_LAYERS}
    for name in ("CONFIG", "WEIGHTS", "FORMAT"):
        assert ast.literal_eval(tables[name]) == getattr(torch_bottleneck, name)


def test_the_loader_needs_nothing_of_ours():
    tree = ast.parse(LOADER.read_text("utf-8"))
    names = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert {name.partition(".")[0] for name in names} == {
        *("hashlib", "json", "pathlib", "warnings", "collections", "typing"),
        *("safetensors", "torch"),
    }


def write(folder, params, **changes):
    spec = bottleneck_sample.CASES["paper"][0]
    fields, model = dataclasses.asdict(spec), dataclasses.asdict(peft_sample.CONFIG)
    facts = {"name": "x", "base_name": "base", "base_model": None}
    torch_bottleneck.save(folder, fields, params, model=model | changes, facts=facts)


def test_what_transformers_has_no_place_for_is_not_exported(tmp_path):
    params = expert("paper")[1]
    embedding = trees.unflatten(
        {"token_embedder/embedding": np.ones((64, 16), np.float32)}
    )
    with pytest.raises(errors.CheckpointError, match="token_embedder/embedding"):
        write(tmp_path / "x", trees.join(params, embedding))
    leaves = trees.flatten(params)
    some = {n: a for n, a in leaves.items() if not n.startswith("encoder/layers/mlp")}
    with pytest.raises(errors.CheckpointError, match="encoder/mlp"):
        write(tmp_path / "x", trees.unflatten(some))
    with pytest.raises(errors.CheckpointError, match="per layer"):
        write(tmp_path / "x", params, relpos_per_layer=True)
    with pytest.raises(errors.CheckpointError, match="mlp_activations"):
        write(tmp_path / "x", params, mlp_activations=("tanh",))
    leaves = leaves | {"encoder/encoder_norm/scale": np.full(16, np.nan, np.float32)}
    with pytest.raises(errors.CheckpointError, match="NaN"):
        write(tmp_path / "x", trees.unflatten(leaves))
    with pytest.raises(errors.ExistsError, match="there already"):
        write(tmp_path, params)
    assert not list(tmp_path.iterdir())


# From here on: with torch and transformers.


@pytest.fixture
def base():
    """transformers' model of the sample's base."""
    pytest.importorskip("torch", reason="the loader runs in torch, which is not here")
    pytest.importorskip("transformers", reason="the loader needs transformers' T5")
    return make_peft_golden.make_base()


@pytest.fixture
def folder(base, tmp_path):
    return bottleneck_sample.export("paper", tmp_path / "paper")


def attach(model, folder):
    return make_torch_bottleneck_golden.loader(folder).attach(model)


@ALL
def test_transformers_computes_with_an_exported_expert_what_we_compute(
    base, case, tmp_path
):
    folder = bottleneck_sample.export(case, tmp_path / case)
    attach(base, folder)
    logits = make_peft_golden.logits(base)
    assert error_of(logits, bottleneck_sample.logits(*expert(case))) <= TOLERANCE


def test_a_detached_expert_leaves_the_base_as_it_was(base, folder):
    before = make_peft_golden.logits(base)
    names = sorted(base.state_dict())
    attached = attach(base, folder)
    assert attached.name == "paper"
    assert len([name for name in base.state_dict() if "elm_adapter" in name]) == 10 * 4
    assert not np.array_equal(make_peft_golden.logits(base), before)
    attached.detach()
    assert sorted(base.state_dict()) == names
    np.testing.assert_array_equal(make_peft_golden.logits(base), before)
    attach(base, folder)


# The name that transformers 4 and 5 both know.
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
def test_generation_with_its_cache_writes_what_whole_targets_say(base, folder):
    import torch
    import transformers

    attach(base, folder)
    inputs = torch.tensor(peft_sample.INPUTS)
    mask = (inputs != 0).long()
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 6}
    # Of its own it makes a cache for as many layers as the encoder has.
    caches = (transformers.DynamicCache(), transformers.DynamicCache())
    cache = transformers.EncoderDecoderCache(*caches)
    cached = base.generate(inputs, past_key_values=cache, **options)
    np.testing.assert_array_equal(
        cached, base.generate(inputs, use_cache=False, **options)
    )


def test_the_adapters_follow_the_model_to_another_dtype(base, folder):
    import torch

    attached = attach(base.to(torch.bfloat16), folder)
    modules = dict(base.named_modules())
    adapter = modules["decoder.block.0.layer.2.DenseReluDense.elm_adapter"]
    assert adapter.up.weight.dtype == torch.bfloat16
    base.float()
    assert adapter.up.weight.dtype == torch.float32
    attached.detach()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"activation": "__import__"}, "activation '__import__'"),
        ({"points": ["encoder/x"]}, "points"),
        ({"points": ["encoder/mlp"]}, "differ in decoder"),
        ({"parallel": "no"}, "parallel 'no'"),
        ({"width": 3}, "differ in decoder"),
        ({"width": 0}, "width 0"),
        ({"model": {"d_model": 512}}, "d_model 16 instead of 512"),
        ({"model": None}, "model"),
        ({"base_dtype": 8}, "base_dtype"),
        ({"weights_sha256": "0"}, "is not the file"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_change_nothing(
    base, folder, changes, message
):
    before = make_peft_golden.logits(base)
    path = folder / "elm_expert.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        attach(base, folder)
    np.testing.assert_array_equal(make_peft_golden.logits(base), before)


def test_an_expert_of_an_int8_base_warns_that_floats_are_another_function(base, folder):
    path = folder / "elm_expert.json"
    held = json.loads(path.read_text()) | {"base_dtype": "int8", "base_model": "a/b"}
    path.write_text(json.dumps(held))
    message = "'paper' was trained on a/b held as int8; this model holds it in floats"
    with pytest.warns(UserWarning, match=message):
        attached = attach(base, folder)
    attached.detach()
    path.write_text(json.dumps(held | {"base_dtype": ""}))
    with warnings.catch_warnings(action="error"):
        attach(base, folder)


def test_a_second_expert_waits_until_the_first_is_off(base, folder):
    attached = attach(base, folder)
    with pytest.raises(ValueError, match="'paper'; detach it first"):
        attach(base, folder)
    attached.detach()
    attach(base, folder)


def test_the_golden_files_are_what_the_script_makes(base, tmp_path):
    for case in bottleneck_sample.CASES:
        folder = shutil.copytree(golden(case, ""), tmp_path / case)
        shutil.copy(LOADER, folder)
        logits = make_torch_bottleneck_golden.logits(folder)
        expected = np.load(golden(case, "logits.npy"))
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_python_of_the_readme_runs(base, tmp_path, monkeypatch):
    """With the sample in the place of what it names."""
    import transformers

    folder = tmp_path / "runs/t5/torch/dream_answer"
    bottleneck_sample.export("paper", folder)
    readme = pathlib.Path(torch_bottleneck.__file__).with_name("README.md")
    (code,) = [
        block.code
        for block in readmes.blocks(readme)
        if "import elm_expert" in block.code
    ]
    kind = transformers.T5ForConditionalGeneration
    monkeypatch.setattr(kind, "from_pretrained", lambda name: base)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = make_peft_golden.logits(base)
    *most, detach = code.strip().splitlines()
    space = {}
    exec("\n".join(most), space)
    monkeypatch.delitem(sys.modules, "elm_expert")
    logits = make_peft_golden.logits(base)
    expected = bottleneck_sample.logits(*expert("paper"))
    assert error_of(logits, expected) <= TOLERANCE
    exec(detach, space)
    np.testing.assert_array_equal(make_peft_golden.logits(base), before)
