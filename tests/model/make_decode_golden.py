"""Writes decode_golden.npz: what Hugging Face transformers decodes with small models.

Run it once, in an environment of its own, when the models or cases below change:

    pip install torch==2.13.0 transformers==5.23.0 numpy
    PYTHONPATH=. python tests/model/make_decode_golden.py

Arrays, all beside this file: `params/<name>` in our names, `inputs` int32 [rows, 11];
by model and case `tokens/...` int32 [rows, 12], zeros after the end token, and
`scores/...` float32 [rows]; `logits` float32 [rows, vocabulary] and by case
`shares/...`, the distribution that the sampling filters leave.

Encoder and decoder are equally deep: transformers 5.23 fails to decode with a cache
where the decoder is deeper.
"""

import itertools
import pathlib

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import huggingface, layers

PATH = pathlib.Path(__file__).with_name("decode_golden.npz")
MAX_LENGTH = 12
VOCAB_SIZE = 16  # few, so that the end token comes up often
MODELS = ("untied", "tied")
BEAMS = (2, 4, 7)
PENALTIES = (-0.5, 0.0, 0.6, 1.0, 2.0)
EARLY_STOPPING = (True, False, "never")
FILTERS = ((0.7, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.8), (1.3, 9, 0.6), (1.0, 0, 1e-6))


def beam_cases():
    """Yields (name, num_beams, length_penalty, early_stopping)."""
    for case in itertools.product(BEAMS, PENALTIES, EARLY_STOPPING):
        yield ("beams_{}_penalty_{}_stopping_{}".format(*case), *case)


def filter_name(temperature, top_k, top_p):
    return f"temperature_{temperature}_top_k_{top_k}_top_p_{top_p}"


def make_model(kind):
    """Returns a random model whose outputs differ by input and end here and there."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape = transformers.T5Config(
        vocab_size=VOCAB_SIZE,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=kind == "tied",  # decides whether logits are scaled
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(shape).eval()
    if kind == "untied":  # transformers 5.23 makes one tensor of both even so
        untied = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        model.lm_head.weight = untied
    with torch.no_grad():
        # The output layer last: all else is then drawn alike in both models.
        for name, value in sorted(
            model.named_parameters(), key=lambda item: ("lm_head" in item[0], item[0])
        ):
            if "layer_norm" in name:
                value.copy_(1 + 0.2 * torch.randn_like(value))
            elif "relative_attention_bias" in name or "shared" in name:
                value.copy_(torch.randn_like(value))
            elif "lm_head" in name:
                value.copy_(torch.randn_like(value) * 0.2)
            else:  # strong layers, so that outputs hang on more than the last token
                value.copy_(torch.randn_like(value) * 1.5 * value.shape[1] ** -0.5)
    return model


def make_inputs():
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, VOCAB_SIZE, (12, 11)).astype(np.int64)
    lengths = rng.integers(1, 12, (12, 1))
    return np.where(np.arange(11)[None] < lengths, inputs, 0)


def our_params(model):
    """Returns the parameters under our names, layers stacked."""
    leaves = {}
    for name, value in model.state_dict().items():
        ours = huggingface.plain_name(name)
        if ours is not None:
            array = value.numpy()
            is_transposed = huggingface.place(ours).is_transposed
            leaves[ours] = array.T if is_transposed else array
    return trees.flatten(layers.stack_layers(trees.unflatten(leaves)))


def decode(model, inputs, **options):
    """Returns tokens [rows, MAX_LENGTH], and scores [rows] of a beam search."""
    import torch

    ids = torch.tensor(inputs)
    out = model.generate(
        ids,
        attention_mask=(ids != 0).long(),
        max_new_tokens=MAX_LENGTH,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    tokens = out.sequences[:, 1:].numpy()
    tokens = np.pad(tokens, ((0, 0), (0, MAX_LENGTH - tokens.shape[1])))
    has_ended = np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0
    scores = getattr(out, "sequences_scores", None)
    tokens = np.where(has_ended, 0, tokens).astype(np.int32)
    return tokens, None if scores is None else scores.numpy()


def filtered(logits, temperature, top_k, top_p):
    """Returns the shares [rows, vocabulary] that transformers' filters leave."""
    import torch
    from transformers.generation import logits_process as filters

    values = filters.TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))
    if top_k:
        values = filters.TopKLogitsWarper(top_k)(None, values)
    values = filters.TopPLogitsWarper(top_p)(None, values)
    return torch.softmax(values, dim=-1).numpy()


def make():
    """Returns all arrays by name."""
    inputs = make_inputs()
    arrays = {"inputs": inputs.astype(np.int32)}
    for kind in MODELS:
        model = make_model(kind)
        if kind == "untied":  # the other has the same, without an output layer
            params = our_params(model)
            arrays |= {f"params/{name}": leaf for name, leaf in params.items()}
        arrays[f"tokens/{kind}/greedy"], _ = decode(model, inputs, num_beams=1)
        for name, num_beams, penalty, stopping in beam_cases():
            tokens, scores = decode(
                model,
                inputs,
                num_beams=num_beams,
                length_penalty=penalty,
                early_stopping=stopping,
            )
            arrays[f"tokens/{kind}/{name}"] = tokens
            arrays[f"scores/{kind}/{name}"] = scores
    logits = (
        np.random.default_rng(1).normal(size=(6, VOCAB_SIZE)).astype(np.float32) * 2
    )
    arrays["logits"] = logits
    for case in FILTERS:
        arrays[f"shares/{filter_name(*case)}"] = filtered(logits, *case)
    return arrays


if __name__ == "__main__":
    np.savez_compressed(PATH, **make())
