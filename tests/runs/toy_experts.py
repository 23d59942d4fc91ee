"""A base, and three experts of each kind that were never trained, on toy tasks."""

import dataclasses

from elm_jax import trees
from elm_jax.checkpoints import experts
from elm_jax.peft import bottleneck, ia3, lora
from elm_jax.runs import bases
from tests.peft.sample import random_params
from tests.runs import scored

SPECS = {
    "whole": None,
    "bottleneck": bottleneck.Bottleneck(reduction_factor=4),
    "lora": lora.Lora(rank=2),
    "ia3": ia3.Ia3(),
}
PATTERNS = {"whole": ".*", "norms": "norm/scale$"}


def save(path, kinds=(*SPECS, "norms")):
    """Writes them, as `KIND/KIND_NUMBER` beside the base."""
    scored.save_base(path)
    _, info = experts.load_expert(path / "base")
    for kind in kinds:
        spec = SPECS.get(kind)
        pattern = PATTERNS.get(kind, "_adapter/")
        for seed, task in enumerate(("plain_ask", "twice_ask", "long_ask"), start=1):
            whole = random_params(bases.build_model(scored.SHAPE, spec), seed)
            expert_info = dataclasses.replace(
                info,
                name=f"{kind}_{seed}",
                kind="dataset" if kind == "whole" else "prompt",
                adapter=bases.describe(spec),
                trainable_pattern=pattern,
                tasks=(task,),
            )
            experts.save_expert(
                path / kind / expert_info.name,
                trees.split(whole, pattern)[0],
                expert_info,
            )
