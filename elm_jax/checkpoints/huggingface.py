"""Names, shapes and configurations of T5 in Hugging Face transformers.

Our side is the plain tree of `layers.unstack_layers`: T5X's names, one subtree
`layers_<n>` a layer. Matrices are stored the other way round there: [outputs, inputs].
"""

import re
from typing import NamedTuple

from elm_jax import errors
from elm_jax.types import LAYERS

EMBEDDING = "token_embedder/embedding"
LOGITS = "decoder/logits_dense/kernel"
# Copies of the embedding that older files carry, and a table that no layer reads.
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

_WHOLE = {
    EMBEDDING: "shared",
    LOGITS: "lm_head",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm",
}
# Sub-layers in the order in which they run, by the number they have there.
_SUB_LAYERS = {
    "encoder": (
        ("attention", "SelfAttention", "pre_attention_layer_norm"),
        ("mlp", "DenseReluDense", "pre_mlp_layer_norm"),
    ),
    "decoder": (
        ("self_attention", "SelfAttention", "pre_self_attention_layer_norm"),
        (
            "encoder_decoder_attention",
            "EncDecAttention",
            "pre_cross_attention_layer_norm",
        ),
        ("mlp", "DenseReluDense", "pre_mlp_layer_norm"),
    ),
}
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
_MLP = ("wi", "wi_0", "wi_1", "wo")
_LAYER = re.compile(rf"(encoder|decoder)/{LAYERS}_(\d+)/(.+)")
_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.(.+)")


class Place(NamedTuple):
    """Where a tensor of ours is in a file of Hugging Face's."""

    name: str
    is_transposed: bool


def _within_layers() -> dict[tuple[str, str], str]:
    """Returns Hugging Face's names within a block by stack and our names in a layer."""
    table = {}
    for stack, sub_layers in _SUB_LAYERS.items():
        for number, (sub_layer, hf_sub_layer, norm) in enumerate(sub_layers):
            inner = _PROJECTIONS if sub_layer != "mlp" else {n: n for n in _MLP}
            for our_part, their_part in inner.items():
                table[stack, f"{sub_layer}/{our_part}/kernel"] = (
                    f"{number}.{hf_sub_layer}.{their_part}"
                )
            table[stack, f"{norm}/scale"] = f"{number}.layer_norm"
    return table


_THEIRS = _within_layers()
_OURS = {(stack, hf_name): name for (stack, name), hf_name in _THEIRS.items()}
_RELPOS = "0.SelfAttention.relative_attention_bias"


def place(name: str) -> Place:
    """Returns where the tensor with one of our plain names is.

    >>> place("encoder/layers_3/attention/query/kernel")
    Place(name='encoder.block.3.layer.0.SelfAttention.q.weight', is_transposed=True)
    >>> place("token_embedder/embedding")
    Place(name='shared.weight', is_transposed=False)

    Raises:
      CheckpointError: T5 has no such tensor there, such as one of an adapter.
    """
    is_transposed = name.endswith(("kernel", "rel_embedding"))
    hf_name = _WHOLE.get(name)
    if name.endswith("/relpos_bias/rel_embedding"):
        stack = name.partition("/")[0]
        if name == f"{stack}/relpos_bias/rel_embedding":
            hf_name = f"{stack}.block.0.layer.{_RELPOS}"
    elif match := _LAYER.fullmatch(name):
        stack, number, rest = match.groups()
        inner = _THEIRS.get((stack, rest))
        hf_name = inner and f"{stack}.block.{number}.layer.{inner}"
    if hf_name is None:
        raise errors.CheckpointError(
            found=f"tensor {name}",
            expected="those of T5ForConditionalGeneration: no adapters, and one "
            "table of relative positions a stack",
            do="Export an expert with adapters in PEFT's format, and a model with "
            "relative positions per layer in T5X's",
        )
    return Place(f"{hf_name}.weight", is_transposed)


def plain_name(name: str) -> str | None:
    """Returns our plain name of a Hugging Face tensor; inverse of `place`.

    >>> plain_name("decoder.block.0.layer.2.DenseReluDense.wi_0.weight")
    'decoder/layers_0/mlp/wi_0/kernel'
    >>> plain_name("encoder.embed_tokens.weight") is None
    True
    """
    module = name.removesuffix(".weight")
    whole = {hf_name: plain for plain, hf_name in _WHOLE.items()}
    if module in whole:
        return whole[module]
    match = _BLOCK.fullmatch(module)
    if match is None or module == name:
        return None
    stack, number, inner = match.groups()
    if inner == _RELPOS:
        return f"{stack}/relpos_bias/rel_embedding" if number == "0" else None
    part = _OURS.get((stack, inner))
    return part and f"{stack}/{LAYERS}_{number}/{part}"
