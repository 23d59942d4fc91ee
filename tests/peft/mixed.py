"""Models with several experts of each kind."""

import jax
import numpy as np

from elm_jax import trees
from elm_jax.model import t5
from elm_jax.peft import bottleneck, expert_parts, ia3, lora, mixture, points
from tests.peft.own_kind import Gain
from tests.peft.sample import SHAPE, random_params

KINDS = {
    "serial": bottleneck.Bottleneck(points=points.SUB_LAYERS, reduction_factor=8),
    "parallel": bottleneck.Bottleneck(parallel=True, reduction_factor=16),
    "lora": lora.Lora(rank=3, targets="/(query|key|value|out|wi_0|wo)$"),
    "ia3": ia3.Ia3(),
    "of_a_user": Gain(),
}
# Sums of another order, and of more terms, in float32.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def experts_of(spec, count, parts="adapters"):
    """Returns the base of a model with adapters, and experts' parameters."""
    model = t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim))
    whole = [random_params(model, seed) for seed in range(count)]
    pattern = expert_parts.trainable_pattern(parts)
    experts = [trees.split(params, pattern)[0] for params in whole]
    return model, trees.split(whole[0], pattern)[1], experts


def mixed_model(spec, count, router, **options):
    mixture_spec = mixture.Mixture(of=spec, num_experts=count, router=router, **options)
    return t5.T5(SHAPE, mixture_spec.adapter_fn(SHAPE.emb_dim))


def with_routed_norms(spec, count, router, **options):
    """Returns a model of prompt experts with routed layer norms, and parameters."""
    model = mixed_model(spec, count, router, routes_norms=True, **options)
    _, base, experts = experts_of(spec, count, "adapters_and_norms")
    norms = mixture.norms_of(t5.param_shapes(model))
    return model, trees.join(base, mixture.stack(experts, routed_norms=norms))


def sample_of(spec, count):
    """Returns an adapter, parameters of several, inputs and outputs [2, 5, 16]."""
    point = "decoder/cross_attention/key"
    point = "encoder/mlp" if isinstance(spec, bottleneck.Bottleneck) else point
    point = "encoder/mlp/wo" if isinstance(spec, Gain) else point
    module = spec.adapter_fn(16)(point, name="x")
    rng = np.random.default_rng(0)
    inputs, outputs = rng.normal(size=(2, 2, 5, 16)).astype(np.float32)
    like = module.init(jax.random.key(0), inputs, outputs)["params"]
    params = jax.tree.map(
        lambda leaf: rng.normal(size=(count, *leaf.shape)).astype(np.float32), like
    )
    return module, params, inputs, outputs
