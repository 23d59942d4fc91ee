"""The cases of the accelerator benchmark, each run in this process."""

import dataclasses
import json
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import accelerator_measure as measure
import jax
import numpy as np
import train_step_benchmark
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from elm_jax import trees
from elm_jax.model import config, cost, loss, precision, scoring, t5
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs.training import fleet_layout
from elm_jax.training import fleet, optimizers, state, step

XL = config.T5Config(
    vocab_size=32128,
    emb_dim=2048,
    num_heads=32,
    head_dim=64,
    mlp_dim=5120,
    num_encoder_layers=24,
    num_decoder_layers=24,
    dtype="bfloat16",
)
TINY = dataclasses.replace(
    XL,
    vocab_size=64,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
NUM_CHOICES = 4
# Sequences per second of T5-XL at these lengths on one H100: what was published (in
# FP8, by NVIDIA's Rosetta T5X), and 40 % of the bfloat16 peak, which are aimed at.
AIM_LENGTHS = (512, 114)
AIMS = {
    "dataset_step": {
        "published_sequences_per_sec": 50.4,
        "aimed_sequences_per_sec": 74,
    },
    "prompt_step": {"aimed_sequences_per_sec": 111},
}
NUM_STEPS = 10_000  # that the schedules are for
MEMORY_SHARE = 0.9  # of all memory that an estimate may fill


class Job(NamedTuple):
    """A training: what trains, and how."""

    model: t5.T5
    tx: Any  # None where nothing trains
    pattern: str
    trainable: dict  # shapes
    frozen: dict
    num_experts: int
    is_fleet: bool


class Work(NamedTuple):
    """A step that is ready to be taken, and what it costs."""

    take: Callable[[], Any]
    model_flops: int
    hardware_flops: int
    num_tokens: int
    num_sequences: int
    loss: Callable[[], float]


def run_here(args):
    """Returns the rows of all cases of the flags, and prints each."""
    rows = []
    for case in args.cases:
        try:
            row = run_case(args, case)
        # Hours of an accelerator are not lost to one case, whatever it raised: its row
        # and the traceback tell it, and the others go on.
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            is_full = measure.is_out_of_memory(error)
            row = {
                "case": case,
                "status": "out_of_memory" if is_full else "failed",
                "batch_size": args.batch_size,
                "min_batch_size": count_experts(case.split(",")[0]),
                "error": f"{type(error).__name__}: {error}"[:500],
            }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def run_case(args, case):
    """Returns the row of a case, which is a name and values of flags."""
    name, *values = case.split(",")
    args = vary(args, dict(value.split("=") for value in values))
    if name == "matmul":
        return {"case": case, "status": "ok", **matmul_row(args)}
    job = make_job(args, name)
    sizes, needed = choose_sizes(args, job)
    row = {"case": case, "batch_size": sizes.batch_size, **describe(job, sizes)}
    row["estimated_bytes"] = needed
    row |= aims(args, name)
    if needed > MEMORY_SHARE * measure.memory_limit_bytes():
        reason = f"needs about {needed / 2**30:.0f} GiB at the smallest batch"
        return {**row, "status": "skipped", "reason": reason}
    try:
        work = make_work(job, sizes)
        first, times = measure.time_steps(
            work.take,
            warmup=args.warmup,
            steps=args.steps,
            limit_secs=args.steps_secs,
        )
    except (RuntimeError, MemoryError) as error:  # XLA's is a RuntimeError
        if not measure.is_out_of_memory(error):
            raise
        traceback.print_exc()
        return {
            **row,
            "status": "out_of_memory",
            "min_batch_size": job.num_experts,
            "error": str(error)[:500],
        }
    return {**row, "status": "ok", **results(args, work, first, times)}


def vary(args, values):
    """Returns the flags with some of them changed."""
    changed = type(args)(**vars(args))
    for name, value in values.items():
        setattr(changed, name, type(getattr(args, name))(value))
    return changed


def aims(args, name):
    """Returns what a case is to be held against; nothing of other sizes."""
    lengths = (args.inputs_length, args.targets_length)
    return {} if args.tiny or lengths != AIM_LENGTHS else AIMS.get(name, {})


def matmul_row(args):
    is_host = jax.default_backend() == "cpu"
    sizes = (512, 1024) if is_host else (4096, 8192, 12288, 16384)
    sizes, work_flops = (sizes, 2e11 if is_host else 4e13)
    if args.tiny:
        sizes, work_flops = (64, 128), 1e8
    rates = {size: measure.matmul_tflops(size, work_flops=work_flops) for size in sizes}
    return {
        "matmul_tflops": max(rates.values()),
        "tflops_by_size": rates,
        "peak_tflops": measure.peak_tflops(),
        **measure.describe_machine(),
    }


def count_experts(name):
    return int(name.removeprefix("fleet_")) if name.startswith("fleet_") else 1


def make_job(args, name):
    """Returns what a case trains; shapes only."""
    shape = dataclasses.replace(
        TINY if args.tiny else XL,
        remat=args.remat,
        attention=args.attention,
        scan_unroll=args.scan_unroll,
        attention_dropout=bool(args.attention_dropout),
        logits_chunks=args.logits_chunks,
    )
    is_prompt = name == "prompt_step" or name.startswith("fleet_")
    if is_prompt or name == "dataset_step":
        shape = dataclasses.replace(shape, dropout_rate=args.dropout_rate)
    elif name != "rank_classification":
        raise ValueError(f"no case {name!r}")
    spec = bottleneck.Bottleneck(reduction_factor=4 if args.tiny else 32)
    model = t5.T5(shape, spec.adapter_fn(shape.emb_dim) if is_prompt else None)
    shapes = t5.param_shapes(model)
    if name == "rank_classification":
        shapes = precision.in_compute_dtype(shape, shapes)
        return Job(model, None, "", {}, shapes, num_experts=1, is_fleet=False)
    pattern = expert_parts.PROMPT_EXPERT if is_prompt else expert_parts.DATASET_EXPERT
    kind = optimizers.AdamW if is_prompt else optimizers.Adafactor
    tx = kind(learning_rate=1e-4).make(NUM_STEPS)
    trained, frozen = trees.split(shapes, pattern)
    return Job(
        model,
        tx,
        pattern,
        trained,
        precision.in_compute_dtype(shape, frozen),
        num_experts=count_experts(name),
        is_fleet=name.startswith("fleet_"),
    )


def choose_sizes(args, job):
    """Returns the largest batch that seems to fit, and the bytes that it needs."""
    batch_size = max(args.batch_size, job.num_experts)
    batch_size -= batch_size % job.num_experts
    while True:
        sizes = cost.BatchShape(
            batch_size=batch_size,
            inputs_length=args.inputs_length,
            targets_length=args.targets_length,
        )
        needed = estimate_bytes(job, sizes)
        fits = needed <= MEMORY_SHARE * measure.memory_limit_bytes()
        if fits or batch_size == job.num_experts:
            return sizes, needed
        batch_size = max(job.num_experts, batch_size // 2)
        batch_size -= batch_size % job.num_experts


def estimate_bytes(job, sizes):
    """Returns what a step of all experts keeps in memory, as the planner says."""
    platform = jax.default_backend()
    if job.tx is None:  # nothing is kept for a backward pass
        at_work = cost.ranking_bytes(
            job.model.config, sizes, NUM_CHOICES, platform=platform
        )
        return trees.count_bytes(job.frozen) + at_work
    rows = sizes.batch_size // job.num_experts
    needs = fleet_layout.Needs(
        model=job.model,
        batch=dataclasses.replace(sizes, batch_size=rows),
        tx=job.tx,
        trainable=job.trainable,
        frozen=job.frozen,
        num_slots=job.num_experts,
        num_lanes=job.num_experts,
        platform=platform,
    )
    parts = needs.bytes_per_device(1, 1, num_lanes=job.num_experts)
    # No state is saved here.
    return sum(size for use, size in parts.items() if use != fleet_layout.SAVING)


def describe(job, sizes):
    shape = job.model.config
    names = ("dtype", "remat", "attention", "scan_unroll", "dropout_rate")
    names += ("attention_dropout", "logits_chunks")
    return {
        "num_experts": job.num_experts,
        **{name: getattr(shape, name) for name in names},
        "inputs_length": sizes.inputs_length,
        "targets_length": sizes.targets_length,
        "num_params": trees.count_params(trees.join(job.trainable, job.frozen)),
        "num_trained": trees.count_params(job.trainable),
    }


def results(args, work, first, times):
    """Returns the numbers of a row."""
    row = measure.describe_times(times)
    secs = row["step_secs"]
    tflops, peak = work.model_flops / secs / 1e12, measure.peak_tflops()
    return {
        **row,
        "first_call_secs": first,
        "compile_secs": max(0.0, first - secs),
        "tokens_per_sec": work.num_tokens / secs,
        "sequences_per_sec": work.num_sequences / secs,
        "model_flops": work.model_flops,
        "hardware_flops": work.hardware_flops,
        "model_tflops": tflops,
        "hardware_tflops": work.hardware_flops / secs / 1e12,
        "matmul_tflops": args.matmul_tflops,
        "utilization": tflops / args.matmul_tflops if args.matmul_tflops else None,
        "peak_utilization": tflops / peak if peak else None,
        "peak_bytes": measure.peak_bytes(),
        "loss": work.loss(),
        **measure.describe_machine(),
    }


def make_work(job, sizes):
    """Returns the work of a job whose memory is being taken now."""
    if job.tx is None:
        return scoring_work(job, sizes)
    return fleet_work(job, sizes) if job.is_fleet else step_work(job, sizes)


def train_work(job, sizes, take, loss_of):
    """Returns a step of all experts of a job."""
    parts = {"trainable": job.trainable, "frozen": job.frozen}
    hardware = cost.train_flops(job.model.config, sizes, **parts)
    plain = dataclasses.replace(job.model.config, remat="none")
    num_positions = sizes.inputs_length + sizes.targets_length
    return Work(
        take,
        model_flops=cost.train_flops(plain, sizes, **parts),
        hardware_flops=hardware,
        num_tokens=sizes.batch_size * num_positions,
        num_sequences=sizes.batch_size,
        loss=loss_of,
    )


def init_params(job):
    """Returns random parameters: what trains, and what does not, as it is used."""
    params = t5.init_params(job.model, seed=0)
    trained, frozen = trees.split(params, job.pattern)
    return trained, precision.in_compute_dtype(job.model.config, frozen)


def step_work(job, sizes):
    """Returns the step of one expert."""
    trained, frozen = init_params(job)
    now = state.init_state(trained, job.tx, seed=0)
    del trained  # the state has a copy
    step_fn = step.make_train_step(loss.make_loss_fn(job.model), job.tx)
    batch = train_step_benchmark.make_batch(job.model.config, sizes)
    batch, metrics = jax.device_put(batch), {}

    def take():
        nonlocal now, metrics
        now, metrics = step_fn(now, frozen, batch)
        return now, metrics

    return train_work(job, sizes, take, lambda: float(metrics["loss"]))


def fleet_work(job, sizes):
    """Returns the step of a fleet, each expert with its share of the rows."""
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    place = NamedSharding(mesh, PartitionSpec())
    trained, frozen = jax.device_put(init_params(job), place)
    first = state.init_state(trained, job.tx, seed=0)
    group = fleet.Slots(
        loss.make_loss_fn(job.model),
        job.tx,
        example=first,
        mesh=mesh,
        num_slots=job.num_experts,
        num_lanes=job.num_experts,
    )
    for slot in range(job.num_experts):
        group.put(slot, first)
    rows = sizes.batch_size // job.num_experts
    of_expert = dataclasses.replace(sizes, batch_size=rows)
    batch = train_step_benchmark.make_batch(job.model.config, of_expert)
    batches, metrics = dict.fromkeys(range(job.num_experts), batch), {}

    def take():
        nonlocal metrics
        metrics, _ = group.step(frozen, batches)
        return metrics

    return train_work(job, sizes, take, lambda: float(np.mean(metrics["loss"])))


def scoring_work(job, sizes):
    """Returns the scoring of a batch of inputs, with choices as long as targets."""
    shape, rng = job.model.config, np.random.default_rng(0)

    def tokens(*size):
        return rng.integers(2, shape.vocab_size, size).astype(np.int32)

    batch = jax.device_put(
        (
            tokens(sizes.batch_size, sizes.inputs_length),
            tokens(sizes.batch_size, NUM_CHOICES, sizes.targets_length),
            np.ones((sizes.batch_size, NUM_CHOICES), bool),
        )
    )
    params, scores = t5.init_params(job.model, seed=0), None
    params = precision.in_compute_dtype(shape, params)
    score_fn = scoring.make_score_fn(job.model)

    def take():
        nonlocal scores
        scores = score_fn(params, *batch)
        return scores

    flops = measure.score_flops(shape, sizes, job.frozen, num_choices=NUM_CHOICES)
    num_positions = sizes.inputs_length + NUM_CHOICES * sizes.targets_length
    return Work(
        take,
        model_flops=flops,
        hardware_flops=flops,
        num_tokens=sizes.batch_size * num_positions,
        num_sequences=sizes.batch_size,
        loss=lambda: -float(np.mean(scores)) / sizes.targets_length,
    )
