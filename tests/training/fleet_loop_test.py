import dataclasses
import functools
import time

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.training import fleet_loop, loop, schedules
from tests.training import toy
from tests.training.crew import (
    LOSS,
    Expert,
    batch_of,
    finals,
    finish_one,
    many,
    run,
    the_fleet,
)


def test_more_experts_than_slots_each_equal_the_one_trained_alone():
    """Steps, rates and data differ; every bit is that of a fleet of one."""
    crew = many()
    assert not run(*crew)
    for expert in crew:
        alone = Expert(expert.seed, num_steps=expert.num_steps, rate=expert.rate)
        assert not run(alone)
        toy.assert_same_bits(expert.final, alone.final)
        assert expert.losses == alone.losses
        assert list(expert.losses) == list(range(1, expert.num_steps + 1))
        assert list(expert.saved) == list(range(2, expert.num_steps, 2))
        assert expert.closed
    assert LOSS.num_traces == 2  # one for each shape of a batch


def test_an_expert_whose_loss_is_not_finite_leaves_and_the_others_go_on():
    crew = [*many(3), Expert(9, bad_at=3), *many(7)[3:]]
    failures = run(*crew)
    (message,) = map(str, failures.values())
    assert list(failures) == ["expert 9"]
    assert "in step 4 of expert expert 9" in message
    assert "Last good checkpoint: 2" in message
    bad = crew.pop(3)
    assert bad.final is None
    assert list(bad.saved) == [2]
    assert bad.closed
    for expert, expected in zip(crew, finals(), strict=True):
        toy.assert_same_bits(expert.final, expected)


def test_an_expert_that_cannot_begin_is_named_and_the_others_go_on():
    class Broken(Expert):
        def begin(self):
            raise errors.DataError("no rows")

    crew = [Broken(5), Expert(0)]
    assert str(run(*crew)["expert 5"]) == "no rows"
    assert crew[1].final is not None


def test_a_stop_saves_every_expert_and_going_on_gives_the_same_bits():
    crew, steps, answered = many(), [0], []

    def stop_after_nine():
        return steps[-1] >= 9

    def answer():
        answered.append([e for e in crew if e.saved and 9 in e.saved])

    stop = {"should_stop": stop_after_nine, "answer_stop": answer}
    assert not run(*crew, **stop, after_step=steps.append)
    assert answered == [[]]  # once, before anything is saved
    begun = [e for e in crew if e.saved and e.final is None]
    assert len(begun) >= 2
    assert all(e.closed for e in begun)
    for e in crew:
        e.start = e.saved[max(e.saved)] if e in begun else None
    left = [e for e in crew if e.final is None]
    assert not run(*left, answer_stop=answer)
    assert len(answered) == 1
    for expert, expected in zip(crew, finals(), strict=True):
        toy.assert_same_bits(expert.final, expected)


def test_a_stop_while_experts_are_readied_saves_those_that_have_trained():
    crew, steps = many(), [0]

    class SlowToReady(Expert):
        def begin(self):
            began.append(steps[-1])
            return super().begin()

    began = []
    crew[4:] = [SlowToReady(e.seed, num_steps=e.num_steps) for e in crew[4:]]
    stopped = run(*crew, should_stop=lambda: len(began) == 1, after_step=steps.append)
    assert not stopped
    assert steps[-1] == began[0]  # no step, and no other expert, after the signal
    assert all(e.final or e.saved for e in crew[:4])


def test_before_a_slow_compilation_every_state_is_saved_once():
    """Every program is slow here; nothing is saved by schedule."""

    class Seldom(Expert):
        def begin(self):
            never = loop.Every(1000, self.save)
            return dataclasses.replace(super().begin(), save=never)

    crew = [Seldom(e.seed, num_steps=e.num_steps, rate=e.rate) for e in many(3)]
    assert not run(*crew, slow_secs=-1.0)
    saved = [step for e in crew for step in e.saved]
    assert 1 <= len(saved) <= 3  # two shapes: the second one finds some on their way
    for e, expected in zip(crew, finals(3), strict=True):
        assert all(int(state.step) == step for step, state in e.saved.items())
        toy.assert_same_bits(e.final, expected)


def test_an_expert_whose_first_batch_cannot_be_made_is_closed():
    class NoBatch(Expert):
        def begin(self):
            def fail(n):
                raise errors.DataError("no rows")

            return dataclasses.replace(super().begin(), batch_fn=fail)

    expert = NoBatch(0)
    assert str(run(expert)["expert 0"]) == "no rows"
    assert expert.closed


def test_what_is_open_is_closed_also_when_a_save_fails():
    class FullDisk(Expert):
        def save(self, step, state, metrics):
            raise errors.CheckpointError("disk full")

    crew = [FullDisk(0), Expert(1, num_steps=50)]
    with pytest.raises(errors.CheckpointError, match="disk full"):
        run(*crew)
    assert all(e.closed for e in crew)


@pytest.mark.parametrize("what", ["finish", "note", "batch", "close"])
def test_an_expert_that_fails_on_its_way_leaves_and_the_others_go_on(what):
    """It cannot be saved where it belongs, or report, or read its rows, or close."""

    class Broken(Expert):
        def begin(self):
            def fail(*of):
                if what != "batch" or of[0] == 2:
                    raise errors.DataError(f"no {what}")
                return batch_of(self.seed, *of)

            member, later = super().begin(), loop.Every(3, fail)
            changed = {"note": {"report": later}, "batch": {"batch_fn": fail}}
            if what == "finish":
                self.finish = fail
                return member
            return dataclasses.replace(member, **changed.get(what, {what: fail}))

    crew = [Broken(9), *many(6)]
    failures = {name: str(error) for name, error in run(*crew).items()}
    assert failures == {"expert 9": f"no {what}"}
    for expert, expected in zip(crew[1:], finals(6), strict=True):
        toy.assert_same_bits(expert.final, expected)


def test_an_expert_that_leaves_is_closed_after_its_save_and_not_meanwhile():
    class Broken(Expert):
        def begin(self):
            return dataclasses.replace(super().begin(), batch_fn=self.draw)

        def draw(self, n):
            if n == 3:
                raise errors.DataError("no rows")
            return batch_of(self.seed, n)

        def save(self, step, state, metrics):
            time.sleep(0.3)
            super().save(step, state, metrics)

        def close(self):
            self.saved_before = list(self.saved)

    broken = Broken(9)
    assert str(run(broken, Expert(0))["expert 9"]) == "no rows"
    assert broken.saved_before == [2]


def test_an_expert_saved_after_its_last_step_is_only_finished():
    done = Expert(0, num_steps=4)
    done.start = finals(1)[0]
    assert int(done.start.step) == 4
    assert not run(done)
    toy.assert_same_bits(done.final, done.start)
    assert not done.losses


def test_a_save_that_fails_ends_the_training():
    class FullDisk(Expert):
        def save(self, step, state, metrics):
            raise errors.CheckpointError("disk full")

    with pytest.raises(errors.CheckpointError, match="disk full"):
        run(FullDisk(0), Expert(1))


@pytest.mark.slow
def test_an_expert_with_a_rare_shape_gets_its_turn():
    class Rare(Expert):
        def begin(self):
            batch = {n: np.ones((6, 4), np.float32) for n in ("inputs", "targets")}
            return dataclasses.replace(super().begin(), batch_fn=lambda n: batch)

        def note(self, step, state, metrics):
            super().note(step, state, metrics)
            seen.append(max(map(len, (e.losses for e in others))))

    seen, others = [], [Expert(seed, num_steps=150) for seed in (1, 2, 3)]
    run(Rare(0, num_steps=2), *others)
    assert seen[1] - seen[0] < 60
    assert seen[-1] < 100  # and not at the end


class Slow(Expert):
    """An expert whose batches take longer to make than its steps to compute."""

    def begin(self):
        member = super().begin()

        def batch_fn(n):
            time.sleep(0.2)
            return member.batch_fn(n)

        return dataclasses.replace(member, batch_fn=batch_fn)


def test_time_in_which_the_devices_wait_for_batches_is_counted():
    fleet, _ = the_fleet()
    run(Expert(0))  # compiles
    before = fleet.waited_secs
    assert not run(Slow(0, num_steps=4))
    assert fleet.waited_secs - before >= 0.2  # three batches are made between steps


@pytest.mark.slow
def test_an_expert_that_is_ahead_gets_its_turn_where_lanes_are_few():
    fleet, frozen = toy.make_toy_fleet(num_slots=3, num_lanes=2, num_devices=1)
    steps, turns = [0], []

    class Same(Expert):
        def begin(self):
            batch = batch_of(0, 1)
            return dataclasses.replace(super().begin(), batch_fn=lambda n: batch)

        def note(self, step, state, metrics):
            if self.seed == 0:
                turns.append(steps[-1])

    begun = toy.start()[0]
    start = dataclasses.replace(begun, step=begun.step + 200)
    crew = [Same(seed, num_steps=120) for seed in (1, 2)]
    crew.append(Same(0, num_steps=203, start=start))
    queue = ((f"expert {e.seed}", e.begin) for e in crew)
    finish = functools.partial(finish_one, crew)
    assert not fleet_loop.train_fleet(
        fleet, frozen, queue, finish=finish, after_step=steps.append
    )
    assert turns[0] < 40


class Infinite(Expert):
    """An expert whose first update is infinite, while its loss is not."""

    def begin(self):
        member = super().begin()
        rate = schedules.Schedule(np.inf, np.inf, 0, self.num_steps)
        opt_state = schedules.set_schedule(member.state.opt_state, rate)
        state = dataclasses.replace(member.state, opt_state=opt_state)
        return dataclasses.replace(member, state=state, save=loop.Every(1, self.save))


def test_an_expert_whose_last_update_is_infinite_is_not_finished():
    crew = [Infinite(9, num_steps=1), *many(6)]
    failures = {name: str(error) for name, error in run(*crew).items()}
    assert list(failures) == ["expert 9"]
    assert "the update of step 1 of expert expert 9" in failures["expert 9"]
    assert crew[0].final is None
    assert crew[0].closed
    for expert, expected in zip(crew[1:], finals(6), strict=True):
        toy.assert_same_bits(expert.final, expected)


def test_an_infinite_state_is_saved_neither_by_schedule_nor_at_a_stop():
    by_schedule, seldom = Infinite(9), Infinite(8)
    assert list(run(by_schedule)) == ["expert 9"]
    seldom.begin = lambda: dataclasses.replace(
        Infinite.begin(seldom), save=loop.Every(1000, seldom.save)
    )
    crew, steps = [seldom, *many(3)], [0]
    failures = run(*crew, should_stop=lambda: steps[-1] >= 1, after_step=steps.append)
    assert list(failures) == ["expert 8"]
    assert not by_schedule.saved
    assert not seldom.saved
    assert any(e.saved for e in crew[1:])


def test_sums_saved_at_a_stop_make_the_next_report_that_of_a_run_without_one():
    class Reports(Expert):
        sums = {}

        def begin(self):
            report = loop.Every(4, self.note)
            return dataclasses.replace(super().begin(), report=report, sums=self.sums)

        def note(self, step, state, metrics):
            self.losses[step] = dict(metrics)

        def save(self, step, state, metrics):
            super().save(step, state, metrics)
            self.sums = dict(metrics)

    def crew():
        return [Reports(seed, num_steps=9) for seed in range(3)]

    whole, stopped = crew(), crew()
    assert not run(*whole)
    for num_steps in (5, 7, 6, 1000):
        for e in stopped:
            e.start = e.saved[max(e.saved)] if e.saved else None
        steps, left = [0], [e for e in stopped if e.final is None]
        run(*left, should_stop=lambda: steps[-1] >= num_steps, after_step=steps.append)  # noqa: B023
    assert [e.losses for e in stopped] == [e.losses for e in whole]
    assert all(list(e.losses) == [4, 8, 9] for e in whole)


def test_a_signal_that_others_tell_while_experts_begin_comes_before_any_step():
    """The first step compiles, which may take longer than the others wait."""
    heard, crew = [], many(2)
    failures = run(
        *crew, listen=lambda: heard.append(1), should_stop=lambda: len(heard) >= 3
    )
    assert not failures
    assert [expert.losses for expert in crew] == [{}, {}]
    assert all(expert.closed for expert in crew)
