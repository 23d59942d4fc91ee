"""Parameters for models whose first values are of no concern."""

import numpy as np

from elm_jax import trees
from elm_jax.model import t5


def params_of(model, *, seed):
    """Returns float32 parameters of the sizes that the initialisers give.

    No part starts as nothing. The program of the initialisers takes seconds to compile
    for each model; these take none.
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    for name, leaf in trees.flatten(t5.param_shapes(model)).items():
        drawn = rng.normal(scale=0.05, size=leaf.shape)
        if name.endswith("scale"):
            drawn += 1
        elif name.endswith(("kernel", "lora_a")):
            drawn += rng.normal(scale=leaf.shape[-2] ** -0.5, size=leaf.shape)
        elif name.endswith("embedding"):
            drawn += rng.normal(size=leaf.shape)
        leaves[name] = drawn.astype(np.float32)
    return trees.unflatten(leaves)
