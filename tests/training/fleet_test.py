from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from elm_jax.training import fleet as fleet_lib
from elm_jax.training import optimizers, schedules, state, step
from tests.training import tiny_t5, toy

pytestmark = pytest.mark.optimized  # claims of bits
SLOW = pytest.mark.slow  # a fast case is of the same claim


def alone(steps):
    """State and losses of one expert trained by the ordinary step."""
    now, frozen, step_fn = toy.start()
    losses = []
    for n in steps:
        now, metrics = step_fn(now, frozen, toy.batch_at(n))
        losses.append(float(metrics["loss"]))
    return now, losses


@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=SLOW), 2])
def test_lanes_one_after_another_have_the_bits_of_training_alone(num_devices):
    fleet, frozen = toy.make_toy_fleet(num_devices=num_devices)
    fleet.put(1, toy.start()[0])
    fleet.put(3, toy.start()[0])
    losses = []
    for n in range(6):
        batches = {1: toy.batch_at(n)}
        if n % 2:  # the other expert draws other batches, and fewer
            batches[3] = toy.batch_at(100 + n)
        metrics, lanes = fleet.step(frozen, batches)
        losses.append(float(metrics["loss"][lanes[1]]))
    expected, expected_losses = alone(range(6))
    toy.assert_same_bits(fleet.get(1), expected)
    assert losses == expected_losses
    toy.assert_same_bits(fleet.get(3), alone([101, 103, 105])[0])


@pytest.mark.parametrize("num_slots", [4, pytest.param(8, marks=SLOW)])
def test_lanes_as_one_batch_equal_training_alone_to_rounding(num_slots):
    """Products over more rows may be summed in another order: 1e-5 in float32.

    Of two devices; of their slots, all have lanes or half.
    """
    fleet, frozen = toy.make_toy_fleet(num_lanes=2, num_slots=num_slots)
    steps = {0: [0, 2, 4], 1: [101, 102, 103, 104, 105], num_slots - 1: [205, 203]}
    losses = {slot: [] for slot in steps}
    for slot in steps:
        fleet.put(slot, toy.start()[0])
    for n in range(5):
        # At first all three take a step, at last the second slot alone.
        busy = {slot: numbers[n] for slot, numbers in steps.items() if n < len(numbers)}
        batches = {slot: toy.batch_at(number) for slot, number in busy.items()}
        metrics, lanes = fleet.step(frozen, batches)
        for slot, lane in lanes.items():
            losses[slot].append(float(metrics["loss"][lane]))
    for slot, numbers in steps.items():
        expected, expected_losses = alone(numbers)
        np.testing.assert_allclose(losses[slot], expected_losses, rtol=1e-5)
        pairs = zip(*map(jax.tree.leaves, (fleet.get(slot), expected)), strict=True)
        for leaf, expected_leaf in pairs:
            np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("num_slots", "num_lanes"),
    [pytest.param(8, 8, marks=SLOW), (8, 2), pytest.param(32, 2, marks=SLOW)],
)
def test_lanes_have_gradients_and_no_second_states_beside_those_of_the_slots(
    num_slots, num_lanes
):
    """By the compiler of CPUs: gradients of lanes, and 5 arrays of an update at work.

    What those of GPUs and TPUs say is in tests/benchmarks/planner_table.jsonl.
    """
    size = 4 * 512 * 512

    def loss_fn(params, batch, dropout_rng):
        del dropout_rng
        loss = jnp.mean((batch["inputs"] @ params["kernel"]) ** 2)
        return loss, {"loss_sum": loss, "weight_sum": jnp.float32(1)}

    mesh = toy.make_mesh(1)
    place = NamedSharding(mesh, PartitionSpec())
    kernel = jax.ShapeDtypeStruct((512, 512), np.float32, sharding=place)
    tx = toy.ADAMW.make(10)
    lowered = fleet_lib.lower_step(
        loss_fn,
        tx,
        example=state.plan_state({"kernel": kernel}, tx),
        frozen={},
        batch={"inputs": jax.ShapeDtypeStruct((2, 512), np.float32)},
        mesh=mesh,
        num_slots=num_slots,
        num_lanes=num_lanes,
    )
    memory: Any = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes > 3 * num_slots * size
    assert memory.temp_size_in_bytes < 1.05 * (num_lanes + 5) * size


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_a_program_of_a_fleet_traces_the_loss_once(num_lanes):
    num_traces = 0

    def loss_fn(params, batch, dropout_rng):
        nonlocal num_traces
        num_traces += 1
        return toy.loss_fn(params, batch, dropout_rng)

    now, frozen, _ = toy.start()
    fleet_lib.lower_step(
        loss_fn,
        toy.ADAMW.make(10),
        example=now,
        frozen=frozen,
        batch=toy.batch_at(0),
        mesh=toy.make_mesh(1),
        num_slots=2,
        num_lanes=num_lanes,
    )
    assert num_traces == 1


@pytest.mark.parametrize("num_lanes", [pytest.param(1, marks=SLOW), 2])
def test_a_fleet_computes_batches_in_parts_as_an_expert_alone_does(num_lanes):
    """To 1e-5, as lanes without parts; alone, parts are held against the whole."""
    tx, _ = toy.make_step()
    fleet = fleet_lib.Slots(
        toy.loss_fn,
        tx,
        example=toy.start()[0],
        mesh=toy.make_mesh(1),
        num_slots=2,
        num_lanes=num_lanes,
        num_parts=5,
    )
    now, frozen, _ = toy.start()
    fleet.put(1, now)
    step_fn = step.make_train_step(toy.loss_fn, tx, num_parts=5)
    for n in range(3):
        fleet.step(frozen, {1: toy.batch_at(n)})
        now, _ = step_fn(now, frozen, toy.batch_at(n))
    pairs = zip(*map(jax.tree.leaves, (fleet.get(1), now)), strict=True)
    for leaf, expected_leaf in pairs:
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_a_step_changes_no_bit_of_the_slots_that_take_none(num_lanes):
    fleet, frozen = toy.make_toy_fleet(num_lanes=num_lanes)
    for slot in range(4):
        fleet.put(slot, toy.start()[0])
    before = fleet.get(0)
    fleet.step(frozen, {1: toy.batch_at(0), 2: toy.batch_at(0)})
    toy.assert_same_bits(fleet.get(0), before)
    assert int(fleet.get(1).step) == 1


@pytest.mark.parametrize("num_lanes", [2, pytest.param(1, marks=SLOW)])
def test_a_loss_that_is_not_finite_stays_in_its_lane(num_lanes):
    fleet, frozen = toy.make_toy_fleet(num_lanes=num_lanes)
    beside_bad, _ = toy.make_toy_fleet(num_lanes=num_lanes)
    bad = {name: np.full_like(leaf, np.nan) for name, leaf in toy.batch_at(0).items()}
    for each, neighbour in ((fleet, toy.batch_at(5)), (beside_bad, bad)):
        each.put(0, toy.start()[0])
        each.put(1, toy.start()[0])
        for n in range(3):
            each.step(frozen, {0: toy.batch_at(n), 1: neighbour})
    toy.assert_same_bits(fleet.get(0), beside_bad.get(0))
    assert not np.isfinite(
        np.asarray(beside_bad.get(1).params["head"]["adapter"]["bias"])
    )[0]


def test_new_experts_rates_and_lengths_need_no_new_program():
    loss_fn = toy.CountingLoss()
    fleet, frozen = toy.make_toy_fleet(loss_fn=loss_fn)
    for n, rate in enumerate((0.1, 0.2, 0.3)):
        fresh, _, _ = toy.start()
        schedule = optimizers.AdamW(learning_rate=rate).schedule(10 + n)
        fleet.put(
            n,
            state.TrainState(
                step=fresh.step,
                params=fresh.params,
                opt_state=schedules.set_schedule(fresh.opt_state, schedule),
                rng=fresh.rng,
            ),
        )
        fleet.step(frozen, {slot: toy.batch_at(n) for slot in range(n + 1)})
    fleet.put(0, toy.start()[0])
    fleet.step(frozen, {0: toy.batch_at(0)})
    assert loss_fn.num_traces == 1


def test_an_equal_fleet_has_the_programs_of_the_first_and_another_its_own():
    loss_fn = toy.CountingLoss()
    for num_slots, num_lanes, num_traces in ((4, 1, 1), (4, 1, 1), (4, 2, 2)):
        fleet, frozen = toy.make_toy_fleet(num_lanes, num_slots, loss_fn=loss_fn)
        fleet.put(0, toy.start()[0])
        fleet.step(frozen, {0: toy.batch_at(0)})
        assert loss_fn.num_traces == num_traces


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny_t5.KINDS)
def test_an_expert_of_a_t5_fleet_has_the_bits_of_one_trained_alone(kind):
    """On one device; see the README for what the compiler does with several."""
    loss_fn, tx, trained, frozen = tiny_t5.make(kind)
    step_fn = step.make_train_step(loss_fn, tx)
    mesh = toy.make_mesh(1)
    example = state.init_state(trained, tx, seed=0)
    fleet = fleet_lib.Slots(loss_fn, tx, example=example, mesh=mesh, num_slots=4)
    frozen_before = jax.tree.map(np.array, frozen)
    packed = kind == "lora"
    for slot in (1, 3):
        fleet.put(slot, state.init_state(trained, tx, seed=slot))
    for n in range(3):
        fleet.step(frozen, {s: tiny_t5.batch_of((s, n), packed) for s in (1, 3)})
    for slot in (1, 3):
        now = state.init_state(trained, tx, seed=slot)
        for n in range(3):
            now, _ = step_fn(now, frozen, tiny_t5.batch_of((slot, n), packed))
        toy.assert_same_bits(fleet.get(slot), now)
    toy.assert_same_bits(frozen, frozen_before)


def test_states_lie_evenly_over_devices():
    fleet, _ = toy.make_toy_fleet(num_slots=3)
    assert fleet.num_slots == 4
    assert [fleet.device_of(slot) for slot in range(4)] == [0, 0, 1, 1]
    example = toy.start()[0]
    of_expert = sum(leaf.nbytes for leaf in jax.tree.leaves(example))
    assert fleet.state_bytes == 4 * of_expert
