"""Token routers against plain NumPy forms of their papers, and their laws."""

import functools

import jax
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.routing import token_routers

NUM_EXPERTS, WIDTH = 5, 8
ROUTERS = {
    "arrow": token_routers.Arrow(),
    "effect_norm": token_routers.EffectNorm(),
    "calibrated_norm": token_routers.CalibratedNorm(),
    "mean_activation": token_routers.MeanActivation(),
    "gates": token_routers.Gates(),
    "random": token_routers.Random(),
}


@pytest.fixture
def seen():
    """What a router sees of two inputs of three tokens."""
    rng = np.random.default_rng(0)
    read = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    norms = rng.uniform(0.1, 2, size=(2, 3, NUM_EXPERTS)).astype(np.float32)
    return read, norms


def params_of(router, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.2, 2, size=(NUM_EXPERTS, *shape)).astype(np.float32)
        * (rng.choice([-1, 1], size=(NUM_EXPERTS, *shape)) if shape else 1).astype("f")
        if shape
        else rng.uniform(0.2, 2, size=NUM_EXPERTS).astype(np.float32)
        for name, shape in router.shapes(WIDTH).items()
    }


def naive_scores(name, params, read, norms):
    """Returns scores as the papers write them, token by token, in float64."""
    scores = np.empty((*read.shape[:-1], NUM_EXPERTS))
    for place in np.ndindex(read.shape[:-1]):
        x = read[place].astype(np.float64)
        for e in range(NUM_EXPERTS):
            expert = {n: np.asarray(a[e], np.float64) for n, a in params.items()}
            scores[(*place, e)] = {
                "arrow": lambda expert=expert, x=x: abs(expert["direction"] @ x),
                "effect_norm": lambda e=e, place=place: norms[place][e],
                "calibrated_norm": lambda expert=expert, e=e, place=place: (
                    (norms[place][e] - expert["norm_mean"])
                    # The epsilon of 1e-6 is ours: rows may have equal norms.
                    / (expert["norm_std"] + 1e-6)
                ),
                "mean_activation": lambda expert=expert, x=x: (
                    x
                    @ expert["read_mean"]
                    / np.linalg.norm(x)
                    / np.linalg.norm(expert["read_mean"])
                ),
                "gates": lambda expert=expert, x=x: (
                    ((x - x.mean()) / x.std())
                    @ ((expert["gate"] - expert["gate"].mean()) / expert["gate"].std())
                    / np.sqrt(WIDTH)
                ),
                "random": lambda expert=expert, x=x: np.cos(
                    10
                    * (((x - x.mean()) / x.std()) @ expert["random_direction"])
                    / np.sqrt(WIDTH)
                ),
            }[name]()
    return scores


def naive_weights(scores, top_k, temperature):
    weights = np.zeros_like(scores)
    for place in np.ndindex(scores.shape[:-1]):
        first = np.argsort(-scores[place], kind="stable")[:top_k]
        powers = np.exp(scores[place][first] / temperature)
        weights[place][first] = powers / powers.sum()
    return weights


@pytest.mark.parametrize("name", [*ROUTERS])
def test_weights_equal_those_of_the_paper_in_plain_numpy(name, seen):
    router, (read, norms) = ROUTERS[name], seen
    params = params_of(router)
    weights = router.weigh(params, read, norms, NUM_EXPERTS)
    scores = naive_scores(name, params, read, norms)
    expected = naive_weights(scores, router.top_k, router.temperature)
    # Float32; in the lengths of readings an epsilon of 1e-6, which papers have not.
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", [*ROUTERS])
def test_the_order_of_the_experts_orders_the_weights(name, seen):
    router, (read, norms) = ROUTERS[name], seen
    params, order = params_of(router), np.array([3, 0, 4, 1, 2])
    weights = router.weigh(params, read, norms, NUM_EXPERTS)
    moved = {n: a[order] for n, a in params.items()}
    again = router.weigh(moved, read, norms[..., order], NUM_EXPERTS)
    np.testing.assert_allclose(again, np.asarray(weights)[..., order], rtol=1e-5)


@pytest.mark.parametrize("name", [*ROUTERS])
def test_a_token_is_weighed_alone(name, seen):
    router, (read, norms) = ROUTERS[name], seen
    params = params_of(router)
    weights = router.weigh(params, read, norms, NUM_EXPERTS)
    alone = router.weigh(params, read[1:, 2:], norms[1:, 2:], NUM_EXPERTS)
    np.testing.assert_allclose(alone[0, 0], weights[1, 2], rtol=1e-5)


def test_the_top_k_get_all_of_the_weight_and_all_of_them_with_minus_1():
    scores = np.array([[0.0, 3.0, 1.0, 2.0]], np.float32)
    two = token_routers.top_k_softmax(scores, 2)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(two, [[0, share, 0, 1 - share]], rtol=1e-6)
    np.testing.assert_allclose(token_routers.top_k_softmax(scores, 4).sum(), 1, 1e-6)
    every = token_routers.EffectNorm(top_k=-1).weigh({}, scores, scores, 4)
    np.testing.assert_allclose(every, jax.nn.softmax(scores), rtol=1e-6)


def test_of_equal_scores_at_the_border_the_first_are_taken():
    scores = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(
        token_routers.top_k_softmax(scores, 2), [[0.5, 0.5, 0, 0]]
    )


def test_fixed_weights_are_the_same_everywhere_and_even_by_default(seen):
    read, norms = seen
    even = token_routers.Fixed().weigh({}, read, norms, 4)
    np.testing.assert_array_equal(even, np.full((2, 3, 4), 0.25, np.float32))
    weights = token_routers.Fixed(weights=(1.0, -2.0)).weigh({}, read, norms, 2)
    np.testing.assert_array_equal(weights[1, 2], [1.0, -2.0])
    with pytest.raises(errors.ConfigError, match="for 3 experts"):
        token_routers.Fixed(weights=(1.0, 2.0)).weigh({}, read, norms, 3)


def test_weights_of_a_first_stage_are_those_of_its_parameters_everywhere(seen):
    read, norms = seen
    params = {"weight": np.array([0.75, 0.25], np.float32)}
    weights = token_routers.FirstStage().weigh(params, read, norms, 2)
    expected = token_routers.Fixed(weights=(0.75, 0.25)).weigh({}, read, norms, 2)
    np.testing.assert_array_equal(weights, expected)


def random_weights(read, seed=0):
    router = token_routers.Random(random_seed=seed, top_k=1)
    drawn = [router.directions(f"expert {e}", (32,)) for e in range(4)]
    params = {"random_direction": np.stack(drawn)}
    return np.asarray(router.weigh(params, read, None, 4))


def test_a_random_router_gives_each_expert_its_share_of_alike_tokens():
    """Also of tokens that have most of what is read in common, as in a real model."""
    rng = np.random.default_rng(0)
    common, individual = rng.normal(size=32), rng.normal(size=(4000, 32))
    read = (3 * common + individual).astype(np.float32)
    weights, others = random_weights(read), random_weights(read, seed=1)
    # Of a fair choice, 4 standard errors of a share are 0.027.
    np.testing.assert_allclose(weights.mean(axis=0), 0.25, atol=0.03)
    assert abs((weights * others).sum(axis=1).mean() - 0.25) < 0.03
    neighbours = (weights[:-1] * weights[1:]).sum(axis=1).mean()
    assert abs(neighbours - 0.25) < 0.03


def test_rounding_of_what_is_read_changes_next_to_nothing_of_random_weights(seen):
    router, (read, _) = token_routers.Random(top_k=-1), seen
    params = params_of(router)
    weights = router.weigh(params, read, None, NUM_EXPERTS)
    moved = router.weigh(params, read * np.float32(1 + 1e-6), None, NUM_EXPERTS)
    np.testing.assert_allclose(moved, weights, atol=1e-4)


def test_random_directions_are_told_by_seed_and_name_alone():
    router = token_routers.Random()
    drawn = router.directions("a place", (2, 3))
    assert (drawn.shape, drawn.dtype) == ((2, 3), np.float32)
    np.testing.assert_array_equal(drawn, router.directions("a place", (2, 3)))
    assert not np.isin(drawn, router.directions("b place", (2, 3))).any()
    other = token_routers.Random(random_seed=1).directions("a place", (2, 3))
    assert not np.isin(drawn, other).any()


def test_a_gate_opens_by_the_sigmoid_of_its_product():
    read = np.array([[1.0, 2.0]], np.float32)
    gate = {"gate": np.array([[0.5, -1.0]], np.float32)}
    weights = token_routers.OpenGate().weigh(gate, read, None, 1)
    np.testing.assert_allclose(weights, [[1 / (1 + np.exp(1.5))]], rtol=1e-6)


PRODUCTS = {
    "arrow": ROUTERS["arrow"],
    "mean_activation": ROUTERS["mean_activation"],
    "gates": ROUTERS["gates"],
    "random": ROUTERS["random"],
    "open_gate": token_routers.OpenGate(),
}


@pytest.mark.parametrize("name", [*PRODUCTS])
def test_scores_ask_devices_for_whole_float32_products(name, seen):
    """By default GPUs would take TF32 for them, and TPUs bfloat16."""
    router, (read, norms) = PRODUCTS[name], seen
    weigh = functools.partial(router.weigh, norms=norms, count=NUM_EXPERTS)
    jaxpr = jax.make_jaxpr(weigh)(params_of(router), read)
    products = [
        equation for equation in jaxpr.eqns if equation.primitive.name == "dot_general"
    ]
    (precision,) = {product.params["precision"] for product in products}
    assert precision == (jax.lax.Precision.HIGHEST,) * 2


@pytest.mark.parametrize("change", [{"top_k": 0}, {"temperature": 0.0}])
def test_options_that_cannot_be_are_refused(change):
    with pytest.raises(errors.ConfigError):
        token_routers.Arrow(**change)
