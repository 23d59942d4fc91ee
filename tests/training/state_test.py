import jax
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from elm_jax.training import optimizers, state
from tests.training import toy


def test_a_new_state_shares_no_memory_with_its_parameters():
    base = jax.tree.map(jax.numpy.asarray, toy.make_params())
    before = jax.tree.map(np.array, base)
    tx = optimizers.AdamW().make(1)
    new_state = state.init_state(base, tx, seed=0)
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(new_state)
    toy.assert_same_bits(base, before)


def test_a_state_passes_through_a_tree_map_and_a_jit():
    new_state = state.init_state(
        toy.make_params(), optimizers.Adafactor().make(1), seed=1
    )
    toy.assert_same_bits(jax.jit(lambda s: s)(new_state), new_state)


def test_moments_that_lack_an_axis_lie_where_the_others_do():
    mesh = AbstractMesh((2, 4), ("fsdp", "model"))
    sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp", "model"))
    kernel = jax.ShapeDtypeStruct((3, 8, 16), np.float32, sharding=sharding)
    params = {"encoder": {"layers": {"wi": {"kernel": kernel}}}}
    planned = state.plan_state(params, optimizers.Adafactor().make(1))
    places = {
        leaf.shape: leaf.sharding.spec for leaf in jax.tree.leaves(planned.opt_state)
    }
    assert places[(3, 8)] == PartitionSpec(None, "fsdp")
    assert places[(3, 16)] == PartitionSpec(None, "model")
    assert places[(3,)] == PartitionSpec()  # counts, one per layer
