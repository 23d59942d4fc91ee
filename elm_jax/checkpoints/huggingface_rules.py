"""Which fields of Hugging Face's T5 settings an import reads, ignores or refuses.

Every field that transformers' T5 knows is in one of the tables below. One that is in
none is refused by name, as a fork of T5 may compute something else because of it,
unless the user says that it may be ignored.

| fields | what happens |
|---|---|
| `huggingface_config` reads them, `READ` | they shape our model |
| `REQUIRED` | must have this value, or be absent |
| `_ALIASES`, `dense_act_fn`, `is_gated_act` | must say what the field says |
| `architectures` | must be a T5's with an output layer, or be absent |
| `bos_token_id` | transformers starts there if `decoder_start_token_id` is absent |
| `_GENERATION` | not taken over and named: a run's own decoding fields say it |
| `IGNORED` | nothing: they change neither tensors nor what is computed |

Reference:
  huggingface/transformers 5.23 and 4.x: T5Config, MT5Config, PreTrainedConfig,
  GenerationConfig, modeling_t5.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from elm_jax.disk.json_files import shown
from elm_jax.types import EOS_ID, PAD_ID

# These shape our model.
READ = (
    *("model_type", "d_model", "num_heads", "d_kv", "d_ff", "num_layers"),
    *("num_decoder_layers", "relative_attention_num_buckets"),
    *("relative_attention_max_distance", "feed_forward_proj"),
    *("tie_word_embeddings", "scale_decoder_outputs"),
)
# Values that may be there; the first is what an absent field means.
_SPECIAL_IDS: Mapping[str, tuple[Any, ...]] = {
    "pad_token_id": (PAD_ID,),
    "eos_token_id": (EOS_ID, [EOS_ID]),
    "decoder_start_token_id": (PAD_ID, None),
}
REQUIRED: Mapping[str, tuple[Any, ...]] = {
    **_SPECIAL_IDS,
    "layer_norm_epsilon": (1e-6,),
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "cross_attention_hidden_size": (None,),
    "per_layer_config": (None, {}),
    "quantization_config": (None, {}),
    "compression_config": (None, {}),
    # Code of the model's own, in place of transformers'.
    "auto_map": (None, {}),
}
# Other names, which transformers takes for the same.
_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
_ARCHITECTURE = re.compile(
    r"(TF|Flax)?M?T5(Model|ForConditionalGeneration|WithLMHeadModel)"
)
IGNORED = (
    # Shapes, which the tensors tell; starts of trainings; heads we do not have.
    *("vocab_size", "initializer_factor", "dropout_rate", "classifier_dropout"),
    *("n_positions", "id2label", "label2id", "num_labels", "_num_labels"),
    *("problem_type", "finetuning_task", "add_cross_attention"),
    # How it is computed and what else is given back.
    *("use_cache", "chunk_size_feed_forward", "gradient_checkpointing", "dtype"),
    *("torch_dtype", "torchscript", "use_bfloat16", "xla_device", "tf_legacy_loss"),
    *("output_attentions", "output_hidden_states", "output_past", "return_dict"),
    *("tie_last_hidden_states", "_attn_implementation", "attn_implementation"),
    *("_attn_implementation_autoset", "experts_implementation"),
    # Where it is from, and other programs' notes.
    *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version"),
    *("tokenizer_class", "sep_token_id", "mask_token_id", "cls_token_id"),
    *("transformers.js_config", "unsloth_fixed", "unsloth_version"),
)
# What transformers does where nothing is said.
_GENERATION: Mapping[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "remove_invalid_values": False,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    "max_new_tokens": None,
    "bad_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "prefix": None,
    "task_specific_params": None,
}
_GENERATION_IGNORED = ("_from_model_config", "transformers_version", "use_cache")


def problems(
    settings: Mapping[str, Any], activations: str, ignored: Collection[str] = ()
) -> Iterator[str]:
    """Yields fields of config.json with which the tensors are another model than ours.

    Args:
      settings: Content of config.json.
      activations: Its `feed_forward_proj`, or what is meant where it is absent.
      ignored: Names of fields in none of the tables that are no problem.
    """
    for name, allowed in REQUIRED.items():
        yield from _other_value(settings, name, allowed)
    yield from _other_start(settings)
    for alias, name in _ALIASES.items():
        if alias in settings and settings[alias] != settings.get(name):
            other_field = f"{name} {shown(settings.get(name))}"
            yield f"{alias} is {shown(settings[alias])}, but {other_field}"
    yield from _other_activation(settings, activations)
    for name in ("tie_word_embeddings", "scale_decoder_outputs"):
        if not isinstance(settings.get(name), bool | None):
            yield f"{name} is {shown(settings[name])}"
    architectures = settings.get("architectures") or []
    if not isinstance(architectures, list) or not all(
        _ARCHITECTURE.fullmatch(str(name)) for name in architectures
    ):
        yield f"architectures is {shown(architectures)}"
    known_fields = {*READ, *REQUIRED, *_ALIASES, *_GENERATION, *IGNORED, *ignored}
    known_fields |= {"architectures", "bos_token_id", "dense_act_fn", "is_gated_act"}
    for name in sorted(settings.keys() - known_fields):
        yield f"unknown field {shown(name)[1:-1]} is {shown(settings[name])}"


def generation_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yields what generation_config.json says of special tokens that ours does not.

    transformers writes answers by it, whatever config.json says.
    """
    for name, allowed in _SPECIAL_IDS.items():
        yield from _other_value(settings, name, (*allowed, None))
    yield from _other_start(settings)


def not_taken_over(settings: Mapping[str, Any]) -> list[str]:
    """Returns the fields of either file that say how transformers writes answers.

    >>> not_taken_over({"d_model": 8, "num_beams": 4, "do_sample": False})
    ['num_beams']
    """
    return sorted(
        name
        for name, default in _GENERATION.items()
        if settings.get(name) not in (None, default, {})
    )


def unread_generation(settings: Mapping[str, Any]) -> list[str]:
    """Returns the fields of generation_config.json that no import takes over."""
    known_fields = (*_SPECIAL_IDS, *_GENERATION, *_GENERATION_IGNORED, "bos_token_id")
    unread = [n for n in settings if n not in known_fields and settings[n] is not None]
    return sorted([*not_taken_over(settings), *unread])


def _other_value(
    settings: Mapping[str, Any], name: str, allowed: tuple[Any, ...]
) -> Iterator[str]:
    if name in settings and settings[name] not in allowed:
        yield f"{name} is {shown(settings[name])} (here {allowed[0]!r})"


def _other_start(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yields a start by `bos_token_id`, which counts where no other is named."""
    start_id = settings.get("bos_token_id")
    is_used = settings.get("decoder_start_token_id") is None
    if is_used and start_id not in (None, PAD_ID):
        yield f"bos_token_id is {shown(start_id)} without a decoder_start_token_id"


def _other_activation(settings: Mapping[str, Any], activations: str) -> Iterator[str]:
    """Yields fields that follow from `feed_forward_proj`, but contradict it."""
    gated, _, name = activations.rpartition("-")
    name = "gelu_new" if activations == "gated-gelu" else name
    for field, meant in (("dense_act_fn", name), ("is_gated_act", bool(gated))):
        if settings.get(field, meant) != meant:
            projection = f"feed_forward_proj {activations:.60}"
            yield f"{field} is {shown(settings[field])}, but {projection}"
