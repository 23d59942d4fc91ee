"""Trees in memory as leaves that are read like those of files."""

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import tensors


def leaves_of(tree):
    """Returns the leaves of a tree by their names, as `tensors.Leaf`."""
    leaves = {}
    for name, leaf in trees.flatten(tree).items():
        array = np.asarray(leaf)
        tensor = tensors.Tensor(array.shape, array.dtype, lambda a=array: a)
        leaves[name] = tensors.whole(tensor)
    return leaves
