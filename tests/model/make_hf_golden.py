"""Writes hf_golden_<family>.npz: what Hugging Face transformers makes of small models.

Run it once, in an environment of its own, when the models or inputs below change:

    pip install -e . torch==2.13.0 transformers==5.23.0
    python tests/model/make_hf_golden.py

Each file holds a random model of a family and what it computes, in float32 on a CPU:

| arrays | shape | what |
|---|---|---|
| `params/<name>` | ours | weights under our names, layers stacked |
| `<n>/inputs`, `<n>/targets` | int32 [2, n] | tokens; rows end earlier, then 0 |
| `<n>/logits` | [tokens, V] | at target tokens, row by row, padding left out |
| `<n>/scores` | [tokens] | log-probabilities of the target tokens, in nats |
| `<n>/loss` | [] | transformers' own loss: their negative mean |
| `<n>/grad_norms` | [tensors] | of the loss, by sorted name of ours |
| `grads/<name>` | ours | the loss's whole gradient, at n = 17 |
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

LENGTHS = (1, 17, 128, 512)
WHOLE_GRADS_LENGTH = 17
VOCAB_SIZE = 48


class Family(NamedTuple):
    """A small model in transformers' terms; heads never fill the model's width."""

    class_name: str
    d_model: int
    num_heads: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    feed_forward_proj: str
    tie_word_embeddings: bool
    seed: int


FAMILIES = {
    # T0, Flan-T5 and the LM-adapted models are T5 1.1, mT0 is mT5.
    "t5_1_0": Family("T5", 16, 3, 8, 32, 2, 2, "relu", True, 1),
    "t5_1_1": Family("T5", 16, 3, 4, 24, 2, 2, "gated-gelu", False, 2),
    "mt5": Family("MT5", 20, 2, 6, 24, 1, 2, "gated-gelu", False, 3),
    "byt5": Family("T5", 24, 3, 6, 28, 3, 1, "gated-gelu", False, 4),
}


def make_tokens(family: Family, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets [2, length]; each pads half of one row."""
    rng = np.random.default_rng(1000 * family.seed + length)
    half = max(1, length // 2)
    tokens = rng.integers(2, VOCAB_SIZE, (2, 2, length)).astype(np.int32)
    for rows, lengths in zip(tokens, ((length, half), (half, length)), strict=True):
        for row, end in zip(rows, lengths, strict=True):
            row[end - 1 :] = 0
            row[end - 1] = 1
    return tokens[0], tokens[1]


def make_model(family: Family) -> Any:
    """Returns the model with weights drawn by NumPy, so that any torch has them."""
    import torch
    import transformers

    shape = family._asdict()
    name, rng = shape.pop("class_name"), np.random.default_rng(shape.pop("seed"))
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCAB_SIZE, decoder_start_token_id=0, dropout_rate=0.0, **shape
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    if not family.tie_word_embeddings:  # transformers 5 ties all until it reads a file
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for weight_name, weight in sorted(model.named_parameters()):
        values = rng.normal(size=weight.shape)
        if "layer_norm" in weight_name:
            values = np.exp(0.2 * values)
        elif "relative_attention_bias" not in weight_name and "shared" not in (
            weight_name
        ):
            values /= weight.shape[1] ** 0.5
        if weight_name.endswith("Attention.q.weight"):
            values /= family.d_kv**0.5
        weight.data = torch.tensor(values, dtype=torch.float32)
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    if family.tie_word_embeddings:
        model.lm_head.weight = model.shared.weight
    return model


def to_ours(named: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns tensors by our names, layers stacked, matrices the other way round."""
    from elm_jax import trees
    from elm_jax.checkpoints import huggingface, layers

    plain = {}
    for name, tensor in named.items():
        ours = huggingface.plain_name(name)
        if ours is None:
            raise ValueError(f"{name} is no tensor of ours")
        array = tensor.detach().numpy()
        plain[ours] = array.T if huggingface.place(ours).is_transposed else array
    return trees.flatten(layers.stack_layers(trees.unflatten(plain)))


def compute(family: Family) -> dict[str, np.ndarray]:
    """Returns the arrays of a family's file."""
    import torch

    model = make_model(family)
    weights = dict(model.named_parameters())
    arrays = {f"params/{n}": array for n, array in to_ours(weights).items()}
    for length in LENGTHS:
        inputs, targets = make_tokens(family, length)
        real = targets != 0
        model.zero_grad()
        out = model(
            input_ids=torch.tensor(inputs.astype(np.int64)),
            attention_mask=torch.tensor((inputs != 0).astype(np.int64)),
            labels=torch.tensor(np.where(real, targets, -100).astype(np.int64)),
        )
        out.loss.backward()
        scores = torch.log_softmax(out.logits, -1).detach().numpy()
        scores = np.take_along_axis(scores, targets[..., None], -1)[..., 0]
        grads = to_ours({name: weight.grad for name, weight in weights.items()})
        arrays |= {
            f"{length}/inputs": inputs,
            f"{length}/targets": targets,
            f"{length}/logits": out.logits.detach().numpy()[real],
            f"{length}/scores": scores[real],
            f"{length}/loss": out.loss.detach().numpy(),
            f"{length}/grad_norms": np.array(
                [np.linalg.norm(grad.astype(np.float64)) for grad in grads.values()]
            ),
        }
        if length == WHOLE_GRADS_LENGTH:
            arrays |= {f"grads/{name}": grad for name, grad in grads.items()}
    return arrays


def main() -> None:
    for name, family in FAMILIES.items():
        path = pathlib.Path(__file__).with_name(f"hf_golden_{name}.npz")
        np.savez_compressed(path, **compute(family))


if __name__ == "__main__":
    main()
