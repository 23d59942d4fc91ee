"""Formats that native code reads: SentencePiece models, tokenizer.json."""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers

from elm_jax.data import vocabulary
from elm_jax.library import minilm
from tests.fuzz.contract import Format, Valid, content, guarded
from tests.fuzz.records import make_vocabulary

_TEXTS = ("what is the red river", "yes <extra_id_0> no 猫", "")


def _make_vocabulary(folder: pathlib.Path, variant: int) -> None:
    make_vocabulary(folder / "spiece.model", variant)


def _read_vocabulary(folder: pathlib.Path) -> Any:
    model = vocabulary.SentencePiece(str(folder / "spiece.model"))
    ids = model.encode_batch(_TEXTS)
    return (model.fingerprint, model.size, ids, [model.decode(row) for row in ids])


def _judge_vocabulary(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Other content is another vocabulary by its fingerprint, which runs compare."""
    if not guarded(folder, value, valid):
        return ""
    fingerprint, size, ids, _ = value
    if fingerprint in [reading[0] for reading in valid.values]:
        return "another reading under the fingerprint of a valid model"
    inside = all(0 <= token < size for row in ids for token in row)
    return "" if inside else f"ids {ids} of {size}"


def _make_tokenizer(folder: pathlib.Path, variant: int) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "the", "red", "river"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {word: n for n, word in enumerate([*words, f"x{variant}"])},
            unk_token="[UNK]",
        )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "max_position_embeddings": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "layer_norm_eps": 1e-12,
        "hidden_size": 4,
        "intermediate_size": 8,
        "vocab_size": 10,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    types = ("models.Transformer", "models.Pooling", "models.Normalize")
    parts = [{"idx": n, "type": f"x.{kind}"} for n, kind in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(parts))
    safetensors.numpy.save_file(_weights(variant), folder / "model.safetensors")


def _weights(variant: int) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (10, 4),
        "embeddings.position_embeddings.weight": (16, 4),
        "embeddings.token_type_embeddings.weight": (2, 4),
        "embeddings.LayerNorm.weight": (4,),
        "embeddings.LayerNorm.bias": (4,),
    }
    layer = "encoder.layer.0"
    sizes = {
        **{f"attention.self.{part}": (4, 4) for part in ("query", "key", "value")},
        "attention.output.dense": (4, 4),
        "intermediate.dense": (8, 4),
        "output.dense": (4, 8),
    }
    for name, shape in sizes.items():
        shapes[f"{layer}.{name}.weight"] = shape
        shapes[f"{layer}.{name}.bias"] = shape[:1]
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes[f"{layer}.{name}.weight"] = shapes[f"{layer}.{name}.bias"] = (4,)
    rng = np.random.default_rng(variant)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def _read_tokenizer(folder: pathlib.Path) -> Any:
    embedder = minilm.load(folder, max_length=12)
    return (embedder.name, embedder.embed(["what is the red river", "the x0"]))


def _judge_tokenizer(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Other vectors bear another name, by which keys and queries are compared."""
    if not guarded(folder, value, valid):
        return ""
    name, vectors = value
    if name in [reading[0] for reading in valid.values]:
        changed = [
            n
            for n, c in content(folder).items()
            if c != content(valid.folders[0]).get(n)
        ]
        return f"other vectors under the name {name}; other {changed}"
    return "" if np.isfinite(vectors).all() else "vectors that are not finite"


FORMATS = {
    "sentencepiece": Format(
        _make_vocabulary,
        _read_vocabulary,
        _judge_vocabulary,
        {"spiece.model": ("bytes",)},
    ),
    "tokenizer": Format(
        _make_tokenizer,
        _read_tokenizer,
        _judge_tokenizer,
        {
            "tokenizer.json": ("json",),
            "config.json": ("json",),
            "1_Pooling/config.json": ("json",),
            "model.safetensors": ("safetensors",),
        },
    ),
}
