"""What the backward pass needs of the forward pass: bytes, by tracing shapes alone.

The forward pass of a step is traced as JAX would trace it to differentiate it, without
values, devices or a compiler. What comes out beside the loss is what a compiled program
holds at the end of the forward pass, but for what the compiler fuses away.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import trees
from elm_jax.model import config as config_lib
from elm_jax.model import loss, precision, t5
from elm_jax.types import LAYERS, Batch, Params

# Sizes by which axes are known: numbers of layers, and of rows in a batch, that no
# other axis has as its size. They are prime, so that axes which are joined tell, too.
_TELLING = (1021, 1019, 1013, 1009, 997, 991, 983, 977)


class _Sizes(NamedTuple):
    """Sizes of axes in a trace that serves models and batches of all sizes."""

    encoder: int
    decoder: int
    rows: int


class Kept(NamedTuple):
    """Bytes that are kept from the forward to the backward pass.

    Attributes:
      encoder: Of each layer of the encoder.
      decoder: Of each layer of the decoder.
      outside: Before, between and after the layers.
    """

    encoder: int = 0
    decoder: int = 0
    outside: int = 0

    def total(self, num_encoder_layers: int, num_decoder_layers: int) -> int:
        """Returns the bytes of a model of some depth."""
        encoder = self.encoder * num_encoder_layers
        return encoder + self.decoder * num_decoder_layers + self.outside


def trace(
    model: t5.T5,
    batch: Batch,
    *,
    trained: frozenset[str],
    has_dropout: bool = True,
) -> tuple[Kept, Kept]:
    """Returns the activations that a step keeps, and its copies of parameters.

    Copies are those in the compute dtype of parameters that train. Tracing takes a
    second or two the first time, for batches of all numbers of rows together.

    Args:
      model: The network, all of it that a device computes.
      batch: Shapes of the arrays of a batch, or of a device's share of it; all have
        as many rows.
      trained: Names of the parameters that train.
      has_dropout: Whether values are dropped, if the model's rate is not 0.
    """
    (rows,) = {leaf.shape[0] for leaf in batch.values()}
    arrays = tuple((n, tuple(a.shape[1:]), str(a.dtype)) for n, a in batch.items())
    hashable: Any = model  # as all modules of Flax are
    # JAX's own attention mixes dtypes, which strict callers would refuse.
    with jax.numpy_dtype_promotion("standard"):
        sums = _trace(hashable, arrays, trained, has_dropout)
    activations, copies = (
        Kept(*(part.of_row * rows + part.beside for part in parts)) for parts in sums
    )
    return activations, copies


class _Bytes(NamedTuple):
    """Of each row of a batch, and of what has no rows."""

    of_row: int = 0
    beside: int = 0


_Parts = tuple[_Bytes, _Bytes, _Bytes]  # as in Kept


@functools.lru_cache(maxsize=256)
def _trace(
    model: t5.T5,
    arrays: tuple[tuple[str, tuple[int, ...], str], ...],
    trained: frozenset[str],
    has_dropout: bool,
) -> tuple[_Parts, _Parts]:
    """Returns the parts of activations, and of copies of parameters."""
    sizes = _sizes(model, {size for _, dims, _ in arrays for size in dims})
    shape = dataclasses.replace(
        model.config,
        num_encoder_layers=sizes.encoder,
        num_decoder_layers=sizes.decoder,
        # The same but for the arrays of all pairs, which any machine can trace.
        attention=model.config.attention.replace("cudnn", "dot_product"),
    )
    deep = model.clone(config=shape)
    params = _param_shapes(model, sizes)
    trains = trees.unflatten({n: a for n, a in params.items() if n in trained})
    stays = precision.in_compute_dtype(
        shape, trees.unflatten({n: a for n, a in params.items() if n not in trained})
    )
    batch = {
        name: jax.ShapeDtypeStruct((sizes.rows, *dims), dtype)
        for name, dims, dtype in arrays
    }
    rng = jax.eval_shape(lambda: jax.random.key(0)) if has_dropout else None
    loss_fn = loss.make_loss_fn(deep)

    def backward(params: Params, frozen: Params, batch: Batch, rng: Any) -> Any:
        def loss_of(params: Params) -> Any:
            return loss_fn(trees.join(params, frozen), batch, rng)

        return jax.vjp(loss_of, params, has_aux=True)[1]

    jaxpr = jax.make_jaxpr(backward)(trains, stays, batch, rng).jaxpr
    arguments = {*jaxpr.invars, *jaxpr.constvars}
    values: dict[Any, Any] = {  # shaped arrays, which their type does not say
        value: value.aval
        for value in jaxpr.outvars
        if not hasattr(value, "val") and value not in arguments
    }
    pairs = _pairs(model.config, batch)
    return _sum(
        ((aval.shape, aval.dtype) for aval in values.values()),
        of_params={tuple(leaf.shape) for leaf in params.values()},
        left_out=pairs if model.config.attention == "cudnn" else set(),
        sizes=sizes,
    )


def _param_shapes(model: t5.T5, sizes: _Sizes) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the parameters by name, of a model with other numbers of layers."""
    leaves = trees.flatten(t5.param_shapes(model))
    for side, depth in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
        for name, leaf in leaves.items():
            if name.startswith(f"{side}/") and f"/{LAYERS}/" in name:
                dims = depth, *leaf.shape[1:]
                leaves[name] = jax.ShapeDtypeStruct(dims, leaf.dtype)
    return leaves


def _sizes(model: t5.T5, lengths: set[int]) -> _Sizes:
    """Returns sizes that divide those of no other axis; `lengths` are a batch's."""
    fields = dataclasses.asdict(model.config).values()
    used = lengths | {size for size in fields if isinstance(size, int) and size}
    used.update(
        *(leaf.shape for leaf in trees.flatten(t5.param_shapes(model)).values())
    )
    return _Sizes(*[n for n in _TELLING if all(size % n for size in used)][:3])


def _pairs(shape: config_lib.T5Config, batch: Batch) -> set[tuple[int, ...]]:
    """Returns the shapes (heads, queries, keys) that arrays of attention end with."""
    inputs = batch["encoder_input_tokens"].shape[1]
    targets = batch["decoder_input_tokens"].shape[1]
    lengths = ((inputs, inputs), (targets, targets), (targets, inputs))
    return {(shape.num_heads, *pair) for pair in lengths}


def _sum(
    values: Iterable[tuple[tuple[int, ...], Any]],
    *,
    of_params: set[tuple[int, ...]],
    left_out: set[tuple[int, ...]],
    sizes: _Sizes,
) -> tuple[_Parts, _Parts]:
    """Returns the bytes of activations and of copies of parameters."""
    sums = collections.Counter[tuple[bool, int, bool]]()
    for dims, dtype in values:
        if dims[-3:] in left_out:
            continue
        depth = dims[0] if dims and dims[0] in (sizes.encoder, sizes.decoder) else 1
        is_copy = len(dims) > 1 and dims in of_params
        has_rows = any(size % sizes.rows == 0 for size in dims)
        divisor = depth * (sizes.rows if has_rows else 1)
        sums[is_copy, depth, has_rows] += math.prod(dims) // divisor * _itemsize(dtype)

    def parts(is_copy: bool) -> _Parts:  # noqa: FBT001
        encoder, decoder, outside = (
            _Bytes(sums[is_copy, depth, True], sums[is_copy, depth, False])
            for depth in (sizes.encoder, sizes.decoder, 1)
        )
        return encoder, decoder, outside

    return parts(False), parts(True)  # noqa: FBT003


def _itemsize(dtype: Any) -> int:
    """Returns the bytes of a value; a key of random numbers takes 8."""
    is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    return 8 if is_key else np.dtype(dtype).itemsize
