"""Time of scoring choices with several experts at once, over one expert's; a JSON line.

Usage: python tests/benchmarks/mixture_benchmark.py [--tiny] [--counts 1 4 16 64]

The model and batches of `rank_classification_benchmark.py`, with bottlenecks of 8 units
at the paper's places, routed by Arrow: all experts of a place get a weight (`dense`),
or two do, all of them computed (`top_2`) or these two alone (`chosen_2`). All ways take
turns on the same batches. Seconds are those of the processor, over all threads, which
other programs on the machine lengthen least; `wall` has those of the clock.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np

from elm_jax import trees
from elm_jax.model import scoring, t5
from elm_jax.peft import bottleneck, mixture
from elm_jax.routing import directions, token_routers

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.benchmarks import (  # noqa: E402 - run as a program, too
    rank_classification_benchmark as ranking,
)


def make_experts(spec, shape, num_experts):
    """Returns the parameters of a base, and of experts with their directions."""
    model = t5.T5(shape, spec.adapter_fn(shape.emb_dim))
    drawn = [t5.init_params(model, seed=seed) for seed in range(num_experts)]
    experts = [trees.split(params, "_adapter/")[0] for params in drawn]
    return drawn[0], [(each, directions.arrow_directions(each)) for each in experts]


def mixed(spec, shape, base, experts, top_k, only_chosen=False):
    """Returns a score function and the parameters of a mixture."""
    router = token_routers.Arrow(top_k=top_k)
    mixture_spec = mixture.Mixture(
        of=spec, num_experts=len(experts), router=router, only_chosen=only_chosen
    )
    model = t5.T5(shape, mixture_spec.adapter_fn(shape.emb_dim))
    leaves = {
        **trees.flatten(trees.split(base, "_adapter/")[1]),
        **trees.flatten(mixture.stack([each for each, _ in experts])),
    }
    for place in experts[0][1]:
        arrows = [np.asarray(directions_of[place]) for _, directions_of in experts]
        leaves[f"{place}/{mixture.ROUTER}/direction"] = np.stack(arrows, axis=1)
    shapes = trees.flatten(t5.param_shapes(model))
    assert {n: leaf.shape for n, leaf in leaves.items()} == {
        n: leaf.shape for n, leaf in shapes.items()
    }
    return scoring.make_score_fn(model), jax.device_put(trees.unflatten(leaves))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model of no size")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--counts", type=int, nargs="+", default=None)
    args = parser.parse_args()
    shape = ranking.TINY_SHAPE if args.tiny else ranking.SHAPE
    spec = bottleneck.Bottleneck(reduction_factor=8 if args.tiny else 32, init_std=0.3)
    batches = ranking.make_batches(
        shape.vocab_size,
        num_questions=32 if args.tiny else 64,
        batch_size=16,
        inputs_length=8 if args.tiny else 256,
        length=4 if args.tiny else 16,
    )
    single = t5.T5(shape, spec.adapter_fn(shape.emb_dim))
    ways = {"one": (scoring.make_score_fn(single), t5.init_params(single, seed=0))}
    counts = args.counts or ((1, 4) if args.tiny else (1, 4, 16, 64))
    for count in counts:
        experts = make_experts(spec, shape, count)
        ways[f"{count}_dense"] = mixed(spec, shape, *experts, -1)
        if count > 2:
            ways[f"{count}_top_2"] = mixed(spec, shape, *experts, 2)
            ways[f"{count}_chosen_2"] = mixed(spec, shape, *experts, 2, True)
    times = {name: [] for name in ways}
    walls = {name: [] for name in ways}
    for turn in range(args.repeats + 1):
        for name, way in ways.items():
            before = time.process_time()
            wall = ranking.secs_of(*way, batches)
            if turn:  # the first one compiles
                times[name].append(time.process_time() - before)
                walls[name].append(wall)
    row = {"benchmark": "mixture"} | over_one(times)
    print(json.dumps(row | {"wall": over_one(walls)}))


def over_one(times):
    """Returns the least seconds of one expert, and those of other ways over them."""
    best = {name: min(each) for name, each in times.items()}
    single = best.pop("one")
    ratios = {name: round(secs / single, 2) for name, secs in best.items()}
    return {"one_expert_secs": round(single, 4)} | ratios


if __name__ == "__main__":
    main()
