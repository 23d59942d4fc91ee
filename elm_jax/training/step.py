"""One update of the trainable parameters, as a pure function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from elm_jax import trees
from elm_jax.training.state import TrainState
from elm_jax.types import PAD_ID, Batch, LossFn, Metrics, Params

StepFn = Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]

_COUNTED_FEATURES = ("encoder_input_tokens", "decoder_target_tokens")


def make_train_step(loss_fn: LossFn, tx: optax.GradientTransformation) -> StepFn:
    """Returns the compiled step `(state, frozen, batch) -> (state, metrics)`.

    `frozen` is an argument, so that one program serves every base of a shape and
    holds no copy of it; no gradient or optimiser state exists for it. The memory
    of the state that goes in is reused: only the state that comes out is valid,
    and it lies on the same devices.

    Metrics are float32 scalars: those of `loss_fn`, its `loss` (mean nats per
    weighted target token), `grad_norm` before clipping, `num_tokens`, the inputs and
    targets of the batch that are not padding, and `num_positions`, those that are too.

    Args:
      loss_fn: Loss of a whole model's parameters on a batch.
      tx: The optimiser; its state must be the one in the train state.
    """
    compiled: dict[Any, StepFn] = {}

    def call(
        state: TrainState, frozen: Params, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        key = tuple(leaf.sharding for leaf in jax.tree.leaves(state))
        if key not in compiled:
            compiled[key] = _compile(loss_fn, tx, state)
        return compiled[key](state, frozen, batch)

    return call


def lower_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    state: TrainState,
    frozen: Params,
    batch: Batch,
) -> jax.stages.Lowered:
    """Returns the program of `make_train_step`, by shapes with shardings alone."""
    return _compile(loss_fn, tx, state).lower(state, frozen, batch)


def _compile(
    loss_fn: LossFn, tx: optax.GradientTransformation, state: TrainState
) -> Any:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    # Left to itself the compiler may move a parameter, and the next step would have
    # to be compiled again.
    return jax.jit(
        functools.partial(take_step, loss_fn, tx),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )


def take_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    state: TrainState,
    frozen: Params,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    """Returns the next state and metrics; pure, see `make_train_step`."""
    dropout_rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

    def loss_of(params: Params) -> tuple[Any, Metrics]:
        return loss_fn(trees.join(params, frozen), batch, dropout_rng)

    (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    new_state = TrainState(
        step=state.step + 1, params=params, opt_state=opt_state, rng=state.rng
    )
    return new_state, {
        **metrics,
        "loss": loss,
        "grad_norm": optax.global_norm(grads),
        **_count_tokens(batch),
    }


def _count_tokens(batch: Batch) -> Metrics:
    counted = [batch[name] for name in _COUNTED_FEATURES if name in batch]
    real = [jnp.sum(tokens != PAD_ID, dtype=jnp.float32) for tokens in counted]
    size = sum(tokens.size for tokens in counted)
    return {
        "num_tokens": sum(real, start=jnp.zeros((), jnp.float32)),
        "num_positions": jnp.asarray(size, jnp.float32),
    }
