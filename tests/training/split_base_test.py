"""A fleet over a base that several devices hold together."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from elm_jax.training import fleet as fleet_lib
from elm_jax.training import state, step
from tests.training import tiny_t5, toy


@pytest.mark.slow
def test_a_base_split_over_devices_serves_a_fleet():
    """Sums over devices change the order of additions: 1e-4 after these steps."""
    loss_fn, tx, trained, frozen = tiny_t5.make("bottleneck")
    mesh = toy.make_mesh(2, num_model=2)

    def place(leaf):
        spec = (None, None, "model") if leaf.ndim == 3 else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    base = jax.tree.map(place, frozen)
    whole = NamedSharding(mesh, PartitionSpec())
    example = state.init_state(jax.device_put(trained, whole), tx, seed=0)
    fleet = fleet_lib.Slots(loss_fn, tx, example=example, mesh=mesh, num_slots=2)
    fleet.put(1, example)
    step_fn = step.make_train_step(loss_fn, tx)
    now = state.init_state(trained, tx, seed=0)
    for n in range(3):
        _, lanes = fleet.step(base, {1: tiny_t5.batch_of(n)})
        now, _ = step_fn(now, frozen, tiny_t5.batch_of(n))
    pairs = zip(*map(jax.tree.leaves, (fleet.get(1), now)), strict=True)
    for leaf, expected_leaf in pairs:
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-4, atol=1e-5)
    assert lanes == {1: 1}
