"""The adapters of several experts in every place of one model, mixed token by token.

The parameters of a mixture are those of its experts' adapters, stacked on an axis in
front: `experts/...` [experts, ...] and, of its router, `router/...` [experts, ...]. To
the model it is one more function that gives adapters (`types.AdapterFn`), so it scores,
decodes and is split over devices as with one expert. What the keys and values of
cross-attention get is routed once per input, as they are computed once per input;
nothing that a router sees at one position depends on others. Weights that are `given`
for whole inputs go before those of the router.

Layer norms, which prompt experts train as well, have one scale, such as the experts'
mean, or with `routes_norms` for each token the weighted mean of the experts' scales. So
they give the weighted mean of what the experts' norms would give.
"""

import abc
import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from elm_jax import errors, fields, float32_sums, trees
from elm_jax.peft import chosen, points
from elm_jax.peft import kind as kinds
from elm_jax.types import LAYERS, Params

EXPERTS, ROUTER, GIVEN = "experts", "router", "given"
# Places that read the encoder's output, one position for each of the inputs'.
_READS_INPUTS = re.compile(r"^encoder/|encoder_decoder_attention/(key|value)_adapter$")
# A parameter of an adapter or of a layer norm, with its place.
_PLACE = re.compile(r"(.*?_(?:adapter|norm))/(.+)$")
# The layer norm in front of a sub-layer.
_BEFORE = re.compile(r"pre_(\w+)_layer_norm$")
Reads = Literal["adapter", "sub_layer"]
# What `model.apply(..., mutable=[OBSERVED])` gives of each place.
OBSERVED = "intermediates"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Router(abc.ABC):
    """Gives the weights of a mixture's experts at one place of the model."""

    # Whether it asks for the norms of the experts' effects; no option of gin files.
    needs_norms: ClassVar[bool] = False
    # Whether the weights of a token are the same at all places, whatever they read.
    is_same_everywhere: ClassVar[bool] = False

    @property
    def observes_entropies(self) -> bool:
        """Whether `observed` is to have the entropies of the experts' effects."""
        return False

    def __post_init__(self) -> None:
        """Raises ConfigError for an option that it cannot have."""
        fields.check(self)

    @property
    def num_chosen(self) -> int:
        """The most experts to which it gives a token a weight; 0 for all."""
        return 0

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shapes of its float32 parameters for one expert, by name.

        Args:
          width: Of what an adapter reads.
        """
        del width
        return {}

    @abc.abstractmethod
    def weigh(
        self, params: Params, read: jax.Array, norms: jax.Array | None, count: int
    ) -> jax.Array:
        """Returns float32 weights [..., experts] for each token.

        Args:
          params: Its parameters at this place, each [experts, ...].
          read: What the adapters read, [..., width].
          norms: Of the experts' effects, float32 [..., experts], if it needs them.
          count: The number of experts.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Adapters of several experts of one kind, and what weighs them.

    It is made of experts to be scored. It is no kind of adapters (`adapters.KINDS`)
    that an expert could have, and is in no manifest.

    Attributes:
      of: The kind of each expert's adapters.
      num_experts: How many there are.
      router: What weighs them.
      only_chosen: Whether a token's experts without a weight are not computed
        (`peft.chosen`), up to rounding with the same result.
      reads: What the router sees: the same as the `adapter`, or what goes into the
        `sub_layer`. Bottlenecks behind a sub-layer read what comes out of it, which
        says less of the token; for other adapters it is the same.
      routes_norms: Whether layer norms weigh the experts' scales. Ours: no paper does.
        Where weights are the same everywhere they are the norms', too. Else a norm in
        front of a sub-layer with an adapter asks this adapter's router, which reads
        what the norm would give with the experts' mean scale, and so should know what
        goes into sub-layers; others, such as the last of a stack, have the mean scale.
    """

    of: kinds.AdapterKind
    num_experts: fields.Count
    router: Router
    only_chosen: bool = False
    reads: Reads = "adapter"
    routes_norms: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for options that the router cannot have."""
        if self.routes_norms and self.router.needs_norms:
            raise errors.ConfigError(
                found=f"layer norms to be routed by {self.router}",
                expected="a router that needs no effect, which no layer norm has",
                do="Take another router, or average the layer norms",
            )
        if self.only_chosen and not self.router.num_chosen:
            raise errors.ConfigError(
                found=f"only_chosen with {self.router}, which weighs all experts",
                expected="a router that chooses some, such as Arrow(top_k=2)",
                do="Leave only_chosen out, or give the router a top_k",
            )

    def adapter_fn(self, emb_dim: int) -> "Mixtures":
        """Returns what the model asks for the adapter of each insertion point."""
        make: Callable[..., Any] = self.of.adapter_fn(emb_dim)
        places = (*points.SUB_LAYERS, *points.PROJECTIONS)
        modules = {point: make(point, name=EXPERTS) for point in places}
        inner = tuple((p, _Unbound(m)) for p, m in modules.items() if m is not None)
        is_without = self.routes_norms and not self.router.is_same_everywhere
        if is_without and not any(point in points.SUB_LAYERS for point, _ in inner):
            raise errors.ConfigError(
                found=f"layer norms to be routed by {self.router}, and adapters of kind"
                f" {self.of.kind!r}, none of them at a sub-layer",
                expected="adapters of sub-layers, whose router weighs the norms",
                do="Take a router with the same weights everywhere, or average norms",
            )
        return Mixtures(self, inner)


@dataclasses.dataclass(frozen=True)
class _Unbound:
    """Hides a module from flax, which would else make it a submodule."""

    module: nn.Module


@dataclasses.dataclass(frozen=True)
class Mixtures:
    """A mixture for one model width; a types.AdapterFn."""

    spec: Mixture
    inner: tuple[tuple[str, _Unbound], ...]

    def __call__(self, point: str, *, name: str) -> "MixtureAdapter | None":
        """Returns a new adapter module for `point`, or None where none belongs."""
        inner = dict(self.inner).get(point)
        return None if inner is None else MixtureAdapter(self.spec, inner, name=name)

    def routed_norm(self, point: str, *, name: str) -> "MixtureNorm | None":
        """Returns what scales the layer norm in front of `point`, or None."""
        is_known = self.spec.router.is_same_everywhere or point in dict(self.inner)
        is_routed = self.spec.routes_norms and is_known
        return MixtureNorm(self.spec, name=name) if is_routed else None


class MixtureAdapter(nn.Module):
    """Adds the weighted effects of the experts' adapters at one place."""

    spec: Mixture
    inner: _Unbound

    @nn.compact
    def __call__(
        self, inputs: jax.Array, outputs: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Maps [..., inputs] and [..., outputs] to new outputs of the same dtype.

        Raises:
          ConfigError: It is to train, which is for experts alone.
        """
        if not deterministic:
            raise errors.ConfigError(
                found="a mixture of experts in a training",
                expected="one that is scored: its experts are trained already",
                do="Train experts, and mix them when you score them",
            )
        spec, module = self.spec, self.inner.module
        params = self.param(EXPERTS, self._init_experts, inputs, outputs)
        read = inputs
        if spec.reads == "adapter":
            read = spec.of.read(inputs, outputs)
        router = _router_of(self, spec, read)
        norms = None
        if spec.router.needs_norms or self.is_mutable_collection(OBSERVED):
            norms = spec.of.norms(module, params, inputs, outputs)
        weights = _weights_of(self, spec, router, read, norms)
        self.sow(OBSERVED, "weights", weights)
        self.sow(OBSERVED, "read", read)
        self.sow(OBSERVED, "norms", norms)
        if spec.router.observes_entropies and self.is_mutable_collection(OBSERVED):
            entropies = spec.of.entropies(module, params, inputs, outputs)
            self.sow(OBSERVED, "entropies", entropies)
        weights = weights.astype(outputs.dtype)
        top_k = spec.router.num_chosen
        if spec.only_chosen and top_k < spec.num_experts:
            effect = functools.partial(spec.of.effect, module)
            return chosen.mix(effect, params, inputs, outputs, weights, top_k=top_k)
        return spec.of.mix(module, params, inputs, outputs, weights)

    def _init_experts(
        self, rng: jax.Array, inputs: jax.Array, outputs: jax.Array
    ) -> Any:
        init = functools.partial(self.inner.module.init, inputs=inputs, outputs=outputs)
        rngs = jax.random.split(rng, self.spec.num_experts)
        return jax.vmap(lambda key: init(key)["params"])(rngs)


class MixtureNorm(nn.Module):
    """Scales what a layer norm has divided by the weighted mean of experts' scales."""

    spec: Mixture

    @nn.compact
    def __call__(self, divided: jax.Array) -> jax.Array:
        """Maps [..., features] to the same shape and dtype.

        What the weights lack to a sum of 1 goes to the mean scale.
        """
        shape = (self.spec.num_experts, divided.shape[-1])
        params = self.param(EXPERTS, lambda _: {"scale": jnp.ones(shape)})
        scales = params["scale"].astype(jnp.float32)
        mean = jnp.mean(scales, axis=0).reshape(*(1,) * (divided.ndim - 1), -1)
        read = divided * mean.astype(divided.dtype)
        router = _router_of(self, self.spec, read)
        weights = _weights_of(self, self.spec, router, read, None)
        rest = 1 - jnp.sum(weights, axis=-1, keepdims=True)
        scale = float32_sums.einsum("...e,ed->...d", weights, scales)
        return divided * (scale + rest * mean).astype(divided.dtype)


def _router_of(module: nn.Module, spec: Mixture, read: jax.Array) -> Params:
    """Returns the router's parameters at the place of a module."""
    shapes, count = spec.router.shapes(read.shape[-1]), spec.num_experts
    if not shapes:
        return {}
    params: Params = module.param(
        ROUTER, lambda _: {n: jnp.zeros((count, *shape)) for n, shape in shapes.items()}
    )
    return params


def _weights_of(
    module: nn.Module,
    spec: Mixture,
    router: Params,
    read: jax.Array,
    norms: jax.Array | None,
) -> jax.Array:
    """Returns float32 weights [..., experts] at the place of a module."""
    if module.has_variable("params", GIVEN):
        return _of_inputs(module.get_variable("params", GIVEN), read)
    return spec.router.weigh(router, read, norms, spec.num_experts)


def _of_inputs(input_weights: jax.Array, read: jax.Array) -> jax.Array:
    """Returns weights [rows, length, experts] of each input's [experts, inputs].

    Rows are the inputs, or the answer choices of each input one after another.

    Raises:
      ConfigError: The rows are neither, as where inputs are packed into rows.
    """
    num_rows, num_inputs = read.shape[0], input_weights.shape[-1]
    if num_rows % num_inputs:
        raise errors.ConfigError(
            found=f"weights for {num_inputs} inputs, and {num_rows} rows",
            expected="a row for each input, or for each of its answer choices",
            do="Do not pack inputs that have weights of their own",
        )
    weights = jnp.repeat(input_weights.T, num_rows // num_inputs, axis=0)
    shape = (*read.shape[:-1], len(input_weights))
    return jnp.broadcast_to(jnp.expand_dims(weights, [*range(1, read.ndim - 1)]), shape)


def weights_of_inputs(params: Params, weights: jax.Array) -> dict[str, Any]:
    """Returns what, joined with a mixture's parameters, weighs experts by input.

    Args:
      params: Of the whole model.
      weights: Float32 [inputs, experts], the same at all places, for the inputs that
        the model is then given, and all their answer choices.
    """
    weights_by_place = {}
    for name, leaf in trees.flatten(params).items():
        place, is_experts, _ = name.partition(f"/{EXPERTS}/")
        if is_experts and place.endswith(("_adapter", "_norm")):
            layers = leaf.shape[:1] if LAYERS in place.split("/") else ()
            turned = weights.astype(jnp.float32).T
            weights_by_place[f"{place}/{GIVEN}"] = jnp.broadcast_to(
                turned, (*layers, *turned.shape)
            )
    return trees.unflatten(weights_by_place)


def stack(
    experts: Sequence[Params], *, routed_norms: Collection[str] = ()
) -> dict[str, Any]:
    """Returns the parameters of a mixture's experts: adapters stacked, others averaged.

    What is not an adapter's, such as the layer norms of prompt experts, is mostly in no
    place where a router could choose; its mean is taken, the order of the experts
    changes no bit of it.

    Args:
      experts: One or more trees with equal names and shapes.
      routed_norms: Places of layer norms whose scales are stacked; see `norms_of`.
    """
    flat = [trees.flatten(expert) for expert in experts]
    stacked = {}
    for name in flat[0]:
        leaves = [np.asarray(leaves[name]) for leaves in flat]
        place, rest = _place_of(name)
        if rest and (place.endswith("_adapter") or place in routed_norms):
            axis = 1 if LAYERS in place.split("/") else 0
            stacked[f"{place}/{EXPERTS}/{rest}"] = np.stack(leaves, axis)
        else:
            total = np.sort(np.stack(leaves).astype(np.float64), axis=0).sum(axis=0)
            stacked[name] = (total / len(leaves)).astype(leaves[0].dtype)
    return trees.unflatten(stacked)


def _place_of(name: str) -> tuple[str, str]:
    """Returns the place of a parameter of an adapter or a norm, and the rest.

    >>> _place_of("encoder/layers/mlp_adapter/up/bias"), _place_of("embedding")
    (('encoder/layers/mlp_adapter', 'up/bias'), ('', ''))
    """
    match = _PLACE.match(name)
    return (match[1], match[2]) if match else ("", "")


def norms_of(shapes: Params) -> dict[str, str]:
    """Returns the places of routed layer norms, each with that of its adapter.

    That is the one of the sub-layer behind it; "" for the last norm of a stack.

    Args:
      shapes: Parameters of a model with a mixture.
    """
    end = f"/{EXPERTS}/scale"
    names = [n for n in trees.flatten(shapes) if n.endswith(f"_norm{end}")]
    places = [name.removesuffix(end) for name in names]
    return {
        place: _BEFORE.sub(r"\1_adapter", place) if _BEFORE.search(place) else ""
        for place in places
    }


def reads_inputs(place: str) -> bool:
    """Returns whether an adapter sees a position for each token of the inputs.

    Else it sees those of the answer.

    >>> reads_inputs("decoder/layers/encoder_decoder_attention/key_adapter")
    True
    """
    return bool(_READS_INPUTS.search(place))


def observed(collections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what routers saw and said, by place such as `encoder/layers/mlp_adapter`.

    Args:
      collections: What `model.apply(..., mutable=[OBSERVED])` gave beside its result.

    Returns:
      At each place `weights`, `norms` and, if the router asks for them, `entropies`
      [layers, batch, length, experts], and what the adapters `read` [layers, batch,
      length, width].
    """
    by_place: dict[str, dict[str, Any]] = {}
    for name, (value,) in trees.flatten(collections[OBSERVED]).items():
        place, _, part = name.rpartition("/")
        by_place.setdefault(place, {})[part] = value
    return by_place
