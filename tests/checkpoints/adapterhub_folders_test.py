"""Adapters of AdapterHub's `adapters`: read as it computes, written as it reads."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors, trees
from elm_jax.checkpoints import adapterhub_folders
from elm_jax.peft import bottleneck, points
from elm_jax.runs import bases
from tests import readmes
from tests.checkpoints import (
    bottleneck_sample,
    make_adapterhub_golden,
    make_peft_golden,
    peft_sample,
)

FOLDER = make_adapterhub_golden.FOLDER
ALL = pytest.mark.parametrize("case", make_adapterhub_golden.CASES)
TOLERANCE = 1e-5  # of the largest logit; float32 sums in another order
DOWN = "encoder.block.0.layer.0.adapters.houlsby.adapter_down.0.weight"


def base_head():
    base = peft_sample.base(bottleneck_sample.SHAPES)
    return np.asarray(base["decoder"]["logits_dense"]["kernel"]).T


def load(folder):
    return adapterhub_folders.load(folder, bottleneck_sample.SHAPES, base_head)


def spec_of(expert):
    return bases.spec_from_json(expert.spec, "sample")


def logits(expert):
    return bottleneck_sample.logits(spec_of(expert), expert.params)


def save(folder, spec, params, **options):
    adapterhub_folders.save(
        folder,
        dataclasses.asdict(spec),
        params,
        base=bottleneck_sample.SHAPES,
        name="x",
        **options,
    )


def error_of(logits, case):
    expected = np.load(FOLDER / case / "logits.npy")
    return np.abs(logits - expected).max() / np.abs(expected).max()


@pytest.fixture
def folder(tmp_path):
    """A copy of a case, to be changed."""
    return shutil.copytree(FOLDER / "houlsby", tmp_path / "houlsby")


def change(folder, top=None, **config):
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    content["config"] |= config
    path.write_text(json.dumps(content | (top or {})))


@pytest.mark.slow
@ALL
def test_an_imported_adapter_computes_what_adapters_computes(case):
    assert error_of(logits(load(FOLDER / case)), case) <= TOLERANCE


@pytest.mark.slow
def test_adapters_computed_with_our_export_what_we_compute(tmp_path):
    """With the layer norms beside it loaded as well."""
    spec, parts = bottleneck_sample.CASES["paper"]
    params = bottleneck_sample.draw(spec, parts)
    logits = bottleneck_sample.logits(spec, params)
    assert error_of(logits, "ours") <= TOLERANCE
    folder = bottleneck_sample.export_to_hub("paper", tmp_path / "new")
    for name in ("adapter.safetensors", "layer_norms.safetensors"):
        exported, golden = (
            safetensors.numpy.load_file(path / name)
            for path in (folder, FOLDER / "ours")
        )
        assert exported.keys() == golden.keys()
        for key, array in golden.items():
            np.testing.assert_allclose(exported[key], array, rtol=1e-6)
    settings = (folder / "adapter_config.json").read_text()
    assert settings == (FOLDER / "ours/adapter_config.json").read_text()


@pytest.mark.slow
@ALL
def test_adapters_of_the_golden_files_change_the_result(case):
    expert = load(FOLDER / case)
    silent = trees.unflatten(
        {n: np.zeros_like(leaf) for n, leaf in trees.flatten(expert.params).items()}
    )
    plain = bottleneck_sample.logits(spec_of(expert), silent)
    assert error_of(plain, case) > 0.1


@ALL
def test_an_exported_adapter_comes_back_bit_for_bit(case, tmp_path):
    expert = load(FOLDER / case)
    save(tmp_path / case, spec_of(expert), expert.params)
    again = load(tmp_path / case)
    assert (again.spec, again.has_norms) == (expert.spec, False)
    assert trees.fingerprint(again.params) == trees.fingerprint(expert.params)


@pytest.mark.parametrize("case", ["paper", "sum"])
def test_layer_norms_come_back_from_the_file_beside(case, tmp_path):
    spec, parts = bottleneck_sample.CASES[case]
    params = bottleneck_sample.draw(spec, parts)
    again = load(bottleneck_sample.export_to_hub(case, tmp_path / case))
    assert again.has_norms
    assert trees.fingerprint(again.params) == trees.fingerprint(params)
    exported = spec_of(again)
    assert (exported.activation, exported.points) == (spec.activation, spec.points)


def test_what_equals_adapters_own_file_is_written_as_it_writes_it(tmp_path):
    expert = load(FOLDER / "houlsby")
    adapterhub_folders.save(
        tmp_path / "x",
        dataclasses.asdict(spec_of(expert)),
        expert.params,
        base=bottleneck_sample.SHAPES,
        name="houlsby",
    )
    ours, original = (
        safetensors.numpy.load_file(path / "adapter.safetensors")
        for path in (tmp_path / "x", FOLDER / "houlsby")
    )
    assert ours.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(ours[name], array)
    exported, golden = (
        json.loads((path / "adapter_config.json").read_text())
        for path in (tmp_path / "x", FOLDER / "houlsby")
    )
    config = golden.pop("config")
    assert exported.pop("config") == {n: config[n] for n in config if n in _WRITTEN}
    assert exported == golden


_WRITTEN = (
    *("adapter_residual_before_ln", "cross_adapter", "dropout", "init_weights"),
    *("inv_adapter", "inv_adapter_reduction_factor", "is_parallel", "leave_out"),
    *("ln_after", "ln_before", "mh_adapter", "non_linearity", "original_ln_after"),
    *("original_ln_before", "output_adapter", "phm_layer", "reduction_factor"),
    *("residual_before_ln", "scaling", "use_gating"),
)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("pfeiffer", "original_ln_before = True"),
        ("parallel", "is_parallel = True"),
        ("compacter", "non_linearity = 'gelu', phm_layer = True"),
        ("invertible", "inv_adapter = 'nice'"),
        ("lora", "architecture = 'lora'"),
    ],
)
def test_settings_that_adapters_wrote_for_other_functions_are_refused(case, message):
    with pytest.raises(errors.CheckpointError, match=message):
        load(FOLDER / "refused" / case)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ln_before": True}, "ln_before = True"),
        ({"ln_after": True}, "ln_after = True"),
        ({"original_ln_after": False}, "original_ln_after = False"),
        ({"residual_before_ln": "post_add"}, "residual_before_ln = 'post_add'"),
        ({"use_gating": True}, "use_gating = True"),
        ({"non_linearity": "gelu"}, "non_linearity = 'gelu'"),
        ({"non_linearity": None}, "non_linearity = None"),
        ({"non_linearity": ["relu"]}, r"non_linearity = \['relu'\]"),
        ({"scaling": 1}, "scaling = 1[.]?\n"),
        ({"scaling": "0.5"}, "scaling = '0.5'"),
        ({"scaling": 1e308}, r"scaling = 1e\+308"),
        ({"scaling": 0.0}, "scaling = 0.0"),
        ({"reduction_factor": 0}, "reduction_factor = 0"),
        ({"reduction_factor": True}, "reduction_factor = True"),
        ({"reduction_factor": "4"}, "reduction_factor = '4'"),
        ({"reduction_factor": {"0": 4}}, "tells nothing of some layers"),
        ({"reduction_factor": {"0": -4, "default": 4}}, "reduction_factor = "),
        ({"reduction_factor": 1e-300}, "too wide"),
        ({"reduction_factor": 5e-324}, "too wide"),
        ({"reduction_factor": 8}, r"\(4, 16\) instead of \(2, 16\)"),
        ({"leave_out": [0]}, "extra: encoder.block.0"),
        ({"leave_out": "0"}, "leave_out = '0'"),
        ({"leave_out": [0, 1, 2, 3, 4]}, "no adapter in any layer"),
        ({"cross_adapter": True}, "missing: decoder.block.0.layer.1"),
        ({"mh_adapter": False}, "extra: "),
        ({"mh_adapter": 1}, "mh_adapter = 1"),
        ({"output_adapter": None}, "output_adapter = None"),
        ({"option_of_tomorrow": 2}, "option_of_tomorrow = 2"),
    ],
)
def test_an_option_with_an_effect_is_obeyed_or_refused(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(errors.CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "pfeiffer"}, "config = 'pfeiffer'"),
        ({"config": None}, "config = None"),
        ({"name": "other"}, "missing: .*adapters.other"),
        ({"name": None}, "name = None"),
        ({"model_type": "bert"}, "model_type = 'bert'"),
        ({"hidden_size": 512}, "hidden_size = 512"),
    ],
)
def test_settings_of_other_models_are_refused(folder, changes, message):
    change(folder, top=changes)
    with pytest.raises(errors.CheckpointError, match=message):
        load(folder)


def test_activations_of_files_without_a_version_have_their_former_names(folder):
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    content["config"]["non_linearity"] = "GELU"
    del content["version"]
    path.write_text(json.dumps(content))
    assert load(folder).spec["activation"] == "gelu"


def test_names_of_models_with_flexible_heads_are_read_too(folder):
    path = folder / "adapter.safetensors"
    expected = trees.fingerprint(load(folder).params)
    tensors = safetensors.numpy.load_file(path)
    renamed = {f"transformer.{name}": array for name, array in tensors.items()}
    safetensors.numpy.save_file(renamed, path)
    assert trees.fingerprint(load(folder).params) == expected


def test_every_tensor_that_does_not_fit_is_named_at_once(folder):
    path = folder / "adapter.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["encoder.stranger"] = tensors.pop(DOWN)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(errors.CheckpointError) as caught:
        load(folder)
    assert f"missing: {DOWN}" in str(caught.value)
    assert "extra: encoder.stranger" in str(caught.value)


def test_numbers_that_are_not_finite_are_refused(folder):
    path = folder / "adapter.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors[DOWN][0, 0] = np.nan
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(errors.CheckpointError, match="NaN or infinite"):
        load(folder)
    tensors[DOWN][0, 0] = 1.0
    up = DOWN.replace("adapter_down.0", "adapter_up")
    tensors[up][0, 0] = 1e38
    safetensors.numpy.save_file(tensors, path)
    change(folder, scaling=100.0)
    with pytest.raises(errors.CheckpointError, match="times their scale"):
        load(folder)


def test_files_that_are_missing_or_of_torch_are_told(folder):
    path = folder / "adapter.safetensors"
    tensors = safetensors.numpy.load_file(path)
    expected = trees.fingerprint(load(folder).params)
    path.unlink()
    with pytest.raises(errors.CheckpointError, match="with neither"):
        load(folder)
    file = folder / "pytorch_adapter.bin"
    file.write_bytes(b"")
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(errors.MissingExtraError, match=r"elm_jax\[torch\]"):
            load(folder)
        return
    torch.save({name: torch.tensor(array) for name, array in tensors.items()}, file)
    assert trees.fingerprint(load(folder).params) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (bottleneck.Bottleneck(reduction_factor=4, parallel=True), "parallel = True"),
        (
            bottleneck.Bottleneck(
                reduction_factor=4, points=("encoder/mlp", "decoder/self_attention")
            ),
            "the same sub-layers in encoder and decoder",
        ),
    ],
)
def test_adapters_that_adapters_cannot_have_are_not_exported(spec, message, tmp_path):
    params = bottleneck_sample.draw(spec, "adapters")
    with pytest.raises(errors.CheckpointError, match=message):
        save(tmp_path / "x", spec, params)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "chosen",
    [
        points.SUB_LAYERS,
        ("decoder/cross_attention",),
        ("encoder/mlp",),
        ("decoder/mlp", "decoder/self_attention"),
    ],
)
def test_points_that_adapters_can_have_come_back(chosen, tmp_path):
    spec = bottleneck.Bottleneck(reduction_factor=2, points=chosen, activation="relu")
    params = bottleneck_sample.draw(spec, "adapters")
    save(tmp_path / "x", spec, params)
    again = load(tmp_path / "x")
    assert {*again.spec["points"]} == {*chosen}
    assert trees.fingerprint(again.params) == trees.fingerprint(params)


# `adapters` calls transformers by a former name.
BY_FORMER_NAME = pytest.mark.filterwarnings(
    "ignore:.past_key_value. is deprecated:FutureWarning"
)


@BY_FORMER_NAME
def test_adapters_loads_our_exports_and_computes_the_same(tmp_path):
    pytest.importorskip("adapters", reason="AdapterHub's package is not here")
    for case in ("paper", "sum"):
        folder = bottleneck_sample.export_to_hub(case, tmp_path / case)
        logits = make_adapterhub_golden.with_ours(folder)
        spec, parts = bottleneck_sample.CASES[case]
        expected = bottleneck_sample.logits(spec, bottleneck_sample.draw(spec, parts))
        assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


@BY_FORMER_NAME
def test_the_golden_files_are_what_adapters_computes():
    pytest.importorskip("adapters", reason="AdapterHub's package is not here")
    for case in make_adapterhub_golden.CASES:
        logits = make_adapterhub_golden.logits(make_adapterhub_golden.make(case))
        assert error_of(logits, case) <= TOLERANCE


@BY_FORMER_NAME
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """With the sample in the place of what it names."""
    pytest.importorskip("adapters", reason="AdapterHub's package is not here")
    import transformers

    readme = pathlib.Path(adapterhub_folders.__file__).with_name("README.md")
    (code,) = [
        block.code for block in readmes.blocks(readme) if "load_adapter" in block.code
    ]
    bottleneck_sample.export_to_hub(
        "paper", tmp_path / "runs/t5/adapterhub/dream_answer"
    )
    base = make_peft_golden.make_base()
    kind = transformers.T5ForConditionalGeneration
    monkeypatch.setattr(kind, "from_pretrained", lambda name: base)
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(code, space)
    assert error_of(make_adapterhub_golden.logits(space["model"]), "ours") <= TOLERANCE
