"""What is recorded of an expert, against its own outputs and plain differences."""

import functools

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from elm_jax import trees
from elm_jax.evaluation import batching
from elm_jax.model import loss, t5
from elm_jax.peft import mixture
from elm_jax.routing import token_routers
from elm_jax.runs import bases, loaded, observed_rows, routing_records
from tests.runs import scored, toy
from tests.runs.routed import SETTINGS, observer, save_expert

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toy_tasks")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of one prompt expert, observed."""
    folder = tmp_path_factory.mktemp("observed")
    with scored.registered():
        scored.save_base(folder)
        save_expert(folder, "plain", 1)
        toy.build(folder, experts=("{MODEL_DIR}/experts/plain",)).run()
        observer(folder).run()
    return folder


@pytest.fixture
def stored(folder):
    info = loaded.Expert.load(folder / "experts" / "plain").manifest
    return routing_records.read(folder / "library" / "routing", info, SETTINGS)


@pytest.fixture
def rows(folder):
    info = loaded.Expert.load(folder / "experts" / "plain").manifest
    return observed_rows.Rows(toy.DATA.opened(observer(folder).place), info, SETTINGS)


def test_batches_are_no_longer_than_their_longest_row_needs(rows):
    """Most tasks have shorter rows than their features allow, and few long ones."""
    for batch in [*rows.once(), *map(rows.of_step, range(3))]:
        for name, least in (("encoder_input_tokens", 32), ("decoder_target_tokens", 8)):
            longest = int(np.count_nonzero(batch[name], axis=1).max())
            length = batch[name].shape[1]
            assert length == batching.round_up(longest, least=least), name


def outputs_of_rows_alone(model, params, rows):
    """Returns what sub-layers and their adapters gave for rows without padding.

    By name, [tokens, width].
    """
    outputs = {}
    sides = "encoder_input", "decoder_input", "decoder_target"
    for batch in rows.once():
        of_rows = zip(*(batch[f"{side}_tokens"] for side in sides), strict=True)
        for inputs, shifted, targets in of_rows:
            if not inputs.any():
                continue  # it fills up the batch
            seen = model.apply(
                {"params": params},
                inputs[inputs != 0][None],
                shifted[targets != 0][None],
                capture_intermediates=_is_sub_layer,
                mutable=["intermediates"],
            )[1]["intermediates"]
            for name, (values,) in trees.flatten(seen).items():
                of_row = np.asarray(values, np.float64)[0, 0]
                outputs.setdefault(name.removesuffix("/__call__"), []).append(of_row)
    assert {len(of_module) for of_module in outputs.values()} == {6}
    return {name: np.concatenate(values) for name, values in outputs.items()}


def _is_sub_layer(module, method):
    """Returns whether it is the result of a sub-layer or of its adapter."""
    name = f"{module.name}".removesuffix("_adapter")
    return name in ("attention", "self_attention", "mlp") and method == "__call__"


def test_norms_and_readings_of_every_place_are_of_real_tokens_alone(
    folder, stored, rows
):
    base = loaded.Base.load(folder / "base")
    expert = loaded.Expert.load(folder / "experts" / "plain")
    model = bases.build_model(base.config, expert.adapter)
    outputs = outputs_of_rows_alone(model, base.with_expert(expert), rows)
    assert len(stored) == 4  # the paper's places
    assert {place.split("/")[0] for place in stored} == {"encoder", "decoder"}
    for place, arrays in stored.items():
        read = outputs[place.removesuffix("_adapter")]
        norms = np.linalg.norm(outputs[place] - read, axis=-1)
        # Float32: differences of sums, and a variance as a difference of squares.
        close = functools.partial(np.testing.assert_allclose, err_msg=place)
        close(arrays["norm_mean"], [norms.mean()], rtol=1e-5)
        close(arrays["norm_std"], [norms.std()], rtol=1e-4)
        mean = read.mean(axis=0)[None]
        close(arrays["read_mean"], mean, rtol=0, atol=1e-5 * np.abs(mean).max())


def test_gates_are_those_of_adam_by_differences_of_the_loss(folder, stored, rows):
    """From 0, at a rate that falls to 0; PHATGOOSE's warm-up has no whole step here."""
    base = loaded.Base.load(folder / "base")
    expert = loaded.Expert.load(folder / "experts" / "plain")
    gated = mixture.Mixture(
        of=expert.adapter, num_experts=1, router=token_routers.OpenGate()
    )
    model = bases.build_model(base.config, gated)
    frozen = trees.replace(base.params, mixture.stack([expert.params]))
    shapes = trees.split(t5.param_shapes(model), "_adapter/router/")[0]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    start, as_tree = ravel_pytree(zeros)
    loss_fn = loss.make_loss_fn(model)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def losses(gates, batch):
        return loss_fn(trees.join(frozen, as_tree(gates)), batch, None)[0]

    gates, size, steps = np.array(start, np.float64), 0.1, SETTINGS.gate_steps
    each_way = size * np.eye(len(gates))
    mean, square = np.zeros((2, len(gates)))
    for step in range(steps):
        batch = rows.of_step(step)
        above, below = (
            np.asarray(losses(np.float32(gates + change), batch), np.float64)
            for change in (each_way, -each_way)
        )
        slope = (above - below) / (2 * size)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
        rate = SETTINGS.gate_learning_rate * (1 - step / steps)
        gates -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    expected = trees.flatten(as_tree(np.float32(gates)))
    for name, gate in expected.items():
        place = name.removesuffix(f"/{mixture.ROUTER}/gate")
        # Of gates up to 0.01; differences of float32 losses are 2e-5 off at the worst.
        np.testing.assert_allclose(stored[place]["gate"], gate[:, 0], rtol=0, atol=5e-5)
    assert len(expected) == len(stored)
    assert np.abs(gates).max() > 0.005
