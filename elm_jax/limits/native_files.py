"""Files that native code reads, read first in a process that may crash.

A crafted SentencePiece model or tokenizer.json ends the program that loads it, where no
`except` helps. So each is loaded, and used on text of every script, in a process with
limits; only then here.
"""

import functools
from collections.abc import Callable
from typing import Any

from elm_jax.limits import limited

# Characters of every script, in texts of ordinary length; no halves of pairs.
_FIRST, _LAST, _LENGTH = 0x20, 0xD7FF, 64


@functools.lru_cache(maxsize=8)
def problem_of_pieces(content: bytes) -> str:
    """Returns what is wrong with a SentencePiece model, or "".

    Args:
      content: The model, serialized; each is looked at once.
    """
    return _problem(pieces_reader, content)


@functools.lru_cache(maxsize=8)
def problem_of_tokenizer(content: bytes) -> str:
    """Returns what is wrong with a tokenizer.json, or "".

    Args:
      content: The file; each is looked at once.
    """
    return _problem(tokenizer_reader, content)


def _problem(reader: Callable[[None], Callable[[bytes], str]], content: bytes) -> str:
    name = f"{__name__}:{reader.__name__}"
    try:
        (problem,) = limited.worker().map(name, None, [content])
    except limited.LimitError as error:
        return error.reason
    return problem


def pieces_reader(shared: None) -> Callable[[bytes], str]:
    """Returns, in the process with limits, what tries a SentencePiece model."""
    del shared
    import sentencepiece

    def read(content: bytes) -> str:
        processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(content)
            for row in processor.encode(_texts()):
                processor.decode(row)
        except Exception as error:  # noqa: BLE001 - C++ errors vary
            return f"{type(error).__name__}: {error}"
        return ""

    return read


def tokenizer_reader(shared: None) -> Callable[[bytes], str]:
    """Returns, in the process with limits, what tries a tokenizer.json."""
    del shared
    import tokenizers

    def read(content: bytes) -> str:
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(content)
            tokenizer.no_padding()
            tokenizer.enable_truncation(256)
            for row in tokenizer.encode_batch(_texts()):
                tokenizer.decode(row.ids)
        except Exception as error:  # noqa: BLE001 - Rust errors vary
            return f"{type(error).__name__}: {error}"
        return ""

    return read


def _texts() -> list[str]:
    starts = range(_FIRST, _LAST, _LENGTH)
    scripts = ["".join(map(chr, range(i, min(i + _LENGTH, _LAST)))) for i in starts]
    return ["", " ", "Does a kiwi fly? No.", "word " * 400, *scripts]
