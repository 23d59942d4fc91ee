"""Arrow's directions against whole matrices."""

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.routing import directions


def test_a_loras_direction_is_the_first_singular_vector_of_its_product():
    rng = np.random.default_rng(0)
    down, up = rng.normal(size=(2, 9, 3)), rng.normal(size=(2, 3, 7))
    adapter = {"lora_a": down.astype(np.float32), "lora_b": up.astype(np.float32)}
    params = {"encoder": {"layers": {"wo_adapter": adapter}}}
    (arrows,) = directions.arrow_directions(params).values()
    for layer in range(2):
        left = np.linalg.svd(down[layer] @ up[layer])[0][:, 0]
        # Its sign means nothing.
        np.testing.assert_allclose(abs(arrows[layer] @ left), 1, rtol=1e-5)
    assert arrows.dtype == np.float32


def test_a_bottlenecks_direction_weighs_units_by_what_they_give():
    down = np.eye(4, 2, dtype=np.float32)
    up = np.array([[0.1, 0.0], [3.0, 4.0]], np.float32)
    adapter = {"down": {"kernel": down}, "up": {"kernel": up}}
    arrows = directions.arrow_directions({"mlp_adapter": adapter})
    np.testing.assert_allclose(np.abs(arrows["mlp_adapter"]), [0, 1, 0, 0], atol=1e-6)


def test_factors_have_no_direction():
    params = {"key_adapter": {"ia3_scale": np.ones(3, np.float32)}}
    with pytest.raises(errors.ConfigError, match="EffectNorm"):
        directions.arrow_directions(params)
