"""Experts of the original ELM code: read by name, and the same function."""

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import original_elm, tensors
from elm_jax.model import config, t5
from elm_jax.peft import bottleneck, expert_parts
from tests.checkpoints import elm_reference, peft_sample

SHAPE = peft_sample.CONFIG
SPEC = bottleneck.Bottleneck(reduction_factor=4)
MODEL = t5.T5(SHAPE, SPEC.adapter_fn(SHAPE.emb_dim))
EXPECTED, _ = trees.split(t5.param_shapes(MODEL), expert_parts.PROMPT_EXPERT)
BASE_SHAPES = t5.param_shapes(t5.T5(SHAPE))
START = "encoder.block.0.layer.0.adapter_controller.adapters"


@pytest.fixture(scope="module")
def hub_tensors():
    """The base by Hugging Face's names, and an expert by the ELM code's."""
    base = peft_sample.hub_tensors(BASE_SHAPES)
    return base, elm_reference.expert_tensors(base, width=4)


@pytest.mark.slow
def test_an_imported_expert_computes_what_the_original_code_computes(hub_tensors):
    base, named = hub_tensors
    expert = original_elm.from_tensors(named, EXPECTED, of="sample")
    assert expert.task == elm_reference.TASK
    params = trees.replace(peft_sample.base(BASE_SHAPES), expert.params)
    inputs, targets = np.arange(2, 52)[None], np.arange(10, 50)[None]
    logits = jax.jit(MODEL.apply)({"params": params}, inputs, targets)[0]
    original = elm_reference.Original(base, named, SHAPE.num_heads)
    expected = original.logits(inputs[0], targets[0])
    # float32 against float64, through five layers.
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_reference_needs_every_tensor_of_the_expert(hub_tensors):
    base, named = hub_tensors
    tokens = (np.arange(2, 9), np.arange(10, 14))
    expected = elm_reference.Original(base, named, 2).logits(*tokens)
    for name in named:
        changed = named | {name: named[name] + 0.5}
        logits = elm_reference.Original(base, changed, 2).logits(*tokens)
        assert np.abs(logits - expected).max() > 1e-4, name


def test_an_expert_of_t5_xl_is_506_files():
    xl = config.T5Config(
        vocab_size=32128,
        emb_dim=2048,
        num_heads=32,
        head_dim=64,
        mlp_dim=5120,
        num_encoder_layers=24,
        num_decoder_layers=24,
    )
    model = t5.T5(xl, bottleneck.Bottleneck().adapter_fn(xl.emb_dim))
    expected, _ = trees.split(t5.param_shapes(model), expert_parts.PROMPT_EXPERT)
    names = tensors.plain_shapes(trees.flatten(expected))
    assert len({original_elm.original_name(name, "x") for name in names}) == 506


def test_every_tensor_that_does_not_fit_is_named_at_once(hub_tensors):
    named = dict(hub_tensors[1])
    task = elm_reference.TASK
    del named[f"{START}.{task}.down_sampler.bias"]
    named[f"{START}.{task}.up_sampler.weight"] = np.zeros((16, 5), np.float32)
    named["shared.weight"] = np.zeros((64, 16), np.float32)
    with pytest.raises(errors.CheckpointError) as caught:
        original_elm.from_tensors(named, EXPECTED, of="sample")
    message = str(caught.value)
    assert f"missing: {START}.{task}.down_sampler.bias" in message
    assert "extra: shared.weight" in message
    assert f"{START}.{task}.up_sampler.weight (16, 5) instead of (16, 4)" in message


def test_adapters_of_two_tasks_are_refused(hub_tensors):
    named = dict(hub_tensors[1])
    named[f"{START}.other.up_sampler.bias"] = np.zeros(16, np.float32)
    with pytest.raises(errors.CheckpointError, match="cosmosqa, other"):
        original_elm.from_tensors(named, EXPECTED, of="sample")


def test_an_adapter_after_cross_attention_has_no_name_there():
    name = "decoder/layers_0/cross_attention_adapter/up/bias"
    with pytest.raises(errors.CheckpointError, match="cross_attention_adapter"):
        original_elm.original_name(name, "x")


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(errors.CheckpointError, match=r"no \.pt file"):
        original_elm.load_elm(tmp_path, EXPECTED)


def test_files_need_torch_and_the_error_says_how_to_get_it(hub_tensors, tmp_path):
    """With torch: parameters as `torch.save` writes them from the first GPU."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        (tmp_path / "shared.weight.pt").write_bytes(b"")
        with pytest.raises(errors.MissingExtraError, match=r"elm_jax\[torch\]"):
            original_elm.load_elm(tmp_path, EXPECTED)
        return
    location_tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda _: "cuda:0"
    try:
        for name, array in hub_tensors[1].items():
            parameter = torch.nn.Parameter(torch.tensor(array))
            torch.save(parameter, tmp_path / f"{name}.pt")
    finally:
        torch.serialization.location_tag = location_tag
    assert b"cuda:0" in (tmp_path / "encoder.final_layer_norm.weight.pt").read_bytes()
    expert = original_elm.load_elm(tmp_path, EXPECTED)
    expected = original_elm.from_tensors(hub_tensors[1], EXPECTED, of="sample")
    assert trees.fingerprint(expert.params) == trees.fingerprint(expected.params)
    torch.save({"a": torch.ones(1)}, tmp_path / "shared.weight.pt")
    with pytest.raises(errors.CheckpointError, match="a dict, not a tensor"):
        original_elm.load_elm(tmp_path, EXPECTED)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tensor_with_a_number_that_is_not_finite_is_refused(hub_tensors, bad):
    name = f"{START}.{elm_reference.TASK}.down_sampler.bias"
    changed = hub_tensors[1] | {name: np.full_like(hub_tensors[1][name], bad)}
    with pytest.raises(errors.CheckpointError, match="NaN or infinite.*down/bias"):
        original_elm.from_tensors(changed, EXPECTED, of="sample")
