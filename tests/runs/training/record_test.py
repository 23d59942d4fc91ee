"""What is written down of a training is what earlier releases wrote of it."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.cli import gin_flags
from elm_jax.model import t5
from elm_jax.runs import train
from elm_jax.runs.training import record
from tests.peft.sample import random_params
from tests.runs.training import landed

RECORDED = pathlib.Path(__file__).parents[2] / "fixtures" / "trainings"
CASES = json.loads((RECORDED / "settings_before_parts.json").read_text("utf-8"))
"""By the code of a008a5b, of the shape of `landed`: before fields had moved."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder with a base, untrained."""
    path = tmp_path_factory.mktemp("recorded")
    params = random_params(t5.T5(landed.SHAPE))
    facts = landed.facts_of("base", kind="base", fingerprint=trees.fingerprint(params))
    experts.save_expert(path / "base", params, facts)
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["training"]["kind"])
def test_an_expert_of_an_earlier_release_is_the_one_that_is_asked_for(folder, case):
    run, *_ = gin_flags.build_run(
        [train.Train],
        gin_files=[case["gin_file"]],
        bindings=[f"MODEL_DIR = '{folder}'", *case["bindings"]],
    )
    spec = run.spec()
    settings = record.settings(spec, spec.experts[case["expert"]])
    assert settings.pop("base_fingerprint", None) or spec.base_dir is None
    assert settings == case["training"]
    assert list(settings) == list(case["training"])  # as manifests have them


def test_the_configuration_that_an_earlier_release_wrote_down_is_read(folder):
    """It names every field that a training had then, also those at their defaults."""
    bindings = [f"MODEL_DIR = '{folder}'"]
    file = RECORDED / "operative_before_parts.gin"
    run, *_ = gin_flags.build_run(
        [train.Train], gin_files=[f"{file}"], bindings=bindings
    )
    spec = run.spec()
    assert sorted(spec.experts) == ["pocket_kinds_which_is", "pocket_notes_tell"]
    assert not spec.is_fleet
    assert (spec.batching.num_shapes, spec.saving.keep_last) == (2, 1)
    assert (
        spec.experts["pocket_notes_tell"].folder
        == folder / "alone" / "pocket_notes_tell"
    )


def test_a_finished_expert_of_an_earlier_release_is_kept(folder):
    case = next(c for c in CASES if c["training"]["kind"] == "dataset")
    run, *_ = gin_flags.build_run(
        [train.Train],
        gin_files=[case["gin_file"]],
        bindings=[f"MODEL_DIR = '{folder}'", *case["bindings"]],
    )
    info = landed.facts_of(case["expert"], kind="dataset", training=case["training"])
    info = dataclasses.replace(info, tasks=run.spec().experts[case["expert"]].tasks)
    target = run.expert_dir(case["expert"])
    experts.save_expert(target, {"norm": np.ones(3, np.float32)}, info)
    assert (target / manifest.FILE_NAME).is_file()
    run.landing.check_unchanged([case["expert"]])
    assert run.landing.unfinished([case["expert"]]) == []
