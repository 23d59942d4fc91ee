"""Sums over the rows of an expert are what naive versions find."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.data import batches
from elm_jax.evaluation import batching
from elm_jax.runs import bases, measured_sums
from tests.model import naive_scores
from tests.runs import measured, toy_experts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toy_tasks")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder with a base, and three experts of each kind."""
    path = tmp_path_factory.mktemp("work")
    toy_experts.save(path)
    return path


def normalised(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def test_gram_matrices_are_sums_over_the_tokens_of_all_rows_and_no_padding(folder):
    of = measured.expert_of(folder, "whole")
    grams = measured_sums.grams(of)
    leaves = {
        n: np.asarray(a, float) for n, a in trees.flatten(of.expert.params).items()
    }
    tokens = np.concatenate([each.inputs for each in of.examples])
    read = leaves["token_embedder/embedding"][tokens]
    name = "encoder/layers/attention/query/kernel"
    read = normalised(read, leaves["encoder/layers/pre_attention_layer_norm/scale"][0])
    np.testing.assert_allclose(
        grams[name][0], read.T @ read / len(read), rtol=1e-5, atol=1e-8
    )
    model, total, count = bases.build_model(*of.network), 0.0, 0
    last_of = jax.jit(functools.partial(model.apply, gives_logits=False))
    for each in of.examples:  # one row at a time, without any padding
        targets = each.targets[None]
        rows = each.inputs[None], batches.shift_right(targets)
        last = last_of({"params": of.params}, *rows)
        last = np.asarray(last[0], float)
        total, count = total + last.T @ last, count + len(last)
    np.testing.assert_allclose(
        grams["decoder/logits_dense/kernel"], total / count, rtol=1e-5, atol=1e-6
    )
    matrices = {n for n in leaves if n.endswith("kernel")}
    assert {*grams} == matrices


@pytest.mark.parametrize(
    ("kind", "measure"),
    [("whole", measured_sums.grams), ("ia3", measured_sums.fisher)],
)
def test_the_batch_size_changes_only_rounding(folder, kind, measure):
    small, large = (
        measure(measured.expert_of(folder, kind, size, task="long_ask"))
        for size in (1, 8)
    )
    for name, leaf in small.items():
        np.testing.assert_allclose(large[name], leaf, rtol=2e-4, atol=1e-7)
    assert {*small} == {*large}


@pytest.mark.parametrize(
    ("kind", "part", "axis"), [("lora", "lora_a", -2), ("ia3", "ia3_scale", -1)]
)
def test_adapters_have_statistics_of_what_they_read(folder, kind, part, axis):
    of = measured.expert_of(folder, kind)
    grams = measured_sums.grams(of)
    leaves = trees.flatten(of.expert.params)
    assert {*grams} == {name for name in leaves if name.endswith(part)}
    for name, gram in grams.items():
        width = leaves[name].shape[axis]
        assert gram.shape == (1, *((width, width) if part == "lora_a" else (width,)))


def test_hidden_activations_are_those_of_what_the_bottleneck_reads(folder):
    of = measured.expert_of(folder, "bottleneck")
    leaves = trees.flatten(of.expert.params)
    downs = [name for name in leaves if name.endswith("down/kernel")]
    ups = [name.replace("down", "up") for name in downs]
    read = measured_sums.hidden(of, downs, 30, 0)
    hidden = measured_sums.hidden(of, ups, 30, 0)
    again = measured_sums.hidden(of._replace(batch_size=8), ups, 30, 0)
    for down, up in zip(downs, ups, strict=True):
        bias = leaves[down.replace("kernel", "bias")][:, None]
        expected = jax.nn.gelu(read[down] @ leaves[down] + bias)
        np.testing.assert_allclose(hidden[up], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(again[up], hidden[up], rtol=1e-4, atol=1e-5)
    tokens = sum(len(each.targets) for each in of.examples)
    decoder = next(name for name in ups if name.startswith("decoder"))
    assert hidden[decoder].shape == (1, min(30, tokens), 4)


@pytest.mark.parametrize("task", ["twice_ask", "written_ask"])
def test_fisher_information_is_the_expected_square_of_single_gradients(folder, task):
    of = measured.expert_of(folder, "bottleneck", task=task)
    of = of._replace(examples=of.examples[:2])
    squares = measured_sums.fisher(of)
    score = naive_scores.make_score_fn(bases.build_model(*of.network))
    params, base = trees.as_float32(of.expert.params), of.base.params

    @jax.jit
    def log_likelihoods(params, inputs, choices):
        mask = np.ones((1, len(choices)), bool)
        scores = score(trees.replace(base, params), inputs[None], choices[None], mask)[
            0
        ]
        return jax.nn.log_softmax(scores) if len(choices) > 1 else scores

    slopes_of = jax.jit(jax.jacobian(log_likelihoods))
    total: dict[str, Any] = dict.fromkeys(squares, 0.0)
    for each in of.examples:
        choices_of = dict(zip(each.choices_text, each.choices, strict=True))
        answers = [*choices_of.values()] or [each.targets]  # each text once
        row = each.inputs, batching.pad(answers, 8)
        values, slopes = log_likelihoods(params, *row), slopes_of(params, *row)
        assert len(answers) == (2 if task == "twice_ask" else 1)
        for answer, value in enumerate(values):
            share = np.exp(value) if each.choices else 1.0
            for name, leaf in trees.flatten(slopes).items():
                total[name] += share * np.square(np.asarray(leaf[answer], float))
    for name, leaf in squares.items():
        expected = total[name] / len(of.examples)
        np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-6)
    assert {*squares} == {*trees.flatten(params)}
