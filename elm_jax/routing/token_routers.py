"""Routers that weigh a mixture's experts for each token, at each place of the model.

Each gives the experts scores, keeps the `top_k` greatest and takes the softmax of
these. What a router reads is what the adapters there read.

| router | score of an expert | what it needs beforehand |
|---|---|---|
| `Fixed` | weights that are given, the same everywhere | nothing |
| `FirstStage` | the weight that a router of whole tasks gives it | that router |
| `Arrow` | size of the reading along the expert's direction | the experts |
| `EffectNorm` | norm of the expert's effect | nothing |
| `CalibratedNorm` | the same, as a z-score on the expert's own rows | statistics |
| `MeanActivation` | cosine with the mean reading of its own rows | statistics |
| `Gates` | product with a gate that was trained | gates |
| `Random` | by chance, a control | nothing |
"""

import abc
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import errors, fields, float32_sums
from elm_jax.peft import mixture
from elm_jax.types import Params

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(mixture.Router):
    """The same weights for every token and place.

    Attributes:
      weights: One for each expert; empty for `1 / experts` each.
    """

    is_same_everywhere: ClassVar[bool] = True
    weights: tuple[fields.Finite, ...] = ()

    def weigh(
        self, params: Params, read: jax.Array, norms: jax.Array | None, count: int
    ) -> jax.Array:
        """Returns the weights, as `Router.weigh` has them.

        Raises:
          ConfigError: They are not for so many experts.
        """
        del params, norms
        weights = np.array(self.weights or [1.0 / count] * count, np.float32)
        if len(weights) != count:
            raise errors.ConfigError(
                found=f"weights {self.weights} for {count} experts",
                expected="one for each",
                do="Give as many numbers as experts",
            )
        return jnp.broadcast_to(weights, (*read.shape[:-1], count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstStage(mixture.Router):
    """The weights of the experts for the whole task, for every token and place.

    They are parameters, so that tasks share a compiled program. Who makes a mixture
    gives them, such as `RoutedTokens.first`.
    """

    is_same_everywhere: ClassVar[bool] = True

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of a weight."""
        del width
        return {"weight": ()}

    def weigh(
        self, params: Params, read: jax.Array, norms: jax.Array | None, count: int
    ) -> jax.Array:
        """Returns the weights, as `Router.weigh` has them."""
        del norms
        weights = params["weight"].astype(jnp.float32)
        return jnp.broadcast_to(weights, (*read.shape[:-1], count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreRouter(mixture.Router, abc.ABC):
    """A router by scores.

    Attributes:
      top_k: Experts that get a weight at each place; -1 for all.
      temperature: Scores are divided by it before the softmax.
    """

    top_k: fields.CountOrAll = 2
    temperature: fields.Positive = 1.0

    @property
    def num_chosen(self) -> int:
        """How many get a weight; 0 for all."""
        return 0 if self.top_k == -1 else self.top_k

    @abc.abstractmethod
    def score(
        self, params: Params, read: jax.Array, norms: jax.Array | None
    ) -> jax.Array:
        """Returns float32 scores [..., experts]; the arguments are `weigh`'s."""

    def weigh(
        self, params: Params, read: jax.Array, norms: jax.Array | None, count: int
    ) -> jax.Array:
        """Returns the softmax of the greatest scores, as `Router.weigh` has it."""
        params = {name: leaf.astype(jnp.float32) for name, leaf in params.items()}
        scores = self.score(params, read.astype(jnp.float32), norms)
        scores = scores / np.float32(self.temperature)
        return top_k_softmax(scores, count if self.top_k == -1 else self.top_k)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrow(ScoreRouter):
    """The size of what is read, along the direction that an expert changes most.

    A LoRA's direction is the first singular vector of its product on the side of the
    inputs (the paper's); a bottleneck's is that of `down`, each unit weighted by the
    norm of its row of `up` (ours: the paper has no activation between the matrices).

    Reference:
      Ostapenko et al., https://arxiv.org/abs/2405.11157, section 3.2. PEFT's default
      is three experts, mttl's are all.
    """

    top_k: fields.CountOrAll = 3

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of a direction."""
        return {"direction": (width,)}

    def score(
        self, params: Params, read: jax.Array, norms: jax.Array | None
    ) -> jax.Array:
        """Returns the sizes of the products."""
        del norms
        return jnp.abs(float32_sums.einsum("...d,ed->...e", read, params["direction"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EffectNorm(ScoreRouter):
    """The Euclidean norm of what an expert would add.

    Reference:
      SpectR, https://arxiv.org/abs/2504.03454, for LoRAs, where it is computed from
      their singular vectors; of bottlenecks it is the norm of the block's output.
    """

    needs_norms: ClassVar[bool] = True

    def score(
        self, params: Params, read: jax.Array, norms: jax.Array | None
    ) -> jax.Array:
        """Returns the norms."""
        del params, read
        assert norms is not None  # noqa: S101 - it says that it needs them
        return norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibratedNorm(EffectNorm):
    """The norm of an expert's effect, as a z-score by the norms on its own rows.

    Without it, experts that change much everywhere are chosen everywhere.

    Reference:
      SEQR, https://arxiv.org/abs/2509.18093, section 4.
    """

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shapes of mean and standard deviation."""
        del width
        return {"norm_mean": (), "norm_std": ()}

    def score(
        self, params: Params, read: jax.Array, norms: jax.Array | None
    ) -> jax.Array:
        """Returns the z-scores."""
        norms = super().score(params, read, norms)
        mean, std = params["norm_mean"], params["norm_std"]
        leading_axes = (1,) * (norms.ndim - 1)
        centred = norms - mean.reshape(*leading_axes, -1)
        return centred / (std.reshape(*leading_axes, -1) + np.float32(_EPSILON))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanActivation(ScoreRouter):
    """The cosine with the mean of what an expert's adapter read on its own rows.

    The cosine is mttl's, there with the last or the mean token of ten rows a task, for
    LoRAs in decoders. Ours: the mean over all tokens of more rows; the temperature of
    0.1, as cosines are at most 2 apart, and mostly far less, so that their softmax
    would be nearly even; two experts; bottlenecks; and `reads = "sub_layer"`, means of
    what goes into the sub-layers instead of what the adapters behind them read.

    Reference:
      microsoft/mttl, `HiddenStateComputer`, with which Arrow's paper compares.
    """

    temperature: fields.Positive = 0.1

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of a mean reading."""
        return {"read_mean": (width,)}

    def score(
        self, params: Params, read: jax.Array, norms: jax.Array | None
    ) -> jax.Array:
        """Returns the cosines."""
        del norms
        return float32_sums.einsum(
            "...d,ed->...e", _unit(read), _unit(params["read_mean"])
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates(ScoreRouter):
    """The product with an expert's trained gate, both standardised, over root width.

    The paper's are LoRAs, whose gates see what goes into the module that they adapt;
    two experts, 100 steps and the products are the paper's as well. Ours: bottlenecks,
    which lie behind a sub-layer, so that their gates see what comes out of it, or with
    `reads = "sub_layer"` what goes in, as the paper's do.

    Reference:
      PHATGOOSE, https://arxiv.org/abs/2402.05859, section 3.2 and 3.3.
    """

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of a gate."""
        return {"gate": (width,)}

    def score(
        self, params: Params, read: jax.Array, norms: jax.Array | None
    ) -> jax.Array:
        """Returns the scaled products."""
        del norms
        gates = _standard(params["gate"])
        products = float32_sums.einsum("...d,ed->...e", _standard(read), gates)
        return products / np.float32(np.sqrt(read.shape[-1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(ScoreRouter):
    """A control: experts by chance, each token of each place otherwise.

    The score of an expert is the cosine of ten times the product of what the adapter
    reads, standardised, with a random direction over root width. Such products differ
    by about 1 between tokens, so that cosines, whose period is 0.6 of that, have
    forgotten what was read, and every expert is as likely to be the greatest. It is a
    function of the reading alone and not steep: rounding, as by other batches or
    padding, changes a score by some ten times as much. Ours.

    Attributes:
      random_seed: Of the directions, which are also others for each expert, place and
        layer; they do not depend on which experts are mixed.
    """

    random_seed: fields.Seed = 0

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of a direction."""
        return {"random_direction": (width,)}

    def directions(self, of: str, shape: Sequence[int]) -> np.ndarray:
        """Returns float32 standard normal numbers.

        Args:
          of: Expert and place, by a text.
          shape: Of the result.
        """
        digest = hashlib.sha256(f"{self.random_seed} {of}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
        return rng.standard_normal(shape).astype(np.float32)

    def score(
        self, params: Params, read: jax.Array, norms: jax.Array | None
    ) -> jax.Array:
        """Returns the cosines."""
        del norms
        products = float32_sums.einsum(
            "...d,ed->...e", _standard(read), params["random_direction"]
        )
        return jnp.cos(products * np.float32(10 / np.sqrt(read.shape[-1])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenGate(mixture.Router):
    """The sigmoid of the product with a gate: how much a token needs the one expert.

    What gates are trained with, each with its expert alone; `Gates` then compares them.

    Reference:
      PHATGOOSE, https://arxiv.org/abs/2402.05859, section 3.2.
    """

    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of a gate."""
        return {"gate": (width,)}

    def weigh(
        self, params: Params, read: jax.Array, norms: jax.Array | None, count: int
    ) -> jax.Array:
        """Returns weights in (0, 1), as `Router.weigh` has them."""
        del norms, count
        gates = params["gate"].astype(jnp.float32)
        products = float32_sums.einsum("...d,ed->...e", read.astype(jnp.float32), gates)
        return jax.nn.sigmoid(products)


def top_k_softmax(scores: jax.Array, top_k: int) -> jax.Array:
    """Returns the softmax of the greatest scores [..., experts], 0 for the others.

    Of equal scores at the border the first experts are taken.
    """
    if top_k < scores.shape[-1]:
        _, chosen = jax.lax.top_k(scores, top_k)
        is_chosen = jax.nn.one_hot(chosen, scores.shape[-1], dtype=bool).any(axis=-2)
        scores = jnp.where(is_chosen, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


def _unit(x: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / (norm + np.float32(_EPSILON))


def _standard(x: jax.Array) -> jax.Array:
    """Returns values of mean 0 and standard deviation 1 on the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + np.float32(_EPSILON))
