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

from elm_jax import trees
from elm_jax.model import scoring, t5
from elm_jax.peft import bottleneck, mixture
from elm_jax.routing import directions, token_routers

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.benchmarks import (  # noqa: E402 - run as a program, too
    rank_classification_benchmark as ranking,
)


def mixed(spec, shape, num_experts, top_k, only_chosen=False):
    """Returns a score function and the parameters of a mixture."""
    adapter_fn = spec.adapter_fn(shape.emb_dim)
    experts = [
        trees.split(t5.init_params(t5.T5(shape, adapter_fn), seed=seed), "_adapter/")[0]
        for seed in range(num_experts)
    ]
    router = token_routers.Arrow(top_k=top_k)
    made = mixture.Mixture(
        of=spec, num_experts=num_experts, router=router, only_chosen=only_chosen
    )
    model = t5.T5(shape, made.adapter_fn(shape.emb_dim))
    params = t5.init_params(model, seed=0)
    params = trees.replace(params, mixture.stack(experts))
    return scoring.make_score_fn(model), with_directions(params, experts)


def with_directions(params, experts):
    arrows_of = [directions.arrow_directions(expert) for expert in experts]
    leaves = trees.flatten(params)
    for place in arrows_of[0]:
        name = f"{place}/{mixture.ROUTER}/direction"
        for number, arrows in enumerate(arrows_of):
            leaves[name] = leaves[name].at[:, number].set(arrows[place])
    return trees.unflatten(leaves)


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
        ways[f"{count}_dense"] = mixed(spec, shape, count, -1)
        if count > 2:
            ways[f"{count}_top_2"] = mixed(spec, shape, count, 2)
            ways[f"{count}_chosen_2"] = mixed(spec, shape, count, 2, only_chosen=True)
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
