"""Prompt experts of toy tasks, and the candidate that mixes them."""

import dataclasses

import jax
import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import experts
from elm_jax.model import t5
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs import bases, loaded, observe, routed_candidate, routing_records
from tests.runs import scored, toy

SPEC = bottleneck.Bottleneck(reduction_factor=4, init_std=0.3)
SETTINGS = routing_records.Settings(num_examples=6, batch_size=4, gate_steps=3)


def save_expert(
    folder,
    name,
    seed,
    *,
    tasks=(),
    to="experts",
    training_seed=None,
    spec=SPEC,
    pattern=expert_parts.PROMPT_EXPERT,
):
    """Writes a prompt expert of random adapters and norms; by default of one task.

    Its manifest tells the seed of its numbers, or another one as that of its training.
    """
    info = experts.load_expert(folder / "base")[1]
    model = t5.T5(scored.SHAPE, spec.adapter_fn(scored.SHAPE.emb_dim))
    whole = t5.init_params(model, seed=seed)
    params = trees.split(whole, pattern)[0]
    info = dataclasses.replace(
        info,
        name=name,
        kind="prompt",
        seed=seed if training_seed is None else training_seed,
        tasks=tasks or (f"{name}_ask",),
        steps=1,
        trainable_pattern=pattern,
        adapter=bases.describe(spec),
    )
    experts.save_expert(folder / to / name, params, info)


def observer(folder, **changes):
    """Returns the run that observes the experts of a library."""
    fields = {
        "model_dir": str(folder),
        "data": toy.DATA,
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "settings": SETTINGS,
    }
    return observe.Observe(**(fields | changes))


def chosen(folder, router, names=("plain", "twice")):
    return routed_candidate.RoutedCandidate(
        "x",
        tuple(folder / "experts" / name for name in names),
        "strategy",
        router=router,
        records_dir=folder / "library" / "routing",
        record_settings=SETTINGS,
    )


def check_is_expert(candidate, folder, name):
    """Asserts that a candidate has the logits of one expert alone, but for rounding."""
    base = loaded.Base.load(folder / "base")
    expert = loaded.Expert.load(folder / "experts" / name)
    params, spec = candidate.load(base)
    inputs = np.arange(2, 14, dtype=np.int32).reshape(2, 6)
    logits, alone = (
        jax.jit(bases.build_model(base.config, adapter).apply)(
            {"params": of_model}, inputs, inputs
        )
        for adapter, of_model in (
            (spec, params),
            (expert.adapter, base.with_expert(expert)),
        )
    )
    np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-6 * np.abs(alone).max())
