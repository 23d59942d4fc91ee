"""A planted world: experts of disjoint skills, and inputs that mix them.

Each of `SKILLS` has words of its own, which have something in common. The base was
taught to copy: the input `s1 x1 s2 x2 s3 x3` names places `s` and words `x`, in any
order of places, and the answer repeats it in their order. An expert puts other words
of its skill in the words' places, each always the same; it has never seen words of
other skills. So a mixed input is answered by no expert alone, and for each word it is
known whose adapters it needs.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

from elm_jax import trees
from elm_jax.model import config, loss, scoring, t5
from elm_jax.peft import bottleneck, ia3, lora, mixture
from elm_jax.routing import directions, token_routers
from elm_jax.runs import observe, routing_records
from elm_jax.training import optimizers

SKILLS, WORDS, PLACES = 4, 4, 3
_END, _FIRST_PLACE, _FIRST_WORD = 1, 2, 2 + PLACES
SHAPE = config.T5Config(
    vocab_size=32,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=1,
    num_decoder_layers=1,
    relpos_buckets=8,
    relpos_max_distance=16,
)
_SERIAL = bottleneck.Bottleneck(reduction_factor=4)
_SPECS = {
    "serial": _SERIAL,
    "serial, by inputs": _SERIAL,
    "parallel": bottleneck.Bottleneck(reduction_factor=4, parallel=True),
    "lora": lora.Lora(rank=4, targets="/(value|out|wi_0|wo)$"),
    "ia3": ia3.Ia3(targets="/(value|out|hidden|wo)$"),
}
# Learning rate and steps of experts; factors have to go far from 1.
_TRAINING = {"ia3": (3e-2, 300)}
_USUAL_TRAINING = (1e-2, 150)
KINDS = (*_SPECS,)
SETTINGS = routing_records.Settings(num_examples=64, batch_size=32, gate_steps=50)
ROUTERS = {
    "Arrow": token_routers.Arrow(top_k=1),
    "EffectNorm": token_routers.EffectNorm(top_k=1),
    "CalibratedNorm": token_routers.CalibratedNorm(top_k=1),
    "MeanActivation": token_routers.MeanActivation(top_k=1),
    "Gates": token_routers.Gates(top_k=1),
}


def routers_of(spec):
    """Returns the routers that a kind of adapters can have.

    Factors of (IA)3 change each channel by itself: there is no direction for Arrow.
    """
    without = ("Arrow",) if isinstance(spec, ia3.Ia3) else ()
    return {name: router for name, router in ROUTERS.items() if name not in without}


def rows_of(rng, number, skills):
    """Returns inputs and answers of a copy, and the skill of each word.

    Args:
      rng: A numpy generator.
      number: Of rows.
      skills: Those that words are drawn from.
    """
    owners = rng.choice(skills, (number, PLACES))
    words = _FIRST_WORD + owners * WORDS + rng.integers(0, WORDS, owners.shape)
    places = np.broadcast_to(_FIRST_PLACE + np.arange(PLACES), owners.shape)
    order = rng.permuted(np.tile(np.arange(PLACES), (number, 1)), axis=1)

    def joined(names, values):
        return np.stack([names, values], axis=-1).reshape(number, -1).astype(np.int32)

    moved = [np.take_along_axis(a, order, axis=1) for a in (places, words)]
    skills = np.take_along_axis(owners, order, axis=1)
    ends = np.full((number, 1), _END, np.int32)
    inputs = np.concatenate([joined(*moved), ends], axis=1)
    return inputs, joined(places, words), (skills, owners)


def swapped(answers, owners, secret):
    """Returns answers as the owners' experts give them."""
    swapped_answers = answers.copy()
    words = answers[:, 1::2] - _FIRST_WORD - owners * WORDS
    swapped_answers[:, 1::2] = _FIRST_WORD + owners * WORDS + secret[owners, words]
    return swapped_answers


def secrets(rng):
    """Returns what each skill makes of its words: no word stays."""
    turns = rng.integers(1, WORDS, SKILLS)
    order = np.stack([rng.permutation(WORDS) for _ in range(SKILLS)])
    permutations = np.empty_like(order)
    for skill, turn in enumerate(turns):
        permutations[skill][order[skill]] = np.roll(order[skill], turn)
    return permutations


def batch_of(inputs, answers):
    """Returns a batch for training; words count, places do not."""
    weights = np.broadcast_to(np.arange(answers.shape[-1]) % 2, answers.shape)
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.roll(answers, 1, axis=-1)
        * (np.arange(answers.shape[-1]) > 0),
        "decoder_target_tokens": answers,
        "decoder_loss_weights": weights.astype(np.float32),
    }


def train(model, frozen, start, batches, rate):
    """Returns parameters after one update by each batch, [steps, ...]."""
    loss_fn = loss.make_loss_fn(model)
    num_steps = len(batches["decoder_target_tokens"])
    optimizer = optimizers.AdamW(
        learning_rate=rate, warmup_steps=min(10, num_steps - 1)
    ).make(num_steps)

    def update(carry, batch):
        params, state = carry
        grads = jax.grad(
            lambda trained: loss_fn(trees.join(frozen, trained), batch, None)[0]
        )(params)
        changes, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, changes), state), None

    return jax.lax.scan(update, (start, optimizer.init(start)), batches)[0][0]


@dataclasses.dataclass(frozen=True)
class World:
    """The base, its experts of one kind, and what they were taught.

    Attributes:
      base: Parameters.
      experts: Of each skill, the adapters.
      spec: Their kind.
      secret: What each skill makes of its words, [skills, words].
      reads: What routers see; see `mixture.Mixture.reads`.
    """

    base: dict
    experts: tuple
    spec: object
    secret: np.ndarray
    reads: str


@functools.cache
def base_of(seed=0, steps=300):
    """Returns a base that copies."""
    rng = np.random.default_rng(seed)
    step_batches = [batch_of(*rows_of(rng, 32, SKILLS)[:2]) for _ in range(steps)]
    batches = jax.tree.map(lambda *each: np.stack(each), *step_batches)
    model = t5.T5(SHAPE)
    start = t5.init_params(model, seed=seed)
    # What words of a skill have in common is half of the variance of an embedding.
    name = "token_embedder/embedding"
    embedding = np.array(trees.flatten(start)[name])
    common = np.repeat(rng.normal(size=(SKILLS, SHAPE.emb_dim)), WORDS, axis=0)
    words = slice(_FIRST_WORD, _FIRST_WORD + SKILLS * WORDS)
    embedding[words] = (embedding[words] + common) / np.sqrt(2)
    start = trees.replace(start, trees.unflatten({name: embedding}))
    return jax.jit(lambda p, b: train(model, {}, p, b, 5e-3))(start, batches)


@functools.cache
def world(kind, seed=0, steps=0):
    """Returns a base and experts, each trained on its own words alone.

    Args:
      kind: One of `KINDS`.
      seed: Of parameters, words and rows.
      steps: Of each expert; 0 for as many as they need.
    """
    rng = np.random.default_rng(seed + 1)
    rate, usual_steps = _TRAINING.get(kind, _USUAL_TRAINING)
    steps = steps or usual_steps
    secret, spec = secrets(rng), _SPECS[kind]
    base = base_of(seed) if steps > 10 else base_of(seed, steps)
    batches_by_skill = []
    for skill in range(SKILLS):
        of_skill = []
        for _ in range(steps):
            inputs, answers, (_, owners) = rows_of(rng, 32, [skill])
            of_skill.append(batch_of(inputs, swapped(answers, owners, secret)))
        batches_by_skill.append(jax.tree.map(lambda *each: np.stack(each), *of_skill))
    batches = jax.tree.map(lambda *each: np.stack(each), *batches_by_skill)
    model = t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim))
    starts = [
        trees.split(t5.init_params(model, seed=seed + n), "_adapter/")[0]
        for n in range(SKILLS)
    ]
    start = jax.tree.map(lambda *each: jnp.stack(each), *starts)
    run = jax.jit(jax.vmap(lambda p, b: train(model, base, p, b, rate)))
    trained = jax.device_get(run(start, batches))
    experts = tuple(
        jax.tree.map(lambda leaf, n=n: leaf[n], trained) for n in range(SKILLS)
    )
    reads = "sub_layer" if kind.endswith("inputs") else "adapter"
    return World(base, experts, spec, secret, reads)


class _Rows:
    """Rows of one skill, as `observe` asks for those of an expert."""

    def __init__(self, of, skill, settings):
        rng = np.random.default_rng(skill)
        number = settings.num_examples
        inputs, answers, (_, owners) = rows_of(rng, number, [skill])
        self._batch = batch_of(inputs, swapped(answers, owners, of.secret))
        self._settings = settings

    def once(self):
        size = self._settings.batch_size
        for start in range(0, self._settings.num_examples, size):
            yield {n: a[start : start + size] for n, a in self._batch.items()}

    def of_step(self, step):
        rng = np.random.default_rng(step)
        chosen = rng.permutation(self._settings.num_examples)
        chosen = chosen[: self._settings.batch_size]
        return {n: a[chosen] for n, a in self._batch.items()}


def records(of, settings=SETTINGS):
    """Returns what `elm_library` with `observe.Observe` records, and directions."""
    base = types.SimpleNamespace(config=SHAPE, params=of.base)
    settings = dataclasses.replace(settings, reads=of.reads)
    programs = observe._programs(SHAPE, of.spec, settings)
    recorded = []
    for skill, expert in enumerate(of.experts):
        stacked = mixture.stack([expert])
        rows = _Rows(of, skill, settings)
        arrays = observe._observe(programs, stacked, rows, base)
        if "Arrow" in routers_of(of.spec):
            for place, arrow in directions.arrow_directions(expert).items():
                arrays[place]["direction"] = arrow
        recorded.append(arrays)
    return recorded


def mixed(of, router, recorded):
    """Returns a model of all experts with a router, and its parameters."""
    has_direction = isinstance(router, token_routers.Arrow)
    mixture_spec = mixture.Mixture(
        of=of.spec,
        num_experts=SKILLS,
        router=router,
        reads="adapter" if has_direction else of.reads,
    )
    leaves = {
        f"{place}/{mixture.ROUTER}/{name}": np.stack(
            [arrays[place][name] for arrays in recorded], axis=1
        )
        for place in recorded[0]
        for name in router.shapes(1)
    }
    params = trees.replace(of.base, mixture.stack(of.experts))
    model = t5.T5(SHAPE, mixture_spec.adapter_fn(SHAPE.emb_dim))
    return model, trees.replace(params, trees.unflatten(leaves))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Oracle(mixture.Router):
    """All weight to the expert of each word; even weights where there is none.

    Attributes:
      by_length: Weights [batch, length, experts], by the length of what is read.
    """

    by_length: dict

    def weigh(self, params, read, norms, count):
        weights = self.by_length[read.shape[-2]]
        return jnp.broadcast_to(weights, (*read.shape[:-1], count))


@dataclasses.dataclass(frozen=True)
class Tried:
    """What a router did with mixed rows.

    Attributes:
      right: Share of words answered rightly.
      first: By place, the share of words whose greatest weight has the right expert.
    """

    right: float
    first: dict

    def share_of(self, side=""):
        """Returns the mean over the places of a side; None without a router."""
        values = [share for place, share in self.first.items() if side in place]
        return float(np.mean(values)) if values else None


def mixed_rows(of, number=256, seed=9):
    """Returns inputs, right answers, and the owners of both's words."""
    rng = np.random.default_rng(seed)
    inputs, answers, (skills, owners) = rows_of(rng, number, SKILLS)
    return inputs, swapped(answers, owners, of.secret), skills, owners


def tried(of, model, params):
    """Returns how a model answers mixed rows, and whom its routers chose."""
    inputs, answers, skills, owners = mixed_rows(of)
    shifted = np.asarray(scoring.shift_right(answers))

    def run(p):
        return model.apply({"params": p}, inputs, shifted, mutable=[mixture.OBSERVED])

    logits, seen = jax.jit(run)(params)
    right = np.argmax(logits, axis=-1)[:, 1::2] == answers[:, 1::2]
    first = {}
    for place, values in mixture.observed(seen).items() if seen else ():
        chosen = np.argmax(np.asarray(values["weights"]), axis=-1)
        chosen = chosen.reshape(len(chosen), len(inputs), -1)[:, :, 1::2]
        expected = skills if mixture.reads_inputs(place) else owners
        first[place] = float((chosen == expected).mean())
    return Tried(float(right.mean()), first)


def oracle_of(of):
    """Returns the router that knows the owner of each word of the mixed rows."""
    inputs, answers, skills, owners = mixed_rows(of)
    right = {}
    for tokens, who in ((inputs, skills), (answers, owners)):
        weights = np.full((*tokens.shape, SKILLS), 1 / SKILLS, np.float32)
        weights[:, 1::2] = np.eye(SKILLS)[who]
        right[tokens.shape[1]] = weights
    return Oracle(by_length=right)


def chosen_beside_oracle(of, routers, recorded):
    """Returns whom routers would choose where all other words are routed rightly.

    By router, and by place, the share of words with the right expert first.
    """
    model, params = mixed(of, oracle_of(of), recorded)
    inputs, answers, skills, owners = mixed_rows(of)
    shifted = np.asarray(scoring.shift_right(answers))
    run = functools.partial(model.apply, mutable=[mixture.OBSERVED])
    seen = jax.jit(run)({"params": params}, inputs, shifted)[1]
    shares_of = {}
    for name, router in routers.items():
        shares_of[name] = {}
        for place, values in mixture.observed(seen).items():
            is_input = mixture.reads_inputs(place)
            leaves = {
                n: np.stack([arrays[place][n] for arrays in recorded], axis=1)
                for n in router.shapes(1)
            }
            shares = []
            for layer, read in enumerate(values["read"]):
                at = {n: jnp.asarray(leaf[layer]) for n, leaf in leaves.items()}
                weights = router.weigh(at, read, values["norms"][layer], SKILLS)
                first = np.argmax(weights, axis=-1).reshape(len(inputs), -1)[:, 1::2]
                shares.append((first == (skills if is_input else owners)).mean())
            shares_of[name][place] = float(np.mean(shares))
    return shares_of


def every_way(of, settings=SETTINGS):
    """Returns what all routers did with mixed rows, and what is beside them."""
    recorded = records(of, settings)
    alone = (1.0, *(0.0,) * (SKILLS - 1))
    ways = {
        "expert": token_routers.Fixed(weights=alone),
        "even": token_routers.Fixed(),
        **routers_of(of.spec),
        "oracle": oracle_of(of),
    }
    outcomes = {"base": tried(of, t5.T5(SHAPE), of.base)}
    for name, router in ways.items():
        outcomes[name] = tried(of, *mixed(of, router, recorded))
    for name in ("base", "expert", "even"):
        outcomes[name] = dataclasses.replace(outcomes[name], first={})
    return outcomes
