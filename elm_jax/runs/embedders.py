"""Embedders by name, built from what a run knows."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import numpy as np

from elm_jax import errors, fields, paths, trees, types
from elm_jax.library import encoder, minilm, sentence_transformers
from elm_jax.model import pooling, t5
from elm_jax.runs import loaded, task_data

TextLength = Annotated[int, fields.Range(3, 2**31, is_open_above=True)]
"""Tokens, with the two that BERT puts around a text."""
_NAME = re.compile(r"(minilm|encoder-mean)-.*-(\d+)|sentence-transformers:(.+)")
KINDS = ("minilm", "encoder", "sentence_transformers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedderSpec:
    """Which embedder makes keys and queries.

    Attributes:
      kind: `minilm`, the paper's all-MiniLM-L6-v2; `encoder`, the base's own encoder,
        mean pooled; or `sentence_transformers`, any model through that package.
      path: Folder of the weights, or a model's name for `sentence_transformers`;
        empty for the package that carries MiniLM's.
      max_length: Tokens of a text that count.
    """

    kind: str = "minilm"
    path: paths.OptionalSource = ""
    max_length: TextLength = 256

    def __post_init__(self) -> None:
        fields.check(self)
        if self.kind not in KINDS:
            raise errors.ConfigError(
                found=f"embedder kind {self.kind!r}",
                expected=f"one of {', '.join(KINDS)}",
                do=errors.did_you_mean(self.kind, KINDS),
            )

    def make(
        self,
        *,
        place: Callable[[str], str],
        load_base: Callable[[], loaded.Base],
        load_data: Callable[[], task_data.OpenedData],
    ) -> types.Embedder:
        """Returns the embedder.

        Args:
          place: Makes an absolute path of a text; `Run.place`.
          load_base: Gives the base; called for kind `encoder` only.
          load_data: Gives the vocabulary that the base's encoder reads; called for
            kind `encoder` only.
        """
        path = place(self.path)
        if self.kind == "minilm":
            folder = pathlib.Path(path) if path else None
            return minilm.load(folder, max_length=self.max_length)
        if self.kind == "sentence_transformers":
            return sentence_transformers.SentenceTransformer(
                path if pathlib.Path(path).is_dir() else self.path,
                max_length=self.max_length,
            )
        return _encoder_embedder(load_base(), load_data(), max_length=self.max_length)


def named(name: str) -> EmbedderSpec:
    """Returns the embedder of a name that an index records.

    Raises:
      LibraryError: The name does not tell it.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[3]:
        raise errors.LibraryError(
            found=f"a library whose keys {name} made",
            expected="an embedder that its name tells: minilm or the base's encoder",
            do="Give the embedder: elm_jax.Library(folder, embedder=...), with an"
            " elm_jax.runs.embedders.EmbedderSpec",
        )
    kind = "minilm" if match[1] == "minilm" else "encoder"
    return EmbedderSpec(kind=kind, max_length=int(match[2]))


def _encoder_embedder(
    base: loaded.Base, data: task_data.OpenedData, *, max_length: int
) -> encoder.EncoderEmbedder:
    program = pooling.make_encode_fn(t5.T5(base.config))
    # Names of float32 are those of before names told it.
    dtype = "" if base.config.dtype == "float32" else f"-{base.config.dtype}"

    @functools.cache
    def params() -> types.Params:
        needed, _ = trees.split(base.params, r"^(encoder|token_embedder)/")
        return jax.device_put(trees.as_float32(needed))

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        rows = data.vocabulary.encode_batch(texts)
        return [[*row[: max_length - 1], types.EOS_ID] for row in rows]

    def encode(tokens: np.ndarray) -> np.ndarray:
        return np.asarray(program(params(), tokens))

    return encoder.EncoderEmbedder(
        # Pooled by the mean, which is the one way of `model/pooling.py`.
        name=f"encoder-mean-{base.fingerprint}-{data.vocabulary.fingerprint}{dtype}"
        f"-{max_length}",
        tokenize_fn=tokenize,
        encode_fn=encode,
        max_length=max_length,
    )
