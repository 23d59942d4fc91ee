import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.training import loop, optimizers, programs
from tests.training import toy


def run(num_steps=toy.NUM_STEPS, *, begin=None, **kwargs):
    state, frozen, step_fn = begin or toy.start()
    kwargs.setdefault("batches", toy.batches(int(state.step)))
    return loop.train(state, frozen, step_fn=step_fn, num_steps=num_steps, **kwargs)


@pytest.mark.parametrize(
    "optimizer", [toy.ADAMW, optimizers.Adafactor(learning_rate=0.1)]
)
def test_two_plus_two_steps_have_the_bits_of_four(optimizer):
    def begin():
        return toy.start(optimizer, num_steps=4)

    whole = run(4, begin=begin())
    _, frozen, step_fn = begin()
    half = jax.tree.map(np.asarray, run(2, begin=begin()))
    half = jax.tree.map(jnp.asarray, half)
    toy.assert_same_bits(run(4, begin=(half, frozen, step_fn)), whole)


def test_the_frozen_part_is_bit_identical_after_training():
    state, frozen, step_fn = toy.start()
    before = jax.tree.map(np.array, frozen)
    run(begin=(state, frozen, step_fn))
    toy.assert_same_bits(frozen, before)


def test_training_lowers_the_loss():
    seen = []
    fixed = ((n, jax.device_put(toy.batch_at(0))) for n in range(200))
    begin = toy.start(optimizers.AdamW(learning_rate=0.02), num_steps=200)
    report = loop.Every(100, lambda step, state, sums: seen.append(sums["loss"]))
    run(200, begin=begin, batches=fixed, report=report)
    assert seen[1] < 0.8 * seen[0]


def recorder(to, name):
    return lambda step, state, sums: to.append((name, step, sums.get("num_steps", 0)))


def test_report_and_hooks_fire_on_their_steps_and_on_the_last():
    """A hook gets what the next report will begin with."""
    fired = []
    report = loop.Every(4, recorder(fired, "report"))
    run(7, report=report, hooks=[loop.Every(3, recorder(fired, "save"))])
    assert fired == [
        *[("save", 3, 3), ("report", 4, 4), ("save", 6, 2)],
        *[("report", 7, 3), ("save", 7, 0)],
    ]


def test_with_the_sums_of_its_state_a_training_that_goes_on_reports_as_one_that_ran():
    whole, parts, saved = [], [], []

    def keep(step, state, sums):
        saved.append((jax.tree.map(np.asarray, state), sums))

    def reporting(to):
        return loop.Every(4, lambda step, state, sums: to.append((step, sums)))

    _, frozen, step_fn = toy.start()
    run(6, report=reporting(whole))
    run(6, report=reporting(parts), hooks=[loop.Every(3, keep)], should_stop=lambda: 1)
    assert parts == []  # a stop is saved, and makes no report
    for _ in range(5):
        state, sums = saved[-1]
        begin = (jax.tree.map(jnp.asarray, state), frozen, step_fn)
        run(
            6,
            begin=begin,
            report=reporting(parts),
            hooks=[loop.Every(3, keep)],
            should_stop=lambda: True,
            sums=sums,
        )
    assert parts == whole


def test_a_hook_sees_the_state_of_its_own_step():
    steps = []
    hook = loop.Every(
        2, lambda step, state, sums: steps.append((step, int(state.step)))
    )
    run(4, hooks=[hook])
    assert steps == [(2, 2), (4, 4)]


def test_sums_of_a_window_are_those_of_its_steps():
    single, window = [], []
    run(6, report=loop.Every(1, lambda *arguments: single.append(arguments[2]["loss"])))
    run(6, report=loop.Every(3, lambda *arguments: window.append(arguments[2]["loss"])))
    assert window == [sum(single[:3]), sum(single[3:])]


def test_metrics_are_read_after_the_next_step_is_on_its_way():
    events = []
    state, frozen, step_fn = toy.start()

    class Reported(float):
        """A metric that tells when the host reads it."""

        def __float__(self):
            events.append(f"read {int(super().__float__())}")
            return 1.0

    def counted(state, frozen, batch):
        state, _ = step_fn(state, frozen, batch)
        number = sum(event.startswith("start") for event in events) + 1
        events.append(f"start {number}")
        return state, {"loss": Reported(number)}

    run(4, begin=(state, frozen, counted))
    assert events == [
        *["start 1", "start 2", "read 1", "start 3", "read 2"],
        *["start 4", "read 3", "read 4"],
    ]


def test_no_array_crosses_between_host_and_device_unasked():
    state, frozen, step_fn = toy.start()
    run(1, begin=(state, frozen, step_fn))  # compile
    state, _, _ = toy.start()
    with jax.transfer_guard("disallow"):
        run(begin=(state, frozen, step_fn))


def test_a_finished_state_comes_back_without_a_step():
    state, frozen, step_fn = toy.start()
    done = run(2, begin=(state, frozen, step_fn))
    assert run(2, begin=(done, frozen, step_fn), batches=iter(())) is done


def test_a_stop_ends_after_its_step_and_fires_every_hook():
    fired, answered = [], []
    hook = loop.Every(100, lambda step, state, sums: fired.append(step))
    answers = iter([False, False, True])
    state = run(
        hooks=[hook],
        should_stop=lambda: next(answers),
        answer_stop=lambda: answered.append([*fired]),
    )
    assert int(state.step) == 3
    assert fired == [3]
    assert answered == [[]]  # once, before anything is saved
    run(2, should_stop=lambda: False, answer_stop=lambda: answered.append(fired))
    assert len(answered) == 1


def test_batches_of_other_steps_are_refused():
    with pytest.raises(errors.TrainingError, match="batch for step 1"):
        run(batches=toy.batches(1))
    with pytest.raises(errors.TrainingError, match="batch for step None"):
        run(batches=toy.batches(0, 3))


def test_a_number_that_is_not_finite_names_step_expert_and_checkpoint():
    def poisoned():
        for n, batch in toy.batches(0):
            yield n, batch if n != 4 else jax.tree.map(lambda x: x * jnp.nan, batch)

    with pytest.raises(errors.TrainingError) as caught:
        run(
            batches=poisoned(),
            expert="dream_answer",
            last_good=lambda most: f"step {most}",
        )
    message = str(caught.value)
    assert "loss = nan" in message
    assert "step 5 of expert dream_answer; step 4 was finite" in message
    assert "Last good checkpoint: step 3" in message


def test_a_state_that_is_not_finite_is_never_handed_to_a_hook():
    fired = []
    hooks = [loop.Every(1, lambda step, state, sums: fired.append(step))]
    bad = ((n, jax.tree.map(lambda x: x / 0.0, batch)) for n, batch in toy.batches(0))
    with pytest.raises(errors.TrainingError):
        run(batches=bad, hooks=hooks)
    assert fired == []


def test_before_a_slow_compilation_the_state_may_be_saved():
    """Every program is slow here; the first one is not foreseen."""
    called = []

    def batches():
        for n, batch in toy.batches(0, 5):
            yield n, {k: v[: 3 if n == 2 else 5] for k, v in batch.items()}

    def save(step, state, sums):
        called.append((step, int(state.step), sums))

    compiled = programs.Programs(slow_secs=-1.0)
    whole = run(5, batches=batches(), compiled=compiled, before_slow=save)
    ((step, done, sums),) = called
    assert (step, done, sums["num_steps"]) == (2, 2, 2.0)
    run(5, batches=batches(), compiled=compiled, before_slow=save)
    assert len(called) == 1
    toy.assert_same_bits(run(5, batches=batches()), whole)


def test_a_state_with_a_bad_loss_is_not_handed_on_before_a_slow_compilation():
    called = []

    def batches():
        for n, batch in toy.batches(0, 5):
            if n == 2:  # the step before the one that compiles
                batch = jax.tree.map(lambda leaf: leaf * np.nan, batch)
            yield n, {k: v[:3] for k, v in batch.items()} if n == 3 else batch

    compiled = programs.Programs(slow_secs=-1.0)
    with pytest.raises(errors.TrainingError):
        run(5, batches=batches(), compiled=compiled, before_slow=called.append)
    assert not called
