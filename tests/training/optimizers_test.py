import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elm_jax import errors, trees
from elm_jax.training import optimizers

LAYERS, STEPS = 3, 5


def stacked_params(rng):
    """A tree with matrices and vectors, in a stack and outside of it."""
    shapes = {
        "token_embedder/embedding": (11, 6),
        "encoder/layers/mlp/wi_0/kernel": (LAYERS, 6, 8),
        "encoder/layers/pre_mlp_layer_norm/scale": (LAYERS, 6),
        "decoder/layers/mlp/wo/kernel": (LAYERS - 1, 8, 6),
        "decoder/decoder_norm/scale": (6,),
    }
    leaves = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return trees.unflatten(leaves)


def per_layer(tree):
    """The same leaves as one tensor per layer, as peers hold them."""
    tensors = {}
    for name, leaf in trees.flatten(tree).items():
        if "layers" in name:
            tensors |= {f"{name}.{n}": layer for n, layer in enumerate(leaf)}
        else:
            tensors[name] = leaf
    return tensors


class ReferenceAdafactor:
    """Hugging Face's rule with scale_parameter and relative_step off, in float64."""

    def __init__(self, *, rate, clip_norm):
        self.rate, self.clip_norm, self.step, self.memory = rate, clip_norm, 0, {}

    def update(self, tensors, grads):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
        shrink = min(1.0, self.clip_norm / norm)
        self.step += 1
        return {
            name: tensor - self.rate * self.direction(name, shrink * grads[name])
            for name, tensor in tensors.items()
        }

    def direction(self, name, grad):
        keep = 1 - self.step**-0.8
        square = grad**2 + 1e-30
        if grad.ndim == 1:
            mean = self.remember(name, keep, square)
            update = grad / np.sqrt(mean)
        else:
            row = self.remember(f"{name} row", keep, square.mean(-1))
            col = self.remember(f"{name} col", keep, square.mean(-2))
            update = grad / np.sqrt(np.outer(row / row.mean(), col))
        return update / max(1.0, np.sqrt(np.mean(update**2)))

    def remember(self, name, keep, value):
        old = self.memory.get(name, 0.0)
        self.memory[name] = keep * old + (1 - keep) * value
        return self.memory[name]


def run_optimizer(optimizer, params, grads):
    tx = optimizer.make(STEPS)
    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for grad in grads:
        updates, state = update(jax.tree.map(jnp.asarray, grad), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.slow
def test_adafactor_on_stacked_layers_is_hugging_faces_on_each_layer():
    rng = np.random.default_rng(0)
    params = stacked_params(rng)
    # Layers of unlike size: clipping a stack as one tensor would show.
    scale = jax.tree.map(lambda x: 10.0 ** np.arange(x.shape[0]), params)
    grads = [
        jax.tree.map(
            lambda x, s: x * s.reshape((-1,) + (1,) * (x.ndim - 1)).astype(np.float32),
            stacked_params(rng),
            scale,
        )
        for _ in range(STEPS)
    ]
    updated = run_optimizer(
        optimizers.Adafactor(learning_rate=0.1, clip_norm=0.5), params, grads
    )
    reference = ReferenceAdafactor(rate=0.1, clip_norm=0.5)
    expected = per_layer(params)
    for grad in grads:
        expected = reference.update(expected, per_layer(grad))
    for name, tensor in per_layer(updated).items():
        np.testing.assert_allclose(tensor, expected[name], rtol=2e-5, atol=2e-6)


def test_adafactor_state_of_a_matrix_is_its_rows_and_columns():
    params = stacked_params(np.random.default_rng(0))
    state = optimizers.Adafactor().make(STEPS).init(params)
    assert trees.count_params(dict(enumerate(jax.tree.leaves(state)))) < (
        0.6 * trees.count_params(params)
    )


def test_adamw_is_the_published_rule():
    rng = np.random.default_rng(1)
    params = stacked_params(rng)
    grads = [stacked_params(rng) for _ in range(STEPS)]
    optimizer = optimizers.AdamW(learning_rate=0.1, clip_norm=1.0)
    updated = per_layer(run_optimizer(optimizer, params, grads))
    tensors = {n: t.astype(np.float64) for n, t in per_layer(params).items()}
    means = dict.fromkeys(tensors, 0.0)
    squares = dict.fromkeys(tensors, 0.0)
    for step, tree in enumerate(grads):
        grad = per_layer(tree)
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grad.values()))
        rate = 0.1 * (STEPS - step) / STEPS
        for name in tensors:
            g = grad[name] * min(1.0, 1.0 / norm)
            means[name] = 0.9 * means[name] + 0.1 * g
            squares[name] = 0.999 * squares[name] + 0.001 * g**2
            mean = means[name] / (1 - 0.9 ** (step + 1))
            square = squares[name] / (1 - 0.999 ** (step + 1))
            tensors[name] -= rate * mean / (np.sqrt(square) + 1e-8)
    for name, tensor in updated.items():
        np.testing.assert_allclose(tensor, tensors[name], rtol=1e-4, atol=1e-5)


def test_scaling_by_parameter_gives_each_layer_a_rate_of_its_own_size():
    sizes = np.array([1e-5, 1.0, 100.0], np.float32)  # of the layers; 1e-3 at least
    kernel = np.ones((LAYERS, 4, 5), np.float32) * sizes[:, None, None]
    params = trees.unflatten({"encoder/layers/mlp/wi_0/kernel": kernel})
    grads = [jax.tree.map(np.ones_like, params)]
    optimizer = optimizers.AdamW(
        learning_rate=0.1, scale_by_parameter=True, clip_norm=None
    )
    updated = per_layer(run_optimizer(optimizer, params, grads))
    # The first update of Adam is the gradient's sign.
    for n, rate in enumerate(0.1 * np.maximum(sizes, 1e-3)):
        name = f"encoder/layers/mlp/wi_0/kernel.{n}"
        np.testing.assert_allclose(updated[name], kernel[n] - rate, rtol=1e-5)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (5, 0.5), (10, 1.0), (60, 0.5), (110, 0.0)]
)
def test_linear_decay_rises_in_warmup_and_ends_at_zero(step, rate):
    optimizer = optimizers.AdamW(learning_rate=1.0, warmup_steps=10)
    rate_there = optimizer.learning_rate_at(step, num_steps=110)
    assert rate_there == pytest.approx(rate, abs=1e-6)


def test_constant_rate_stays_after_warmup():
    optimizer = optimizers.Adafactor(learning_rate=1.0, warmup_steps=2)
    rates = [optimizer.learning_rate_at(s, num_steps=9) for s in range(9)]
    assert rates == pytest.approx([0.0, 0.5] + [1.0] * 7)


@pytest.mark.parametrize(
    ("optimizer", "fields"),
    [
        (optimizers.AdamW, {"learning_rate": -1.0}),
        (optimizers.AdamW, {"decay": "cosine"}),
        (optimizers.AdamW, {"clip_norm": 0}),
        (optimizers.Adafactor, {"warmup_steps": -1}),
        (optimizers.Adafactor, {"learning_rate": float("nan")}),
    ],
)
def test_impossible_values_are_refused_by_name(optimizer, fields):
    with pytest.raises(errors.ConfigError, match=next(iter(fields))):
        optimizer(**fields)
