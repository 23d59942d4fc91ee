"""Which router finds the right expert in the planted world; JSON lines.

Usage: python tests/benchmarks/planted_benchmark.py [--seeds 3] [--tiny]

`tests/routing/planted.py` has the world: experts of disjoint skills, and inputs whose
words belong to several of them. A line for each kind of adapters and way: the share of
words that are answered rightly, and the share of words to whose own expert a router
gives the greatest weight, in all places, in the encoder and in the decoder; means over
seeds. `oracle` weighs each word's own expert alone, `expert` is the first expert alone,
`even` the mean of all.
"""

import argparse
import collections
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.routing import planted  # noqa: E402 - run as a program, too


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="hardly any training")
    args = parser.parse_args()
    steps = {"steps": 2} if args.tiny else {}
    for kind in planted.KINDS:
        outcomes = collections.defaultdict(list)
        for seed in range(1 if args.tiny else args.seeds):
            world = planted.world(kind, seed, **steps)
            for name, outcome in planted.every_way(world).items():
                outcomes[name].append(outcome)
        for name, each in outcomes.items():
            row = {"benchmark": "planted", "kind": kind, "way": name}
            row["right"] = mean(outcome.right for outcome in each)
            for side in ("", "encoder/", "decoder/"):
                shares = [outcome.share_of(side) for outcome in each]
                if shares[0] is not None:
                    row[f"chosen_{side.strip('/') or 'everywhere'}"] = mean(shares)
            print(json.dumps(row))


def mean(values):
    return round(float(np.mean([*values])), 3)


if __name__ == "__main__":
    main()
