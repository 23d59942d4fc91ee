"""Experts and bases in memory: loaded, put on each other, saved in any place."""

import dataclasses
import pathlib
import shutil
import sys
import time
import types

import ml_dtypes
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import bucket, manifest
from elm_jax.model import t5
from elm_jax.peft import expert_parts, lora
from elm_jax.runs import bases, loaded
from tests.peft.sample import random_params
from tests.runs import scored

SPEC = lora.Lora(rank=2, targets="/query$")


def make_base(dtype=np.float32):
    params = random_params(t5.T5(scored.SHAPE))
    params = trees.unflatten(
        {n: np.asarray(leaf).astype(dtype) for n, leaf in trees.flatten(params).items()}
    )
    info = manifest.Manifest(
        name="small",
        kind="base",
        base_name="small",
        base_fingerprint=trees.fingerprint(params),
        model=bases.describe(scored.SHAPE) or {},
        trainable_pattern=".*",
    )
    return loaded.Expert(params, info, {"vocabulary.model": b"pieces"})


def make_expert(base, **changes):
    model = bases.build_model(scored.SHAPE, SPEC)
    params = trees.split(random_params(model, 1), expert_parts.ADAPTERS)[0]
    info = dataclasses.replace(
        base.manifest,
        name="reviews",
        kind="prompt",
        trainable_pattern=expert_parts.ADAPTERS,
        adapter=bases.describe(SPEC),
    )
    return loaded.Expert(params, dataclasses.replace(info, **changes))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose repositories are folders, in place of the package."""
    root = tmp_path / "hub"

    class HfApi:
        def create_repo(self, name, *, private, exist_ok):
            assert private
            assert exist_ok
            (root / name).mkdir(parents=True, exist_ok=True)

        def file_exists(self, name, file):
            return (root / name / file).exists()

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            assert commit_message
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def snapshot_download(name, *, revision, local_dir):
        if revision not in (None, "main"):
            raise LookupError(f"no revision {revision}")
        shutil.copytree(root / name, local_dir)

    fake = types.SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "bucket", "hub"])
def test_an_expert_comes_back_from_every_place_as_it_was_saved(tmp_path, hub, kind):
    del hub
    place = {
        "folder": f"{tmp_path}/reviews",
        "bucket": f"memory://{time.monotonic_ns()}/experts/reviews",
        "hub": "hf://us/reviews",
    }[kind]
    expert = make_expert(make_base())
    expert.save(place)
    again = loaded.Expert.load(place)
    assert trees.fingerprint(again.params) == trees.fingerprint(expert.params)
    assert again.manifest.params_fingerprint == trees.fingerprint(expert.params)
    assert again.adapter == SPEC
    assert again.config == scored.SHAPE
    again.save(tmp_path / "again")
    assert loaded.Expert.load(tmp_path / "again").manifest == again.manifest
    with pytest.raises(errors.ExistsError):
        expert.save(place)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_base_is_float32_in_memory_and_saved_as_it_was(tmp_path, dtype):
    saved = make_base(dtype)
    saved.save(tmp_path / "small")
    base = loaded.Base.load(tmp_path / "small")
    assert {leaf.dtype for leaf in trees.flatten(base.params).values()} == {
        np.dtype(np.float32)
    }
    assert base.fingerprint == saved.manifest.base_fingerprint
    assert base.attached == {"vocabulary.model": b"pieces"}
    base.save(tmp_path / "copy")
    copy = loaded.Base.load(tmp_path / "copy")
    assert copy.manifest == base.manifest
    assert (tmp_path / "copy/vocabulary.model").read_bytes() == b"pieces"


def test_an_expert_with_all_parameters_is_a_base_of_its_own(tmp_path):
    base = make_base()
    trained = trees.unflatten({n: x + 1 for n, x in trees.flatten(base.params).items()})
    info = dataclasses.replace(base.manifest, name="whole", kind="dataset")
    loaded.Expert(trained, info).save(tmp_path / "whole")
    whole = loaded.Base.load(tmp_path / "whole")
    assert whole.manifest.base_fingerprint == base.manifest.base_fingerprint
    assert whole.fingerprint == trees.fingerprint(trained) != info.base_fingerprint
    as_base = bases.read_manifest(tmp_path / "whole")
    assert (as_base.base_name, as_base.base_fingerprint) == ("whole", whole.fingerprint)
    with pytest.raises(errors.FingerprintError, match="one of base 'whole'"):
        whole.with_expert(make_expert(base))
    whole.with_expert(make_expert(base, base_fingerprint=whole.fingerprint))


def test_a_base_with_an_expert_is_the_whole_model(tmp_path):
    make_base().save(tmp_path / "small")
    base = loaded.Base.load(tmp_path / "small")
    expert = make_expert(base)
    whole = trees.flatten(base.with_expert(expert))
    for name, leaf in trees.flatten(expert.params).items():
        assert whole.pop(name) is leaf
    assert trees.fingerprint(trees.unflatten(whole)) == base.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_fingerprint": "0" * 16}, "one of base 'small'"),
        ({"adapter": None}, "extra: .*lora_a"),
        ({"adapter": bases.describe(lora.Lora(rank=3, targets="/query$"))}, "lora_a"),
        ({"model": {"emb_dim": 16}}, "num_heads = None"),
    ],
)
def test_an_expert_that_does_not_fit_is_refused(tmp_path, changes, message):
    make_base().save(tmp_path / "small")
    base = loaded.Base.load(tmp_path / "small")
    with pytest.raises(errors.CheckpointError, match=message):
        base.with_expert(make_expert(base, **changes))


def test_an_expert_with_adapters_is_no_base(tmp_path):
    make_expert(make_base()).save(tmp_path / "reviews")
    with pytest.raises(errors.CheckpointError, match="with adapters as a base"):
        loaded.Base.load(tmp_path / "reviews")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("memory://bucket/experts/", "found no expert 'experts'|no expert 'experts'"),
        ("gs://", "Add the name of the expert"),
        ("memory://bucket/x/other", "ends in /reviews"),
        ("hf://us", "hf://owner/repository"),
        ("hf://us/reviews@v1", "Leave the revision out"),
    ],
)
def test_what_is_no_place_is_refused(hub, place, message):
    del hub
    act = (
        (lambda: loaded.Expert.load(place))
        if message.startswith("found")
        else (lambda: make_expert(make_base()).save(place))
    )
    with pytest.raises(errors.ElmError, match=message):
        act()


def test_what_is_not_there_is_told_with_what_is(tmp_path, hub):
    del hub
    url = f"{tmp_path.as_uri()}/bucket"
    make_expert(make_base()).save(f"{url}/reviews")
    assert list(bucket.Bucket(url).copies()) == ["reviews"]
    with pytest.raises(errors.CheckpointError, match="Did you mean: reviews"):
        loaded.Expert.load(f"{url}/review")
    with pytest.raises(errors.CheckpointError, match="hf://us/none cannot be read"):
        loaded.Expert.load("hf://us/none")
    with pytest.raises(errors.CheckpointError, match="no revision v2"):
        loaded.Expert.load("hf://us/none@v2")
    with pytest.raises(errors.CheckpointError, match="manifest.json"):
        loaded.Expert.load(pathlib.Path(tmp_path / "nothing"))


def test_without_the_package_of_the_hub_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(errors.MissingExtraError, match=r"elm_jax\[hub\]"):
        loaded.Expert.load("hf://us/reviews")
