import itertools

import pytest

from elm_jax.training import hooks, optimizers


class KeptRows:
    def __init__(self):
        self.rows, self.is_closed = [], False

    def write(self, step, scalars):
        self.rows.append((step, dict(scalars)))

    def close(self):
        self.is_closed = True


def test_a_report_has_means_rates_and_the_time_left():
    writer = KeptRows()
    optimizer = optimizers.AdamW(learning_rate=1.0)
    report = hooks.ReportMetrics(
        [writer],
        num_steps=100,
        learning_rate_fn=lambda step: optimizer.learning_rate_at(step, num_steps=100),
        clock=itertools.count(0.0, 5.0).__next__,
    )
    sums = {
        **{"num_steps": 20.0, "loss": 40.0, "grad_norm": 10.0, "num_tokens": 1000.0},
        **{"num_positions": 1250.0, "correct_sum": 30.0, "weight_sum": 120.0},
    }
    report(20, None, sums)
    ((step, scalars),) = writer.rows
    assert step == 20
    assert scalars == pytest.approx(
        {
            **{"loss": 2.0, "accuracy": 0.25, "grad_norm": 0.5, "tokens_per_step": 50},
            **{"learning_rate": 0.81, "steps_per_sec": 4.0, "tokens_per_sec": 200.0},
            **{"real_token_share": 0.8, "secs_left": 20.0},
        }
    )


def test_the_share_of_waiting_for_data_is_that_of_the_window():
    writer, waited = KeptRows(), iter([1.0, 1.5])
    report = hooks.ReportMetrics(
        [writer],
        num_steps=30,
        waited_secs_fn=waited.__next__,
        clock=itertools.count(0.0, 5.0).__next__,
    )
    for step in (10, 20):
        report(step, None, {"num_steps": 10.0})
    shares = [row["data_wait_share"] for _, row in writer.rows]
    assert shares == pytest.approx([0.2, 0.1])


def test_rates_are_those_of_the_window():
    writer = KeptRows()
    clock = iter([0.0, 100.0, 101.0]).__next__  # the first window compiles
    report = hooks.ReportMetrics([writer], num_steps=30, clock=clock)
    report(10, None, {"num_steps": 10.0})
    report(20, None, {"num_steps": 10.0})
    assert [row["steps_per_sec"] for _, row in writer.rows] == [0.1, 10.0]
    assert writer.rows[1][1]["secs_left"] == 1.0


def test_closing_a_report_closes_its_writers():
    writer = KeptRows()
    hooks.ReportMetrics([writer], num_steps=1).close()
    assert writer.is_closed


def test_saving_hands_step_state_and_sums_to_the_store():
    saved = {}

    class Store:
        def save(self, step, state, sums):
            saved[step] = (state, sums)

    hooks.save_states(Store())(7, "state", {"loss": 2.0})
    assert saved == {7: ("state", {"loss": 2.0})}


def schedule_of(every_steps, times, cost=0.0):
    """Steps after which a schedule saves, one step at each time; clocks are given."""
    now, saved = [0.0], []

    def save(step, state, metrics):
        saved.append(step)
        now[0] += cost

    plan = hooks.SaveSchedule(every_steps, save, slow_secs=5.0, clock=lambda: now[0])
    for step, secs in enumerate(times, 1):
        now[0] += secs
        plan.note_step(step)
        if plan.is_due(step):
            plan.hook(step, None, {})
    return saved


def test_a_step_is_saved_once():
    saved = []
    plan = hooks.SaveSchedule(
        1, lambda step, state, metrics: saved.append(step), slow_secs=5.0
    )
    for step in (3, 3, 4):
        plan.hook(step, None, {})
    assert saved == [3, 4]


def test_quick_steps_are_saved_by_their_number():
    assert schedule_of(3, [1.0] * 10) == [3, 6, 9]


def test_slow_steps_are_saved_each_but_for_the_first_which_compiles():
    assert schedule_of(100, [30.0, 1.0, 6.0, 6.0, 1.0, 6.0]) == [3, 4, 6]


def test_among_others_slow_is_the_step_and_not_the_wait_for_a_turn():
    now, step_secs = [0.0], [1.0]
    plan = hooks.SaveSchedule(
        100,
        lambda step, state, metrics: None,
        slow_secs=5.0,
        step_secs_fn=lambda: step_secs[0],
        clock=lambda: now[0],
    )
    due = []
    for step in range(1, 7):
        now[0] += 30.0
        step_secs[0] = 6.0 if step > 3 else 1.0
        plan.note_step(step)
        due.append(plan.is_due(step))
        if step == 5:  # the save that was due takes its time
            plan.hook(4, None, {})
    assert due == [False, False, False, True, False, True]


def test_saves_that_take_long_are_kept_rare():
    saved = schedule_of(1000, [6.0] * 100, cost=12.0)
    assert saved[0] == 2
    assert min(b - a for a, b in itertools.pairwise(saved)) >= 18
    assert len(saved) > 3
