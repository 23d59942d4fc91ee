"""Experts with bottleneck adapters go out to programs of torch, and come in."""

import dataclasses
import json

import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.runs import convert_bottlenecks
from tests.checkpoints import bottleneck_sample, peft_sample


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
