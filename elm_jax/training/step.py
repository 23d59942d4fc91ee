"""One update of the trainable parameters, as a pure function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding

from elm_jax import trees
from elm_jax.training.state import TrainState
from elm_jax.types import PAD_ID, Batch, LossFn, Metrics, Params

StepFn = Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]

_COUNTED_FEATURES = ("encoder_input_tokens", "decoder_target_tokens")


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, *, num_parts: int = 1
) -> StepFn:
    """Returns the compiled step `(state, frozen, batch) -> (state, metrics)`.

    `frozen` is an argument, so that one program serves every base of a shape and
    holds no copy of it; no gradient or optimiser state exists for it. The memory
    of the state that goes in is reused: only the state that comes out is valid,
    and it lies on the same devices.

    Metrics are float32 scalars: those of `loss_fn`, its `loss` (mean nats per
    weighted target token), `grad_norm` before clipping, `num_tokens`, the inputs and
    targets of the batch that are not padding, and `num_positions`, those that are too.

    Args:
      loss_fn: Loss of a whole model's parameters on a batch; hashable, as equal ones
        share a program in a process.
      tx: The optimiser; its state must be the one in the train state.
      num_parts: In how many parts of equal size a batch is computed, one after another.
        The update is that of the whole batch, but for rounding and the values that
        dropout drops, and takes less memory. With more than 1, `loss_fn` must tell its
        `weight_sum`.
    """

    def call(
        state: TrainState, frozen: Params, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        return _compile(loss_fn, tx, state, num_parts)(state, frozen, batch)

    return call


def lower_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    num_parts: int = 1,
) -> jax.stages.Lowered:
    """Returns the program of `make_train_step`, by shapes with shardings alone."""
    return _compile(loss_fn, tx, state, num_parts).lower(state, frozen, batch)


def _compile(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    state: TrainState,
    num_parts: int,
) -> Any:
    leaves, structure = jax.tree.flatten(state)
    places = tuple(leaf.sharding for leaf in leaves)
    return _compile_for(loss_fn, tx.update, num_parts, structure, places)


@functools.lru_cache(maxsize=32)
def _compile_for(
    loss_fn: LossFn,
    update_fn: optax.TransformUpdateFn,
    num_parts: int,
    structure: Any,
    places: tuple[Sharding, ...],
) -> Any:
    """Returns one function for all trainings that have the same program."""
    # Left to itself the compiler may move a parameter, and the next step would have
    # to be compiled again.
    return jax.jit(
        functools.partial(take_step, loss_fn, update_fn, num_parts=num_parts),
        donate_argnums=0,
        out_shardings=(jax.tree.unflatten(structure, places), None),
    )


def take_step(
    loss_fn: LossFn,
    update_fn: optax.TransformUpdateFn,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    num_parts: int = 1,
) -> tuple[TrainState, Metrics]:
    """Returns the next state and metrics; pure, see `make_train_step`.

    Args:
      loss_fn: As for `make_train_step`, and so is all that is not told here.
      update_fn: Of the optimiser, `tx.update`.
      state: Before the step.
      frozen: Parameters that do not train.
      batch: Of the step.
      num_parts: As for `make_train_step`.
    """
    grads, metrics = differentiate(loss_fn, state, frozen, batch, num_parts=num_parts)
    return update(update_fn, state, grads), metrics


def differentiate(
    loss_fn: LossFn,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    num_parts: int = 1,
) -> tuple[Params, Metrics]:
    """Returns a step's gradients and metrics; of the state, nothing of the optimiser.

    Args:
      loss_fn: As for `make_train_step`, and so is all that is not told here.
      state: Before the step.
      frozen: Parameters that do not train.
      batch: Of the step.
      num_parts: Parts in which a batch is computed, one after another.
    """
    dropout_rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

    def loss_of(params: Params, batch: Batch, rng: Any) -> tuple[Any, Metrics]:
        return loss_fn(trees.join(params, frozen), batch, rng)

    compute = jax.value_and_grad(loss_of, has_aux=True)
    if num_parts > 1:
        compute = _in_parts(compute, num_parts)
    (loss, metrics), grads = compute(state.params, batch, dropout_rng)
    return grads, {
        **metrics,
        "loss": loss,
        "grad_norm": optax.global_norm(grads),
        **_count_tokens(batch),
    }


def update(
    update_fn: optax.TransformUpdateFn, state: TrainState, grads: Params
) -> TrainState:
    """Returns the state after a step with some gradients."""
    updates, opt_state = update_fn(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(
        step=state.step + 1, params=params, opt_state=opt_state, rng=state.rng
    )


def update_if(
    update_fn: optax.TransformUpdateFn,
    state: TrainState,
    grads: Params,
    is_active: jax.Array,
) -> TrainState:
    """Returns the state after `update`; unchanged where `is_active` is False.

    In a loop over states that lie in one array, CPUs copy the moments of them all in
    each turn unless this is a branch. TPUs copy a state into a branch and out of it:
    8 prompt experts of XL would move 162 GB a step, not 128.
    """

    def select(state: TrainState, grads: Params) -> TrainState:
        choose = functools.partial(jnp.where, is_active)
        return jax.tree.map(choose, update(update_fn, state, grads), state)

    def branch(state: TrainState, grads: Params) -> TrainState:
        take = functools.partial(update, update_fn)
        return jax.lax.cond(is_active, take, lambda state, _: state, state, grads)

    return jax.lax.platform_dependent(state, grads, cpu=branch, default=select)


def _in_parts(differentiate: Any, num_parts: int) -> Any:
    """Returns the function that gives `((loss, metrics), grads)` by parts of a batch.

    Loss and gradients of a part are means over its weighted tokens, so those of the
    batch are the parts' means, weighted by their sums of weights.
    """

    def split(leaf: Any) -> Any:
        # Every device has rows of each part: those that follow each other on it.
        rows = leaf.reshape(-1, num_parts, *leaf.shape[1:])
        return jnp.moveaxis(rows, 1, 0)

    def of_batch(params: Params, batch: Batch, rng: Any) -> Any:
        def add(sums: Any, part: Any) -> tuple[Any, Metrics]:
            number, rows = part
            (loss, metrics), grads = differentiate(
                params, rows, jax.random.fold_in(rng, number)
            )
            weight = metrics["weight_sum"]
            new = jax.tree.map(lambda total, x: total + weight * x, sums, (loss, grads))
            return new, metrics

        zeros = jax.tree.map(jnp.zeros_like, params)
        parts = jnp.arange(num_parts), {n: split(leaf) for n, leaf in batch.items()}
        sums, part_metrics = jax.lax.scan(add, (jnp.zeros(()), zeros), parts)
        metrics = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), part_metrics)
        weight = metrics["weight_sum"]
        share = jnp.where(weight > 0, 1 / jnp.where(weight > 0, weight, 1), 0)
        loss, grads = jax.tree.map(lambda total: share * total, sums)
        return (loss, metrics), grads

    return of_batch


def _count_tokens(batch: Batch) -> Metrics:
    counted = [batch[name] for name in _COUNTED_FEATURES if name in batch]
    real = [jnp.sum(tokens != PAD_ID, dtype=jnp.float32) for tokens in counted]
    size = sum(tokens.size for tokens in counted)
    return {
        "num_tokens": sum(real, start=jnp.zeros((), jnp.float32)),
        "num_positions": jnp.asarray(size, jnp.float32),
    }
