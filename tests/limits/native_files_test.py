import functools
import json
import pathlib
import random
import struct

import pytest
import sentencepiece
import sentencepiece.sentencepiece_model_pb2 as model_pb2
from packaging import version

from elm_jax import errors
from elm_jax.data import vocabulary
from elm_jax.library import sentence_transformers
from elm_jax.limits import native_files

# Such models crash SentencePiece 0.2.1, and its later releases refuse them.
CRASHES = version.Version(sentencepiece.__version__) < version.Version("0.2.2")

POCKET = pathlib.Path(__file__).parents[2] / "tasks/pocket_world/pocket.model"


def pieces(change):
    model = model_pb2.ModelProto.FromString(POCKET.read_bytes())
    change(model)
    return model.SerializeToString()


def trie(model, seed):
    values = random.Random(seed).randbytes(1024)
    table = struct.pack("<I", len(values)) + values + b"x\0" * 10
    model.normalizer_spec.precompiled_charsmap = table


CRASHING_PIECES = {
    "a piece of a million characters": lambda model: model.pieces.add(
        piece="a" * 10**6, score=0.0
    ),
    **{f"trie {seed}": functools.partial(trie, seed=seed) for seed in range(3)},
}


def tokenizer(**changes):
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "WordLevel",
                "vocab": {"a": 0, "[UNK]": 1},
                "unk_token": "[UNK]",
            },
            **changes,
        }
    ).encode()


WRONG_TOKENIZERS = {
    "abort": tokenizer(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA////"}
    ),
    "panic": tokenizer(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
    "an error of its own": tokenizer(
        model={"type": "Unigram", "unk_id": None, "vocab": [["b", 0.0]]}
    ),
}


@pytest.mark.parametrize("name", CRASHING_PIECES)
def test_a_model_that_crashes_its_reader_is_an_error(name, tmp_path):
    path = tmp_path / "crafted.model"
    path.write_bytes(pieces(CRASHING_PIECES[name]))
    reason = "SIGSEGV" if CRASHES else "does not take: RuntimeError: INTERNAL: p"
    with pytest.raises(errors.DataError, match=rf"crafted\.model.*{reason}"):
        vocabulary.SentencePiece(str(path), 0).encode("a")


def test_a_piece_without_a_finite_score_is_an_error(tmp_path):
    path = tmp_path / "crafted.model"
    for score in (float("nan"), float("inf")):
        path.write_bytes(
            pieces(lambda model, s=score: setattr(model.pieces[9], "score", s))
        )
        with pytest.raises(errors.DataError, match="no finite score"):
            vocabulary.SentencePiece(str(path), 0).encode("a")


@pytest.mark.parametrize("name", WRONG_TOKENIZERS)
def test_a_tokenizer_that_crashes_or_panics_is_an_error(name, tmp_path):
    assert native_files.problem_of_tokenizer(WRONG_TOKENIZERS[name])
    (tmp_path / "tokenizer.json").write_bytes(WRONG_TOKENIZERS[name])
    embedder = sentence_transformers.SentenceTransformer(str(tmp_path))
    with pytest.raises(errors.LibraryError, match=r"tokenizer\.json cannot be used"):
        embedder.check()


def test_right_files_have_no_problem():
    assert native_files.problem_of_pieces(POCKET.read_bytes()) == ""
    assert native_files.problem_of_tokenizer(tokenizer()) == ""
