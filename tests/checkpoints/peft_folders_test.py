"""Adapters of PEFT: read as PEFT computes with them, written as PEFT reads them."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors, trees
from elm_jax.checkpoints import peft_folders
from elm_jax.model import t5
from elm_jax.runs import bases
from tests.checkpoints import make_peft_golden, peft_sample

SHAPES = peft_sample.shapes()
LORA = [case for case in make_peft_golden.CASES if case.startswith("lora")]
Q = "base_model.model.encoder.block.1.layer.0.SelfAttention.q"


def load(case):
    return peft_folders.load_peft(peft_sample.FOLDER / case, SHAPES)


def spec_of(expert):
    return bases.spec_from_json(expert.spec, "sample")


def logits(expert):
    model = bases.build_model(peft_sample.CONFIG, spec_of(expert))
    params = trees.replace(peft_sample.base(SHAPES), expert.params)
    tokens = (peft_sample.INPUTS, peft_sample.TARGETS)
    return jax.jit(model.apply)({"params": params}, *tokens)


def write(folder, case="lora", *, tensors=None, **changes):
    """Writes the folder of a case with other settings or tensors."""
    source = peft_sample.FOLDER / case
    shutil.copytree(source, folder)
    settings = json.loads((source / peft_folders.CONFIG).read_text()) | changes
    (folder / peft_folders.CONFIG).write_text(json.dumps(settings))
    if tensors is not None:
        path = folder / peft_folders.SAFETENSORS
        safetensors.numpy.save_file(tensors, path)
    return folder


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / peft_folders.SAFETENSORS)


# float32 sums in another order. Moving every parameter by its last bit moves the logits
# of the LoRA cases by up to 2.4e-5 of the largest, more than by 1e-5 on some machines.
TOLERANCE = 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", make_peft_golden.CASES)
def test_an_imported_adapter_computes_what_peft_computes(case):
    expected = np.load(peft_sample.FOLDER / case / "logits.npy")
    error = np.abs(logits(load(case)) - expected).max()
    assert error <= TOLERANCE * np.abs(expected).max()


def test_the_adapters_of_the_golden_files_change_the_result():
    base = t5.T5(peft_sample.CONFIG)
    tokens = (peft_sample.INPUTS, peft_sample.TARGETS)
    params = {"params": peft_sample.base(SHAPES)}
    plain = np.asarray(jax.jit(base.apply)(params, *tokens))
    for case in make_peft_golden.CASES:
        golden = np.load(peft_sample.FOLDER / case / "logits.npy")
        assert np.abs(golden - plain).max() > 0.1 * np.abs(plain).max(), case


@pytest.mark.parametrize("case", make_peft_golden.CASES)
def test_what_is_read_are_the_tensors_of_the_spec(case):
    expert = load(case)
    model = bases.build_model(peft_sample.CONFIG, spec_of(expert))
    expected, _ = trees.split(t5.param_shapes(model), "_adapter/")
    assert not trees.diff(expert.params, expected)
    assert {leaf.dtype for leaf in trees.flatten(expert.params).values()} == {
        np.dtype("float32")
    }


def test_defaults_of_peft_for_t5_are_our_defaults():
    assert load("lora").spec["targets"] == "/(query|value)$"
    assert load("ia3").spec["targets"] == "/(key|value|hidden)$"


@pytest.mark.parametrize("case", LORA)
def test_an_exported_lora_comes_back_bit_for_bit(case, tmp_path):
    expert = load(case)
    folder = tmp_path / "there" / case
    peft_folders.save_lora(folder, expert.spec, expert.params, base=SHAPES)
    again = peft_folders.load_peft(folder, SHAPES)
    assert again.spec == expert.spec
    assert trees.fingerprint(again.params) == trees.fingerprint(expert.params)


def test_an_exported_lora_has_the_files_and_settings_of_peft_s_own(tmp_path):
    expert = load("lora")
    peft_folders.save_lora(tmp_path / "x", expert.spec, expert.params, base=SHAPES)
    source = peft_sample.FOLDER / "lora"
    ours, original = tensors_of(tmp_path / "x"), tensors_of(source)
    assert ours.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(ours[name], array)
    settings, golden = (
        json.loads((folder / peft_folders.CONFIG).read_text())
        for folder in (tmp_path / "x", source)
    )
    golden["target_modules"].sort()  # a set to PEFT
    assert settings == {name: golden[name] for name in settings}


def test_what_peft_has_no_place_for_is_not_exported(tmp_path):
    expert = load("lora")
    norm = trees.unflatten({"encoder/encoder_norm/scale": np.ones(16, np.float32)})
    params = trees.join(expert.params, norm)
    with pytest.raises(errors.CheckpointError, match=r"encoder_norm/scale.*\n.*LoRA"):
        peft_folders.save_lora(tmp_path / "x", expert.spec, params, base=SHAPES)
    with pytest.raises(errors.CheckpointError, match="there already"):
        peft_folders.save_lora(tmp_path, expert.spec, expert.params, base=SHAPES)
    assert not list(tmp_path.iterdir())


def test_every_tensor_that_does_not_fit_is_named_at_once(tmp_path):
    tensors = tensors_of(peft_sample.FOLDER / "lora")
    del tensors[f"{Q}.lora_A.weight"]
    tensors[f"{Q}.lora_B.weight"] = np.zeros((12, 5), np.float32)
    tensors["base_model.model.lm_head.lora_A.weight"] = np.zeros(1, np.float32)
    folder = write(tmp_path / "x", tensors=tensors)
    with pytest.raises(errors.CheckpointError) as caught:
        peft_folders.load_peft(folder, SHAPES)
    message = str(caught.value)
    assert f"missing: {Q}.lora_A.weight" in message
    assert "extra: base_model.model.lm_head.lora_A.weight" in message
    assert f"misshapen: {Q}.lora_B.weight (12, 5) instead of (12, 4)" in message


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("lora", {"use_dora": True}, "use_dora = True"),
        ("lora", {"bias": "all"}, "bias = 'all'"),
        ("lora", {"modules_to_save": ["lm_head"]}, "modules_to_save = ['lm_head']"),
        ("lora", {"fan_in_fan_out": True}, "fan_in_fan_out = True"),
        ("lora", {"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ("lora", {"option_of_tomorrow": 1}, "option_of_tomorrow = 1"),
        ("lora", {"target_modules": None}, "target_modules = None"),
        ("lora", {"target_modules": ["c_attn"]}, "['c_attn']"),
        ("lora", {"target_modules": "(q"}, "cannot be read"),
        ("lora", {"peft_type": "VERA"}, "peft_type 'VERA'"),
        ("lora", {"use_rslora": "false"}, "use_rslora = 'false'"),
        ("lora", {"lora_alpha": 0}, "lora_alpha = 0"),
        ("lora", {"lora_alpha": "16"}, "lora_alpha = '16'"),
        ("lora", {"lora_dropout": "0.1"}, "lora_dropout = '0.1'"),
        ("lora", {"r": 4.0}, "r = 4.0"),
        ("lora", {"rank_pattern": {"q": 0}}, "rank_pattern = {'q': 0}"),
        ("lora", {"alpha_pattern": {"q": None}}, "alpha_pattern = {'q': None}"),
        ("lora", {"alpha_pattern": ["q"]}, "alpha_pattern = ['q']"),
        ("lora", {"lora_bias": True}, "lora_bias = True"),
        ("lora", {"bias": "lora_only"}, "bias = 'lora_only'"),
        ("lora", {"trainable_token_indices": [3]}, "trainable_token_indices = [3]"),
        ("lora", {"target_parameters": ["x"]}, "target_parameters = ['x']"),
        ("lora", {"layer_replication": [[0, 2]]}, "layer_replication = [[0, 2]]"),
        ("lora", {"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4'"),
        (
            "lora",
            {"target_modules": ".*q", "layers_to_transform": [0]},
            "layers_to_transform = [0]",
        ),
        ("lora", {"layers_pattern": "block"}, "layers_pattern = 'block'"),
        ("ia3", {"modules_to_save": ["lm_head"]}, "modules_to_save = ['lm_head']"),
        ("ia3", {"feedforward_modules": ["wo", "v"]}, "SelfAttention.v"),
        ("ia3", {"fan_in_fan_out": True}, "fan_in_fan_out = True"),
    ],
)
def test_an_option_with_an_effect_is_honoured_or_refused(
    case, changes, message, tmp_path
):
    folder = write(tmp_path / "x", case, **changes)
    with pytest.raises(errors.CheckpointError) as caught:
        peft_folders.load_peft(folder, SHAPES)
    assert message in str(caught.value)


def test_a_folder_without_tensors_is_refused(tmp_path):
    folder = write(tmp_path / "x")
    (folder / peft_folders.SAFETENSORS).unlink()
    with pytest.raises(errors.CheckpointError, match="neither"):
        peft_folders.load_peft(folder, SHAPES)
    (folder / peft_folders.CONFIG).write_text("[]")
    with pytest.raises(errors.CheckpointError, match=peft_folders.CONFIG):
        peft_folders.load_peft(folder, SHAPES)


def test_a_bin_file_needs_torch_and_says_how_to_get_it(tmp_path):
    folder = write(tmp_path / "x")
    (folder / peft_folders.SAFETENSORS).rename(folder / peft_folders.TORCH)
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(errors.MissingExtraError, match=r"elm_jax\[torch\]"):
            peft_folders.load_peft(folder, SHAPES)
        return
    tensors = tensors_of(peft_sample.FOLDER / "lora")
    state = {name: torch.tensor(array) for name, array in tensors.items()}
    torch.save(state, folder / peft_folders.TORCH)
    expert = peft_folders.load_peft(folder, SHAPES)
    assert trees.fingerprint(expert.params) == trees.fingerprint(load("lora").params)


# PEFT asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.slow
def test_peft_loads_what_is_exported_and_computes_the_same(tmp_path):
    peft = pytest.importorskip("peft")
    for case in LORA:
        expert = load(case)
        peft_folders.save_lora(tmp_path / case, expert.spec, expert.params, base=SHAPES)
        base = make_peft_golden.make_base()
        model = peft.PeftModel.from_pretrained(base, str(tmp_path / case)).eval()
        expected = make_peft_golden.logits(model)
        error = np.abs(logits(expert) - expected).max()
        assert error <= TOLERANCE * np.abs(expected).max(), case


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.slow
def test_the_golden_files_are_what_the_script_makes():
    pytest.importorskip("peft")
    for case in make_peft_golden.CASES:
        expected = np.load(peft_sample.FOLDER / case / "logits.npy")
        remade = make_peft_golden.logits(make_peft_golden.make(case))
        np.testing.assert_allclose(remade, expected, rtol=1e-4, atol=1e-5)
