"""Experts of a fleet of toys, and what befell each."""

import dataclasses
import functools

import jax
import numpy as np

from elm_jax.training import fleet_loop, job, loop, optimizers, schedules
from tests.training import toy

LOSS = toy.CountingLoss()


@functools.cache
def the_fleet():
    """One fleet for all tests: programs compile once, and slots are used again."""
    return toy.make_toy_fleet(num_slots=4, loss_fn=LOSS)


def batch_of(seed, n, *, bad_at=None):
    """Two lengths, by (seed, n), so that experts wait for different shapes."""
    rng = np.random.default_rng((seed, n))
    rows = 5 if rng.integers(3) else 4
    batch = {
        name: rng.normal(size=(rows, 4)).astype(np.float32)
        for name in ("inputs", "targets")
    }
    return {n_: leaf * np.nan for n_, leaf in batch.items()} if n == bad_at else batch


class Expert:
    """All that happened to one expert of a queue."""

    def __init__(self, seed, *, num_steps=6, rate=0.1, bad_at=None, start=None):
        self.seed, self.num_steps, self.rate = seed, num_steps, rate
        self.bad_at, self.start = bad_at, start
        self.losses, self.saved, self.final, self.closed = {}, {}, None, False

    def begin(self):
        now = self.start or toy.start()[0]
        schedule = optimizers.AdamW(learning_rate=self.rate).schedule(self.num_steps)
        return job.Job(
            name=f"expert {self.seed}",
            state=dataclasses.replace(
                now, opt_state=schedules.set_schedule(now.opt_state, schedule)
            ),
            batch_fn=lambda n: batch_of(self.seed, n, bad_at=self.bad_at),
            num_steps=self.num_steps,
            report=loop.Every(1, self.note),
            save=loop.Every(2, self.save),
            last_good=lambda most: f"{max(self.saved, default=None)}",
            close=self.close,
        )

    def note(self, step, state, metrics):
        self.losses[step] = metrics["loss"]

    def save(self, step, state, metrics):
        self.saved[step] = jax.device_get(state)

    def finish(self, state):
        self.final = jax.device_get(state)

    def close(self):
        self.closed = True


def run(*crew, **options):
    fleet, frozen = the_fleet()
    queue = ((f"expert {e.seed}", e.begin) for e in crew)
    finish = functools.partial(finish_one, crew)
    return fleet_loop.train_fleet(fleet, frozen, queue, finish=finish, **options)


def finish_one(crew, done, state):
    (expert,) = (member for member in crew if f"expert {member.seed}" == done.name)
    expert.finish(state)


def many(count=7):
    return [Expert(s, num_steps=4 + s, rate=0.1 / (1 + s)) for s in range(count)]


@functools.cache
def finals(count=7):
    crew = many(count)
    assert not run(*crew)
    return [e.final for e in crew]
