"""Weights go in and come out by runs, bit for bit."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import t5x
from elm_jax.model import config, t5
from elm_jax.runs import convert, export, loaded

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "t5x_tiny"
MODEL = config.T5Config(
    vocab_size=384,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


def import_t5x(folder, source="plain_legacy_noopt", **changes):
    run = convert.ImportT5X(
        model_dir=str(folder),
        t5x_path=str(FIXTURES / source / "checkpoint_3"),
        model=MODEL,
        base_name="base",
        **changes,
    )
    run.run()
    return folder / "base"


@pytest.mark.slow
def test_a_base_goes_to_hugging_face_and_back(tmp_path):
    base = import_t5x(tmp_path / "a")
    run = export.ExportHuggingFace(
        model_dir=str(tmp_path / "a"), expert_path=str(base), max_shard_bytes=100_000
    )
    assert "bytes to write, at most" in run.plan()
    run.run()
    again = convert.ImportHuggingFace(
        model_dir=str(tmp_path / "b"),
        huggingface_path=str(tmp_path / "a/huggingface/base"),
        base_name="base",
        dtype="float32",
    )
    assert again.plan()["bytes to read"] == run.plan()["bytes to read"]
    again.run()
    before, after = loaded.Base.load(base), loaded.Base.load(tmp_path / "b" / "base")
    assert before.fingerprint == after.fingerprint
    assert before.config == after.config


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["legacy", "orbax"])
def test_a_base_goes_to_t5x_and_back(tmp_path, file_format):
    base = import_t5x(tmp_path)
    export.ExportT5X(
        model_dir=str(tmp_path), expert_path=str(base), file_format=file_format
    ).run()
    params, step = t5x.load_t5x(tmp_path / "t5x" / "base" / "checkpoint_3")
    assert step == 3
    assert trees.fingerprint(params) == loaded.Base.load(base).fingerprint


@pytest.mark.slow
def test_bfloat16_stays_so_on_disk_and_is_float32_in_memory(tmp_path):
    narrow = import_t5x(tmp_path / "kept", "plain_legacy_bf16")
    wide = import_t5x(tmp_path / "w", "plain_legacy_bf16", storage_dtype="float32")
    kept_bytes, wide_bytes = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (narrow, wide)
    )
    assert kept_bytes < wide_bytes
    kept_base, wide_base = loaded.Base.load(narrow), loaded.Base.load(wide)
    assert trees.fingerprint(kept_base.params) == trees.fingerprint(wide_base.params)
    assert kept_base.fingerprint != wide_base.fingerprint
    leaves = trees.flatten(kept_base.params).values()
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


@pytest.mark.slow
def test_the_scanned_network_computes_t5xs_logits_and_goes_back(tmp_path):
    """Tolerance: 1e-5 of the largest logit, float32 sums in another order."""
    run = convert.ImportT5X(
        model_dir=str(tmp_path),
        t5x_path=str(FIXTURES / "scan_legacy_noopt" / "checkpoint_3"),
        model=dataclasses.replace(MODEL, relpos_per_layer=True),
        base_name="base",
    )
    run.run()
    base = loaded.Base.load(tmp_path / "base")
    with np.load(FIXTURES / "scan_reference.npz") as file:
        logits = t5.T5(base.config).apply(
            {"params": base.params},
            file["encoder_input_tokens"],
            file["decoder_input_tokens"],
        )
        expected = file["logits"]
        counted = file["decoder_loss_weights"] > 0
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits[counted], expected[counted], atol=atol)
    export.ExportT5X(model_dir=str(tmp_path), expert_path=str(tmp_path / "base")).run()
    params, _ = t5x.load_t5x(tmp_path / "t5x" / "base" / "checkpoint_3")
    assert trees.fingerprint(params) == base.fingerprint


def test_a_model_of_another_shape_is_refused_before_anything_is_written(tmp_path):
    run = convert.ImportT5X(
        model_dir=str(tmp_path),
        t5x_path=str(FIXTURES / "scan_legacy_noopt" / "checkpoint_3"),
        model=MODEL,
        base_name="base",
    )
    with pytest.raises(errors.CheckpointError, match="rel_embedding"):
        run.run()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_whose_own_settings_tell_another_network_is_refused(tmp_path):
    source = FIXTURES / "plain_legacy_noopt"
    shutil.copytree(source / "checkpoint_3", tmp_path / "t5x" / "checkpoint_3")
    text = "network.T5Config.mlp_activations = ('silu', 'linear')"
    (tmp_path / "t5x" / "config.gin").write_text(text)
    run = convert.ImportT5X(
        model_dir=str(tmp_path / "x"),
        t5x_path=str(tmp_path / "t5x" / "checkpoint_3"),
        model=MODEL,
        base_name="base",
    )
    for fn in (run.plan, run.run):
        with pytest.raises(errors.CheckpointError, match="silu"):
            fn()
    assert not (tmp_path / "x").exists()


def test_plans_say_what_is_read_and_written_and_how_much_disk_is_free(tmp_path):
    run = convert.ImportT5X(
        model_dir=str(tmp_path / "not" / "there"),
        t5x_path=str(FIXTURES / "plain_legacy_bf16" / "checkpoint_3"),
        model=MODEL,
        base_name="base",
    )
    plan = run.plan()
    assert plan["bytes to read"] == plan["bytes to write, at most"] == "148.48 kB"
    assert "GB" in str(plan["free disk"])
    assert not list(tmp_path.iterdir())
    absent = convert.ImportHuggingFace(
        model_dir=str(tmp_path), huggingface_path="owner/name", base_name="base"
    )
    assert absent.plan()["model"] == "read after downloading"
