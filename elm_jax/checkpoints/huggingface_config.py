"""Between config.json of Hugging Face's T5 and the fields of our model."""

from collections.abc import Collection, Mapping
from typing import Any, NotRequired, TypedDict

from elm_jax import errors, fields
from elm_jax.checkpoints import huggingface_rules
from elm_jax.disk import json_files
from elm_jax.types import EOS_ID, PAD_ID

# By the model type, the feed-forward layer where config.json is silent.
_MODEL_TYPES = {"t5": "relu", "mt5": "gated-gelu"}
# feed_forward_proj there, mlp_activations here. Theirs reads `gated-gelu` as the tanh
# form, which ours is, and a bare `gelu` as the exact one, which ours is not.
_ACTIVATIONS = {
    "relu": ("relu",),
    "gelu_new": ("gelu",),
    "silu": ("silu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-gelu_new": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
    "gated-relu": ("relu", "linear"),
}
_COUNTS = {
    "d_model": "emb_dim",
    "num_heads": "num_heads",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_layers": "num_encoder_layers",
}
# Values that T5Config of transformers takes where config.json is silent.
_RELPOS = {
    "relative_attention_num_buckets": ("relpos_buckets", 32),
    "relative_attention_max_distance": ("relpos_max_distance", 128),
}


class _Numbers(TypedDict):
    """Fields of config.json that are numbers of ours."""

    d_model: fields.Count
    num_heads: fields.Count
    d_kv: fields.Count
    d_ff: fields.Count
    num_layers: fields.Layers
    num_decoder_layers: NotRequired[fields.Layers | None]
    relative_attention_num_buckets: NotRequired[fields.Count]
    relative_attention_max_distance: NotRequired[fields.Count]


def to_fields(
    settings: Mapping[str, Any],
    vocab_size: int,
    *,
    generation: Mapping[str, Any],
    ignored_fields: Collection[str] = (),
) -> dict[str, Any]:
    """Returns the fields of T5Config, all but `logits_via_embedding`.

    `huggingface_rules` has the list of all fields and what becomes of each.

    Args:
      settings: Content of config.json.
      vocab_size: Rows of the embedding in the file, which may be more than a
        tokenizer has.
      generation: Content of generation_config.json.
      ignored_fields: Names of fields that no T5 has and that may be ignored.

    Raises:
      CheckpointError: It is no T5, or one that our network cannot compute; all that
        is wrong is said at once.
    """
    kind = settings.get("model_type")
    problems = json_files.misfits(dict(settings), _Numbers, known_only=True)
    if kind not in tuple(_MODEL_TYPES):
        problems.append(f"model_type is {json_files.shown(kind)}")
    projection = settings.get("feed_forward_proj", _MODEL_TYPES.get(str(kind)))
    if projection not in tuple(_ACTIVATIONS):
        problems.append(f"feed_forward_proj is {json_files.shown(projection)}")
    problems += huggingface_rules.problems(settings, str(projection), ignored_fields)
    messages = [f"config.json: {'; '.join(problems)}"] if problems else []
    problems = list(huggingface_rules.generation_problems(generation))
    messages += [f"generation_config.json: {'; '.join(problems)}"] if problems else []
    if messages:
        raise errors.CheckpointError(
            found=". ".join(messages),
            expected=f"model_type {' or '.join(_MODEL_TYPES)}, whole numbers "
            "from 1 on, "
            f"feed_forward_proj one of {', '.join(_ACTIVATIONS)}, "
            f"layer_norm_epsilon 1e-6, pad and start id {PAD_ID}, end id {EOS_ID}, "
            "and no field that no T5 has",
            do="Use a T5, mT5, Flan-T5, T0, mT0 or ByT5 checkpoint. A field that"
            " no T5 has and that changes nothing may be named in"
            " ImportHuggingFace.ignored_fields",
        )
    shape_fields: dict[str, Any] = {
        field: settings[name] for name, field in _COUNTS.items()
    }
    depth = settings.get("num_decoder_layers")
    shape_fields["num_decoder_layers"] = (
        settings["num_layers"] if depth is None else depth
    )
    for name, (field, default) in _RELPOS.items():
        shape_fields[field] = settings.get(name, default)
    shape_fields["mlp_activations"] = _ACTIVATIONS[str(projection)]
    shape_fields["vocab_size"] = vocab_size
    return shape_fields


def from_fields(model: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns the content of config.json for the fields of T5Config.

    `tie_word_embeddings` also says whether logits are scaled; transformers from 5.0
    on reads it so and writes `scale_decoder_outputs`, hence both are given.

    Args:
      model: Fields of T5Config.
      dtype: Of the tensors in the file.

    Raises:
      CheckpointError: transformers has no such feed-forward layer.
    """
    activations = tuple(model["mlp_activations"])
    projections = {our_name: name for name, our_name in reversed(_ACTIVATIONS.items())}
    if activations not in projections:
        raise errors.CheckpointError(
            found=f"mlp_activations {activations}",
            expected=f"one of {', '.join(map(str, projections))}",
            do="Export to T5X's format",
        )
    tied = model["logits_via_embedding"]
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": model["vocab_size"],
        **{name: model[field] for name, field in _COUNTS.items()},
        "num_decoder_layers": model["num_decoder_layers"],
        **{name: model[field] for name, (field, _) in _RELPOS.items()},
        "feed_forward_proj": projections[activations],
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": model["dropout_rate"],
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "is_encoder_decoder": True,
        "use_cache": True,
        **generation_settings(),
        "dtype": dtype,
    }


def generation_settings() -> dict[str, Any]:
    """Returns the content of generation_config.json for every T5."""
    return {
        "decoder_start_token_id": PAD_ID,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
    }


def is_scaled(settings: Mapping[str, Any]) -> bool | None:
    """Returns whether transformers would scale the logits, None if it depends.

    It depends on the version that wrote the file: from 5.0 on `tie_word_embeddings` is
    true for every T5, and `scale_decoder_outputs` says what it used to say.
    """
    if settings["model_type"] == "mt5":
        return False
    if "scale_decoder_outputs" in settings:
        return bool(settings["scale_decoder_outputs"])
    if settings.get("tie_word_embeddings") is False:
        return False
    return None
