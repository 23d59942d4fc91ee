"""A kind of adapters that only a gin file knows trains, is saved, loaded and folded."""

import dataclasses

import numpy as np
import pytest

import elm_jax
from elm_jax import errors, trees
from elm_jax.cli import gin_flags
from elm_jax.model import t5
from elm_jax.partitioning import rules
from elm_jax.peft import adapters, fold, kind
from elm_jax.runs import bases, convert_experts, loaded, train
from tests.peft import own_kind
from tests.runs import scored

GIN = """
from __gin__ import dynamic_registration
from elm_jax.runs import task_data
from elm_jax.runs import train
from elm_jax.training import optimizers
from tests.peft import own_kind

train.Train:
  model_dir = "{folder}"
  kind = "prompt"
  tasks = "plain_ask"
  data = @task_data.TaskData()
  optimizer = @optimizers.AdamW()
  train_steps = 2
  batch_size = 8
  initial_checkpoint_path = "{folder}/base"
  adapter = @own_kind.Gain()
  expert_parts = "adapters"
optimizers.AdamW.learning_rate = 0.1
own_kind.Gain.part = "wo"
task_data.TaskData:
  vocabulary_path = "{vocabulary}"
  feature_lengths = {{"inputs": 24, "targets": 8}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a gin file trained with such adapters."""
    folder = tmp_path_factory.mktemp("gain")
    scored.save_base(folder)
    path = folder / "train.gin"
    path.write_text(GIN.format(folder=folder, vocabulary=scored.MODEL))
    with scored.registered():
        run, _, _ = gin_flags.build_run([train.Train], gin_files=[str(path)])
        run.run()
    return folder


@pytest.mark.slow
def test_it_trains_and_is_loaded_by_its_name(folder):
    expert = loaded.Expert.load(folder / "experts" / "plain_ask")
    assert expert.adapter == own_kind.Gain(part="wo")
    leaves = trees.flatten(expert.params)
    assert {name.rpartition("/")[2] for name in leaves} == {"gain"}
    assert all(np.any(leaf != 1.0) for leaf in leaves.values())


@pytest.mark.slow
def test_it_is_scored_and_folded_into_a_model_that_scores_alike(folder):
    convert_experts.FoldExpert(
        model_dir=str(folder),
        expert_path="{MODEL_DIR}/experts/plain_ask",
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()
    base = elm_jax.Base.load(folder / "base")
    expert = elm_jax.Expert.load(folder / "experts" / "plain_ask")
    whole = elm_jax.Base.load(folder / "folded" / "plain_ask")
    question = ("Row 1 ?", ("yes", "no"))
    scores = [
        elm_jax.Model(*parts, vocabulary=scored.MODEL).score(*question)
        for parts in ((base, expert), (whole,), (base,))
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    assert np.abs(scores[0] - scores[2]).max() > 1e-3


@pytest.mark.slow
def test_it_is_summed_and_placed_by_what_it_says(folder):
    base = elm_jax.Base.load(folder / "base")
    expert = elm_jax.Expert.load(folder / "experts" / "plain_ask")
    twice = elm_jax.merge(
        [expert, expert], base, name="twice", method="task_arithmetic"
    )
    for name, leaf in trees.flatten(twice.params).items():
        change = trees.flatten(expert.params)[name]
        np.testing.assert_allclose(leaf - 1, 2 * (change - 1), rtol=1e-5)
    assert rules.logical_axes("decoder/layers/mlp/wo_adapter/gain", (2, 16)) == (
        *("layers", "embed"),
    )


def test_a_name_or_a_parameter_that_is_taken_is_refused():
    with pytest.raises(errors.ConfigError, match="'lora' is that of"):

        @adapters.register
        @dataclasses.dataclass(frozen=True)
        class Lora(kind.AdapterKind):
            kind: str = "lora"

    with pytest.raises(errors.ConfigError, match="axes of lora_a"):

        @adapters.register
        @dataclasses.dataclass(frozen=True)
        class Other(kind.AdapterKind):
            kind: str = "other"
            axes = {"lora_a": ("inputs",)}  # noqa: RUF012

    with pytest.raises(errors.ConfigError, match="no field `kind`"):
        adapters.register(kind.AdapterKind)
    assert "other" not in adapters.KINDS


@pytest.mark.slow
def test_what_defines_no_fold_cannot_be_folded():
    with pytest.raises(errors.ConfigError, match="bottleneck"):
        fold.fold({}, adapters.spec_type("bottleneck")())
    model = bases.build_model(scored.SHAPE, own_kind.Gain())
    params = t5.init_params(model, seed=0)
    assert not [
        n for n in trees.flatten(fold.fold(params, own_kind.Gain())) if "_ad" in n
    ]
