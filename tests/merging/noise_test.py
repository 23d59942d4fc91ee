"""Noise has the size of what an expert changes, and nothing else of it."""

import ml_dtypes
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import noise

RNG = np.random.default_rng(3)
BASE = {
    "encoder/layers/mlp/wi/kernel": RNG.normal(size=(2, 8, 4)),
    "encoder/norm/scale": np.ones(8),
    "encoder/untouched/scale": np.ones(8),
}
CHANGE = {
    "encoder/layers/mlp/wi/kernel": RNG.normal(size=(2, 8, 4))
    * np.array([1.0, 5.0])[:, None, None],
    "encoder/norm/scale": RNG.normal(size=8) * 0.1,
    "encoder/untouched/scale": np.zeros(8),
}


def tree(leaves, dtype=np.float32):
    return trees.unflatten({name: leaf.astype(dtype) for name, leaf in leaves.items()})


def make_noise(seed=0, dtype=np.float32, base=BASE):
    expert = tree({name: BASE[name] + CHANGE[name] for name in BASE}, dtype)
    merged = noise.Noise(random_seed=seed).merge([expert], base=tree(base, dtype))
    return trees.flatten(merged.params), trees.flatten(expert)


def test_noise_has_the_norm_of_the_change_in_every_layer_and_no_direction_of_it():
    noisy, expert = make_noise()
    for name, start in BASE.items():
        axes = (1, 2) if "/layers/" in name else (0,)
        gone = noisy[name] - start
        expected = np.sqrt(np.square(CHANGE[name]).sum(axis=axes))
        got = np.sqrt(np.square(gone).sum(axis=axes))
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    name = "encoder/layers/mlp/wi/kernel"
    change, gone = CHANGE[name].ravel(), (noisy[name] - BASE[name]).ravel()
    cosine = change @ gone / np.linalg.norm(change) / np.linalg.norm(gone)
    assert abs(cosine) < 0.5
    assert noisy[name].dtype == expert[name].dtype


def test_what_an_expert_left_alone_stays_as_it_is_in_the_base():
    noisy, _ = make_noise()
    np.testing.assert_array_equal(noisy["encoder/untouched/scale"], np.ones(8))


def test_noise_is_by_its_seed_and_the_name_of_the_tensor():
    name = "encoder/norm/scale"
    np.testing.assert_array_equal(make_noise()[0][name], make_noise()[0][name])
    assert np.abs(make_noise(seed=1)[0][name] - make_noise()[0][name]).max() > 0


def test_a_tensor_that_no_base_has_gets_its_own_norm():
    base = {name: BASE[name] for name in BASE if "norm" not in name}
    noisy, expert = make_noise(base=base)
    name = "encoder/norm/scale"
    assert np.linalg.norm(noisy[name]) == pytest.approx(np.linalg.norm(expert[name]))


def test_noise_keeps_the_dtype_of_the_expert():
    noisy, _ = make_noise(dtype=ml_dtypes.bfloat16)
    assert {leaf.dtype.name for leaf in noisy.values()} == {"bfloat16"}


def test_noise_of_several_experts_is_refused():
    expert = tree(BASE)
    with pytest.raises(errors.ConfigError, match="2 experts"):
        noise.Noise().merge([expert, expert], base=expert)
