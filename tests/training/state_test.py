import jax
import numpy as np

from elm_jax.training import optimizers, state
from tests.training import toy


def test_a_new_state_shares_no_memory_with_its_parameters():
    base = jax.tree.map(jax.numpy.asarray, toy.make_params())
    before = jax.tree.map(np.array, base)
    tx = optimizers.AdamW().make(1)
    made = state.init_state(base, tx, seed=0)
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(made)
    toy.assert_same_bits(base, before)


def test_a_state_passes_through_a_tree_map_and_a_jit():
    made = state.init_state(toy.make_params(), optimizers.Adafactor().make(1), seed=1)
    toy.assert_same_bits(jax.jit(lambda s: s)(made), made)
