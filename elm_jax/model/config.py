"""The shape and numerics of a T5 model, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from elm_jax import errors, fields

_ACTIVATIONS = ("gelu", "linear", "relu", "silu", "swish", "tanh")
REMATS = ("none", "products", "layer")
"""What `T5Config.remat` may be: from the most memory and least work to the reverse."""

FIT = "fit"
"""`Execution.remat` that stands for the fastest of them that fits."""

_CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "remat": REMATS,
    "attention": ("einsum", "dot_product", "cudnn"),
}
BASE_DTYPES = ("", "int8")
"""What `T5Config.base_dtype` may be."""

_LATER = ("attention_dropout", "logits_chunks", "base_dtype")


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """What a T5 model is made of; JSON-ready by `dataclasses.asdict`.

    Attributes:
      vocab_size: Rows of the embedding and width of the output layer.
      emb_dim: Model width.
      num_heads: Attention heads of every layer.
      head_dim: Width of a head; heads together need not equal `emb_dim`.
      mlp_dim: Width of a feed-forward layer.
      num_encoder_layers: Depth of the encoder.
      num_decoder_layers: Depth of the decoder.
      mlp_activations: One per parallel input projection, their results multiplied;
        ("gelu", "linear") is T5 1.1's gated GELU, ("relu",) is T5 1.0.
      dropout_rate: Share of values dropped in training, in [0, 1).
      logits_via_embedding: Whether the embedding serves as output layer (T5 1.0).
      relpos_buckets: Buckets of relative positions.
      relpos_max_distance: Distance from which all positions share a bucket.
      relpos_per_layer: Whether each layer has a table of relative positions, as in
        T5X's scanned network; otherwise the layers of a stack share one.
      dtype: Compute dtype. Parameters, softmax and logits are float32 always.
      scan_unroll: Layers per iteration of the loop over layers; more run faster
        and compile slower.
      remat: What the backward pass computes again instead of keeping it: "none" of
        the activations, all but the "products" of activations with parameters (less
        memory, and less time where memory is slow), or each whole "layer" (least
        memory).
      attention: How attention is computed: "einsum" by matrix products of ours,
        "dot_product" by `jax.nn.dot_product_attention` as JAX sees fit, "cudnn" by
        NVIDIA's fused kernel, which never holds all pairs of positions in memory
        (but where rows are packed) and needs bfloat16. The latter two drop no
        attention weights: training through them needs `attention_dropout` off or a
        `dropout_rate` of 0.
      attention_dropout: Whether training drops attention weights, too, as T5 does.
        False is another recipe; the other dropouts stay.
      logits_chunks: In how many parts of the targets' positions training computes
        logits and loss. With more than 1, the logits of all positions, which are
        float32, are never in memory at once, and sums are rounded in another order.
      base_dtype: How the matrices of its layers are held where they do not train: ""
        in `dtype`, or as "int8" with a scale for each output (`int8_kernels`). That is
        another function, so experts fit on a base of the same `base_dtype` alone.
    """

    vocab_size: fields.Count
    emb_dim: fields.Count
    num_heads: fields.Count
    head_dim: fields.Count
    mlp_dim: fields.Count
    num_encoder_layers: fields.Layers
    num_decoder_layers: fields.Layers
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: fields.ShareBelowOne = 0.0
    logits_via_embedding: bool = False
    relpos_buckets: fields.Count = 32
    relpos_max_distance: fields.Count = 128
    relpos_per_layer: bool = False
    dtype: str = "float32"
    scan_unroll: fields.Count = 1
    remat: str = "products"
    attention: str = "einsum"
    attention_dropout: bool = True
    logits_chunks: fields.Count = 1
    base_dtype: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError naming each field that no model can have."""
        fields.check(self)
        wrong = {}
        if self.base_dtype not in BASE_DTYPES:
            wrong["base_dtype"] = "'' for the same as dtype, or 'int8'"
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                wrong[name] = f"one of {', '.join(choices)}"
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            wrong["attention"] = "einsum or dot_product where dtype is float32"
        activations = self.mlp_activations
        if not activations or not {*activations} <= {*_ACTIVATIONS}:
            wrong["mlp_activations"] = f"a tuple of {', '.join(_ACTIVATIONS)}"
        if self.relpos_buckets % 4:
            wrong["relpos_buckets"] = "a multiple of 4"
        elif self.relpos_max_distance <= self.relpos_buckets // 2:
            wrong["relpos_max_distance"] = "more than half of relpos_buckets"
        fields.refuse(self, wrong)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run computes a model, whatever the model's own record says.

    Attributes:
      dtype: In which the model computes; "" for the model's own.
      remat: What the backward pass computes again, as in T5Config; "fit" for the
        fastest that fits on the devices by plan, "" for the model's own.
      attention: How attention is computed, as in T5Config; "" for the model's own.
      scan_unroll: Layers per iteration of the loop over layers; 0 for the model's own.
      attention_dropout: False to drop no attention weights, whatever the model's own
        record says.
      logits_chunks: In how many parts logits and loss are computed, as in T5Config; 0
        for the model's own.
    """

    dtype: str = ""
    remat: str = ""
    attention: str = ""
    scan_unroll: fields.CountOrNone = 0
    attention_dropout: bool = True
    logits_chunks: fields.CountOrNone = 0

    def __post_init__(self) -> None:
        """Raises ConfigError naming each field that no model can have."""
        fields.check(self)
        every = {**_CHOICES, "remat": (*REMATS, FIT)}
        refused = {
            name: f"one of {', '.join(choices)}, or empty"
            for name, choices in every.items()
            if getattr(self, name) not in ("", *choices)
        }
        fields.refuse(self, refused)

    def applied_to(self, shape: T5Config) -> T5Config:
        """Returns the shape with the fields that are set here.

        Raises:
          ConfigError: A field has a value that T5Config refuses.
        """
        changes = {
            name: value for name, value in dataclasses.asdict(self).items() if value
        }
        changes["attention_dropout"] = (
            shape.attention_dropout and self.attention_dropout
        )
        return dataclasses.replace(shape, **changes)


def recorded(spec: T5Config | Execution) -> dict[str, Any]:
    """Returns the fields as manifests and recipes hold them.

    Fields that came after release 0.1 are left out where they change nothing, so that
    what was recorded before is still the same.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(spec)}
    values = dataclasses.asdict(spec)
    for name in _LATER:
        if name in values and values[name] == defaults[name]:
            del values[name]
    return values


def completed(kind: type[T5Config | Execution], values: Mapping[str, Any]) -> Any:
    """Returns recorded fields, with those that `recorded` has left out."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    later = {name: defaults[name] for name in _LATER if name in defaults}
    return later | dict(values)


def check_dropout(config: T5Config) -> None:
    """Raises ConfigError if training would drop weights that attention never holds."""
    if config.attention == "einsum" or not config.attention_dropout:
        return
    if config.dropout_rate:
        raise errors.ConfigError(
            found=f"dropout_rate = {config.dropout_rate} in a training with"
            f" attention = {config.attention!r}",
            expected="no dropout of attention weights: fused attention holds none",
            do="Set config.Execution.attention_dropout = False, which is another recipe"
            " than T5's, or dropout_rate = 0, or attention = 'einsum'",
        )
