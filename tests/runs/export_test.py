"""What cannot be exported whole is refused with the way that it can."""

import dataclasses

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, huggingface_files, manifest
from elm_jax.model import config, t5
from elm_jax.runs import export
from tests.peft.sample import random_params

MODEL = config.T5Config(
    vocab_size=11,
    emb_dim=6,
    num_heads=2,
    head_dim=4,
    mlp_dim=10,
    num_encoder_layers=2,
    num_decoder_layers=1,
)


def save(folder, params, **changes):
    facts = {
        "name": folder.name,
        "kind": "dataset",
        "base_name": "base",
        "base_fingerprint": "0" * 16,
        "model": dataclasses.asdict(MODEL),
        "trainable_pattern": ".*",
    }
    info = manifest.Manifest(**(facts | changes))
    experts.save_expert(folder, params, info)
    return str(folder)


def run(tmp_path, **fields):
    export_run = export.ExportHuggingFace(model_dir=str(tmp_path / "out"), **fields)
    export_run.run()
    return export_run


@pytest.mark.slow
def test_adapters_are_refused_with_the_way_to_export_them(tmp_path):
    params = random_params(t5.T5(MODEL))
    path = save(tmp_path / "x", params, kind="prompt", adapter={"kind": "lora"})
    with pytest.raises(errors.CheckpointError, match="PEFT"):
        run(tmp_path, expert_path=path)


def test_an_expert_of_norms_is_joined_with_its_base(tmp_path):
    base = random_params(t5.T5(MODEL))
    norms, _ = trees.split(base, "norm")
    norms = jax.tree.map(lambda leaf: np.full_like(leaf, 2), norms)
    fingerprint = trees.fingerprint(base)
    base_path = save(tmp_path / "base", base, kind="base", base_fingerprint=fingerprint)
    path = save(tmp_path / "norms", norms, base_fingerprint=fingerprint)
    with pytest.raises(errors.CheckpointError, match="missing: .*token_embedder"):
        run(tmp_path, expert_path=path)
    run(tmp_path, expert_path=path, initial_checkpoint_path=base_path)
    tensors = huggingface_files.open_folder(tmp_path / "out/huggingface/norms").tensors
    assert (tensors["encoder.final_layer_norm.weight"].read() == 2).all()
    embedding = tensors["shared.weight"].read()
    assert (embedding == base["token_embedder"]["embedding"]).all()


@pytest.mark.slow
def test_an_expert_of_another_base_is_not_joined(tmp_path):
    params = random_params(t5.T5(MODEL))
    fingerprint = trees.fingerprint(params)
    base = save(tmp_path / "base", params, kind="base", base_fingerprint=fingerprint)
    path = save(tmp_path / "x", params, base_fingerprint="1" * 16)
    with pytest.raises(errors.FingerprintError, match="Name the base"):
        run(tmp_path, expert_path=path, initial_checkpoint_path=base)


INT8 = dataclasses.asdict(MODEL) | {"base_dtype": "int8"}


@pytest.mark.parametrize("kind", [export.ExportHuggingFace, export.ExportT5X])
def test_an_expert_of_norms_of_a_base_in_int8_is_not_joined(tmp_path, kind):
    base = random_params(t5.T5(MODEL))
    norms, _ = trees.split(base, "norm")
    of_base = {"base_fingerprint": trees.fingerprint(base)}
    model_dir = {"model_dir": str(tmp_path / "out")}
    paths = {}
    for name, model in {"plain": dataclasses.asdict(MODEL), "int8": INT8}.items():
        changes = of_base | {"model": model}
        paths[name] = (
            save(tmp_path / f"{name}_base", base, kind="base", **changes),
            save(tmp_path / name, norms, **changes),
        )
    for expert, base_of in (("int8", "int8"), ("int8", "plain"), ("plain", "int8")):
        run = kind(
            expert_path=paths[expert][1],
            initial_checkpoint_path=paths[base_of][0],
            **model_dir,
        )
        for act in (run.plan, run.run):
            with pytest.raises(errors.ConfigError, match="that is held as int8"):
                act()
    assert not (tmp_path / "out").exists()
    # The base itself is the same in both forms.
    kind(expert_path=paths["int8"][0], **model_dir).run()
