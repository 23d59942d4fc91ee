"""What a kind of adapters is: one class in one file says all there is to know of it.

A kind is a frozen dataclass with `AdapterKind` as its base and
`adapters.register` above it, in any module that a gin file or a program imports:

    @adapters.register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Scale(kind.AdapterKind):
        kind: str = "scale"
        axes = {"scale": ("outputs",)}
        neutral = {"scale": 1.0}

        def adapter_fn(self, emb_dim):
            return self

        def __call__(self, point, *, name):
            return ScaleModule(name=name) if point.endswith("/mlp") else None

From then on it trains (`train.Train.adapter = @my_module.Scale()`), is saved by its
fields, loaded by its name, scored, split over devices, averaged, and whatever of the
rest it defines. Its cost is estimated from the shapes of its parameters
(`model/cost.py`).
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from elm_jax import errors, types


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterKind(abc.ABC):
    """Where adapters of a kind go and what they are.

    Attributes:
      kind: The kind's name, in manifests too; a field of the dataclass, with the name
        as its default.

    Variables of the class:
      axes: Logical axes of each parameter, by its name below `..._adapter/`:
        `inputs` and `outputs` of what is adapted, and `adapter`, the adapter's own
        width. Of two kinds parameters of one name have one meaning.
      beside: Parameters that a sum of experts' effects puts beside each other: the
        axis, and whether an expert's factor belongs there (see `effects`).
      neutral: The value of the others with which an adapter adds nothing; a sum adds
        their distances from it. A kind with parameters in neither is averaged only.
      is_linear: Whether an adapter is nothing but the product of the two matrices in
        `beside`, up to a factor of its spec, so that products can be merged.
    """

    kind: str
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    beside: ClassVar[Mapping[str, tuple[int, bool]]] = {}
    neutral: ClassVar[Mapping[str, float]] = {}
    is_linear: ClassVar[bool] = False

    @abc.abstractmethod
    def adapter_fn(self, emb_dim: int) -> types.AdapterFn:
        """Returns what the model asks for the adapter of each insertion point.

        Often the spec itself, with `__call__(point, *, name)`, which gives a flax
        module, or None where none belongs.

        Args:
          emb_dim: Model width.

        Raises:
          ConfigError: Such adapters do not fit the width.
        """

    def repeated(self, times: int) -> "AdapterKind":
        """Returns the spec of `times` adapters beside each other, `times` > 1.

        It is itself where nothing is put beside (`beside` is empty).
        """
        del times
        return self

    def of_rank(self, rank: int) -> "AdapterKind":
        """Returns the spec of such adapters with another inner width, scaled alike.

        Raises:
          ConfigError: The kind has no widths to choose from.
        """
        raise errors.ConfigError(
            found=f"adapters of kind {self.kind!r} for a rank of {rank}",
            expected="lora, or another kind that defines `of_rank`",
            do="Leave the rank out",
        )

    def fold(
        self, path: str, parts: Mapping[str, np.ndarray], kernels: dict[str, Any]
    ) -> None:
        """Changes the base's matrices so that they have the effect of an adapter.

        Args:
          path: The adapted projection, such as `encoder/layers/mlp/wo`.
          parts: The adapter's parameters, layers stacked, by their names below
            `..._adapter/`.
          kernels: All parameters of the base by name; changed.

        Raises:
          ConfigError: The adapters are no linear functions of what they adapt.
        """
        del path, parts, kernels
        raise self._no_fold()

    def check_can_fold(self) -> None:
        """Raises ConfigError unless the kind defines `fold`."""
        if type(self).fold is AdapterKind.fold:
            raise self._no_fold()

    def read(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        """Returns what an adapter computes its effect from: inputs, or outputs."""
        del outputs
        return inputs

    def mix(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
        weights: jax.Array,
    ) -> jax.Array:
        """Returns the outputs with the weighted effects of several adapters.

        With weights that sum to 1 it is the weighted mean of what each adapter alone
        would make of the outputs; one adapter with weight 1 gives its own outputs, bit
        for bit unless the compiler rounds a product and a sum around it at once. A
        kind whose effects can be summed with less work overrides it.

        Args:
          module: One adapter of this kind, unbound.
          params: Of all adapters, each leaf [experts, ...].
          inputs: [..., inputs].
          outputs: [..., outputs].
          weights: [..., experts], in the dtype of the outputs.
        """
        all_outputs = self._each(module, params, inputs, outputs)
        rest = 1 - jnp.sum(weights, axis=-1, keepdims=True)
        return rest * outputs + jnp.einsum("...e,e...d->...d", weights, all_outputs)

    def effect(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """Returns what one adapter adds to outputs [rows, outputs].

        A kind whose effect can be computed without the outputs overrides it: then no
        rounding of their sum is in it.

        Args:
          module: One adapter of this kind, unbound.
          params: Of this adapter.
          inputs: [rows, inputs].
          outputs: [rows, outputs].
        """
        new_outputs: Any = module.apply({"params": params}, inputs, outputs)
        return new_outputs - outputs

    def norms(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """Returns the Euclidean norm of each adapter's effect, float32 [..., experts].

        The arguments are those of `mix`.
        """
        all_outputs = self._each(module, params, inputs, outputs)
        effects = all_outputs.astype(jnp.float32) - outputs.astype(jnp.float32)[None]
        return jnp.moveaxis(jnp.linalg.norm(effects, axis=-1), 0, -1)

    def entropies(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """Returns the entropy of the softmax of each adapter's effect, in nats.

        Float32 [..., experts], from 0 to the logarithm of the width; the arguments are
        those of `mix`.
        """
        rows = [part.reshape(-1, part.shape[-1]) for part in (inputs, outputs)]

        def alone(adapter: types.Params) -> jax.Array:
            effect = self.effect(module, adapter, *rows).astype(jnp.float32)
            return jnp.sum(jax.scipy.special.entr(jax.nn.softmax(effect)), axis=-1)

        entropies = jax.vmap(alone)(params)
        return entropies.T.reshape(*outputs.shape[:-1], len(entropies))

    def _each(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """Returns what each adapter alone makes of the outputs, [experts, ..., D]."""

        def alone(adapter: types.Params) -> jax.Array:
            new_outputs: Any = module.apply({"params": adapter}, inputs, outputs)
            return new_outputs

        return jax.vmap(alone)(params)

    def _no_fold(self) -> errors.ConfigError:
        return errors.ConfigError(
            found=f"adapters of kind {self.kind!r}",
            expected="lora, ia3 or another kind that defines `fold`: others are not"
            " part of a matrix",
            do="Use the expert as it is, with its base",
        )
