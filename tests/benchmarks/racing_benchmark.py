"""Races in simulated libraries: work, regret, and how often the best is lost.

Usage: python tests/benchmarks/racing_benchmark.py [--tiny]

Prints one JSON line. Experts share what makes a row hard. Of each library, most experts
have accuracies near 40 %, and the best one has what its name says more. `work` is the
share of rows that are scored, `lost` the share of races that dropped the best,
`regret` the mean loss in points of the best that was left.
"""

import argparse
import json

import numpy as np

from elm_jax.evaluation import racing

CHANCE = 0.05


def simulate(rng, accuracies, num_rows):
    """Returns answers [experts, rows] of experts with just these accuracies."""
    hard = rng.normal(size=num_rows)
    skill = rng.normal(size=(len(accuracies), num_rows))
    ranks = (hard + skill).argsort(axis=1).argsort(axis=1) / num_rows
    values = (ranks < np.asarray(accuracies)[:, None]).astype(float)
    return values[:, rng.permutation(num_rows)]


def run_race(values, spec, *, rounding=None):
    """Returns the places of the experts that are left, and the share of the work."""
    if rounding is None:
        rounding = np.zeros(values.shape[1])
    num_experts, num_rows = values.shape
    left, work, before = np.arange(num_experts), 0, 0
    for end in spec.rounds(num_rows):
        work += len(left) * (end - before)
        seen = values[left, :end]
        stay = spec.staying(
            seen,
            num_experts=num_experts,
            num_rows=num_rows,
            rounding=rounding[:end],
        )
        left, before = left[stay], end
    return left, (work + len(left) * num_rows) / values.size


def measure(rng, *, lead, num_experts, num_rows, num_races):
    spec = racing.Racing(chance_of_losing=CHANCE)
    work, lost, regret = [], [], []
    for _ in range(num_races):
        usual = rng.normal(0.4, 0.05, num_experts - 1)
        best = usual.max() + lead
        values = simulate(rng, [best, *usual], num_rows)
        left, share = run_race(values, spec)
        means = values.mean(axis=1)
        work.append(share)
        regret.append(100 * (means.max() - means[left].max()))
        lost.append(regret[-1] > 0)
    figures = {"work": work, "lost": lost, "regret": regret}
    return {name: round(float(np.mean(each)), 4) for name, each in figures.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small libraries")
    tiny = parser.parse_args().tiny
    rng = np.random.default_rng(0)
    num_experts, num_races = (20, 5) if tiny else (296, 50)
    row = {"benchmark": "racing", "chance_of_losing": CHANCE}
    for num_rows in (300, 3_000):
        for lead in (0.0, 0.1, 0.2):
            row[f"{num_rows} rows, best leads by {lead:.0%}"] = measure(
                rng,
                lead=lead,
                num_experts=num_experts,
                num_rows=num_rows,
                num_races=num_races,
            )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
