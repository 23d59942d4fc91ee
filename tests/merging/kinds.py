"""Small experts of every kind, with what they start from and what they do."""

import dataclasses
from typing import Any

import numpy as np

from elm_jax import trees
from elm_jax.merging import aligning, layers
from elm_jax.peft import effects, lora

WIDTH, LAYERS = 6, 2
# An adapter that reads the inputs of its sub-layer; others read the outputs.
PARALLEL = "encoder/layers/mlp_parallel_adapter"
NORMS = {"encoder/layers/mlp_norm/scale": (LAYERS, WIDTH), "encoder/norm/scale": (4,)}
MATRICES = {
    "encoder/layers/mlp/wi/kernel": (LAYERS, WIDTH, 5),
    "encoder/relpos_bias/rel_embedding": (2, 4),
    "token_embedder/embedding": (9, WIDTH),
}


def bottleneck(place="encoder/layers/mlp_adapter", units=3):
    return {
        f"{place}/down/kernel": (LAYERS, WIDTH, units),
        f"{place}/down/bias": (LAYERS, units),
        f"{place}/up/kernel": (LAYERS, units, WIDTH),
        f"{place}/up/bias": (LAYERS, WIDTH),
    }


def low_rank(rank=2):
    place = "encoder/layers/self_attention/query_adapter"
    return {
        f"{place}/lora_a": (LAYERS, WIDTH, rank),
        f"{place}/lora_b": (LAYERS, rank, 8),
    }


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "bottleneck": bottleneck() | NORMS,
    "parallel": bottleneck(PARALLEL) | bottleneck("decoder/layers/mlp_adapter", 2),
    "lora": low_rank() | NORMS,
    "several_ranks": low_rank() | NORMS,
    "stable_ranks": low_rank() | NORMS,
    "ia3": {"encoder/layers/attention/key_adapter/ia3_scale": (LAYERS, WIDTH)},
    "norms": NORMS,
    "all": MATRICES | NORMS | {"temperature": ()},
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """Experts of a kind, their base, and what was measured with them."""

    experts: list[dict[str, Any]]
    start: dict[str, Any]
    statistics: dict[str, list[dict[str, Any]]]

    @property
    def beside(self):
        return effects.beside(self.experts[0])

    def arguments(self, method):
        """What `method.merge` takes besides the experts."""
        arguments: dict[str, Any] = {"beside": self.beside}
        if method.needs_base:
            arguments["base"] = self.start
        if method.needs_statistics:
            arguments["statistics"] = self.statistics[method.name]
        return arguments

    def only(self, *numbers):
        """Some of the experts, by their numbers."""
        statistics = {
            name: [several[n] for n in numbers]
            for name, several in self.statistics.items()
        }
        return Sample([self.experts[n] for n in numbers], self.start, statistics)

    def opposite(self):
        """Experts that change the opposite."""
        return dataclasses.replace(
            self, experts=[self._opposite(expert) for expert in self.experts]
        )

    def _opposite(self, expert):
        beside, start = self.beside, trees.flatten(self.start)
        leaves = {}
        for name, leaf in trees.flatten(expert).items():
            if name not in beside:
                leaves[name] = (2 * start[name].astype(float) - leaf).astype(leaf.dtype)
            else:
                leaves[name] = -leaf if beside[name].takes_factor else leaf
        return trees.unflatten(leaves)


def sample(kind, count=3, dtype=np.float32):
    rng = np.random.default_rng(len(kind))

    def numbers(shapes):
        # Of few bits, so that differences of any two are exact.
        drawn = {name: np.asarray(rng.normal(size=shape)) for name, shape in shapes}
        return {n: (np.round(a * 4096) / 4096).astype(dtype) for n, a in drawn.items()}

    shapes = SHAPES[kind].items()
    leaves = [numbers(shapes) for _ in range(count)]
    experts = [trees.unflatten(each) for each in leaves]
    if kind in RANKS:
        experts = [_of_rank(e, 1 + (n > 0), kind) for n, e in enumerate(experts)]
    beside, neutral = effects.beside(experts[0]), effects.neutral(experts[0])
    plain = [(n, s) for n, s in shapes if n not in {*beside, *trees.flatten(neutral)}]
    start = trees.join(trees.unflatten(numbers(plain)), neutral)
    fisher = [{n: np.abs(a) for n, a in numbers(shapes).items()} for _ in experts]
    grams = [_grams(rng, shapes) for _ in experts]
    hidden = [_hidden(trees.flatten(expert), beside) for expert in experts]
    measured = {"fisher": fisher, "regmean": grams, "narrowed": hidden}
    return Sample(experts, start, measured)


def _hidden(leaves, beside):
    units_of = {}
    for names in aligning.places(beside, is_linear=False).values():
        bias, kernel, read = sorted(names)
        x = _read(kernel)
        units = np.tanh(x @ leaves[kernel] + leaves[bias][..., None, :])
        units_of[read] = units
    return units_of


RANKS = {
    "several_ranks": [lora.Lora(rank=rank, alpha=5.0) for rank in (1, 2)],
    # Of rank 1 a plain one, whose scale is another than that of the stabilised ones.
    "stable_ranks": [
        lora.Lora(rank=1, alpha=3.0),
        lora.Lora(rank=2, alpha=5.0, rank_stabilized=True),
    ],
}
"""Of kinds whose first expert has rank 1 and the others rank 2, the two specs."""


def _of_rank(expert, rank, kind):
    leaves = trees.flatten(expert)
    cut = {
        name: leaf[..., :rank]
        if name.endswith("lora_a")
        else leaf[..., :rank, :]
        if name.endswith("lora_b")
        else leaf
        for name, leaf in leaves.items()
    }
    specs = RANKS[kind]
    return effects.widened(trees.unflatten(cut), specs[rank - 1], to=specs[-1])


def _grams(rng, shapes):
    grams = {}
    for name, shape in shapes:
        if name.endswith("ia3_scale"):
            grams[name] = rng.uniform(0.5, 2.0, size=shape)
        elif name.endswith(("kernel", "lora_a")):
            rows = rng.normal(size=(*shape[:-2], 20, shape[-2]))
            grams[name] = np.swapaxes(rows, -1, -2) @ rows / 20
    return grams


def does(params, start, beside):
    """What an expert does: differences of parameters, and outputs of adapters."""
    leaves = {n: a.astype(np.float64) for n, a in trees.flatten(params).items()}
    base = trees.flatten(start)
    effects = {n: a - base[n] for n, a in leaves.items() if n not in beside}
    for is_linear in (False, True):
        for place, names in aligning.places(beside, is_linear=is_linear).items():
            for unit, index in layers.units(place, leaves[names[0]]):
                parts = {n.rsplit("_adapter/")[1]: leaves[n][index] for n in names}
                effects[unit] = _added(
                    _read(place), **{n.replace("/", "_"): a for n, a in parts.items()}
                )
    return effects


INPUTS, OUTPUTS = np.random.default_rng(9).normal(size=(2, 7, WIDTH))


def _read(name):
    """What an adapter reads of its sub-layer."""
    return INPUTS if "parallel" in name or "attention" in name else OUTPUTS


def _added(
    x, lora_a=None, lora_b=None, down_kernel=None, down_bias=None, up_kernel=None
):
    if lora_a is not None:
        return x @ lora_a @ lora_b
    return np.tanh(x @ down_kernel + down_bias) @ up_kernel
