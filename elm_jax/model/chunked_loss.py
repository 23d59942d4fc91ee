"""The loss of a batch, whose logits are never in memory all at once.

The output layer and the cross entropy are computed for some target positions at a time.
Gradients of a part are computed together with its loss, so that no logits are computed
twice: they are known up to the factor that the backward pass brings.

Reference:
  Hsu et al., Liger Kernel, https://arxiv.org/abs/2410.10989, section 3.2, for the order
  of computation.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class _Targets(NamedTuple):
    """What is known of the targets: both [B, T]."""

    tokens: Array
    weights: Array


def sums(
    hidden: Array,
    kernel: Array,
    tokens: Array,
    weights: Array,
    *,
    z_loss: float,
    num_chunks: int,
) -> tuple[Array, Array]:
    """Returns the summed loss and the weight of tokens that are the most likely.

    The first has gradients for `hidden` and `kernel`.

    Args:
      hidden: What the output layer reads, [B, T, D].
      kernel: Of the output layer, float32 [D, V]; logits are `hidden @ kernel`.
      tokens: int32 [B, T].
      weights: float32 [B, T].
      z_loss: Factor of the squared log of the softmax's normaliser, which is added to
        the loss.
      num_chunks: In how many parts the positions are taken.
    """
    length = tokens.shape[1]
    more = -length % num_chunks  # positions without weight fill up the last part

    def fill_up(array: Array) -> Array:
        return jnp.pad(array, ((0, 0), (0, more), *((0, 0),) * (array.ndim - 2)))

    targets = _Targets(fill_up(tokens), fill_up(weights))
    return _sums(fill_up(hidden), kernel, targets, z_loss, num_chunks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _sums(
    hidden: Array, kernel: Array, targets: _Targets, z_loss: float, num_chunks: int
) -> tuple[Array, Array]:
    def add(totals: tuple[Array, Array], part: Any) -> tuple[Any, None]:
        rows, of_part = part
        loss_sum, correct_sum, _ = _part(kernel, rows, of_part, z_loss)
        return (totals[0] + loss_sum, totals[1] + correct_sum), None

    zero = jnp.zeros((), jnp.float32)
    parts = jax.tree.map(lambda a: _in_parts(a, num_chunks), (hidden, targets))
    return jax.lax.scan(add, (zero, zero), parts)[0]


def _forward(
    hidden: Any, kernel: Any, targets: Any, z_loss: float, num_chunks: int
) -> tuple[tuple[Array, Array], tuple[Array, Any]]:
    # Where the output layer is frozen, its gradient would cost a third of the work.
    is_trained = kernel.perturbed
    kernel, hidden = kernel.value, hidden.value
    targets = _Targets(*(array.value for array in targets))

    def add(totals: Any, part: Any) -> tuple[Any, Array]:
        loss_sum, correct_sum, of_kernel = totals
        rows, of_part = part
        more_loss, more_correct, of_logits = _part(kernel, rows, of_part, z_loss)
        if is_trained:
            wide = rows.astype(jnp.float32)
            of_kernel = of_kernel + jnp.einsum("btd,btv->dv", wide, of_logits)
        of_hidden = jnp.dot(of_logits, kernel.T).astype(hidden.dtype)
        return (loss_sum + more_loss, correct_sum + more_correct, of_kernel), of_hidden

    zero = jnp.zeros((), jnp.float32)
    of_kernel = jnp.zeros_like(kernel) if is_trained else None
    parts = jax.tree.map(lambda a: _in_parts(a, num_chunks), (hidden, targets))
    totals, of_hidden = jax.lax.scan(add, (zero, zero, of_kernel), parts)
    whole = jnp.moveaxis(of_hidden, 0, 1).reshape(hidden.shape)
    return totals[:2], (whole, totals[2])


def _backward(
    z_loss: float, num_chunks: int, residuals: Any, grads: Any
) -> tuple[Array | None, Array | None, None]:
    del z_loss, num_chunks
    of_hidden, of_kernel = residuals
    factor = grads[0]
    if isinstance(factor, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    scaled = (of_hidden.astype(jnp.float32) * factor).astype(of_hidden.dtype)
    return scaled, None if of_kernel is None else of_kernel * factor, None


_sums.defvjp(_forward, _backward, symbolic_zeros=True)


def _in_parts(array: Array, num_chunks: int) -> Array:
    """Returns [num_chunks, B, T / num_chunks, ...] of [B, T, ...]."""
    shape = (array.shape[0], num_chunks, -1, *array.shape[2:])
    return jnp.moveaxis(array.reshape(shape), 1, 0)


def _part(
    kernel: Array, hidden: Array, targets: _Targets, z_loss: float
) -> tuple[Array, Array, Array]:
    """Returns loss and weight of likely tokens of some positions, and a gradient.

    The gradient is that of the logits, [B, t, V]; it costs nothing where it is unused.
    """
    logits = jnp.dot(hidden.astype(jnp.float32), kernel)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets.tokens[..., None], axis=-1)[..., 0]
    losses = log_z - chosen + z_loss * jnp.square(log_z)
    is_likely = (jnp.argmax(logits, axis=-1) == targets.tokens).astype(jnp.float32)
    shares = jnp.exp(logits - log_z[..., None])
    is_target = jnp.arange(kernel.shape[1])[None, None] == targets.tokens[..., None]
    of_logits = shares * (1 + 2 * z_loss * log_z[..., None])
    of_logits = of_logits - is_target.astype(jnp.float32)
    return (
        jnp.sum(losses * targets.weights),
        jnp.sum(is_likely * targets.weights),
        of_logits * targets.weights[..., None],
    )
