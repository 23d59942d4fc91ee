"""SentencePiece vocabularies with T5's sentinels, without TensorFlow."""

import dataclasses
import functools
import hashlib
import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

from elm_jax import errors
from elm_jax.types import EOS_ID, PAD_ID


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model plus T5's sentinel tokens at the end of the ids.

    Encodes exactly as `seqio.SentencePieceVocabulary(path, extra_ids)` does: the
    text `<extra_id_0>` is the highest id, `<extra_id_1>` the one below, and so on.

    Attributes:
      path: The model file, trained with pad id 0 and end-of-sequence id 1.
      extra_ids: Number of sentinels added to the model's own pieces.
    """

    path: str
    extra_ids: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.extra_ids, int) or self.extra_ids < 0:
            raise errors.ConfigError(
                errors.explain(
                    found=f"extra_ids={self.extra_ids!r}",
                    expected="a count of sentinel tokens, 0 or more",
                    do="Use 100, as T5 does",
                )
            )

    @property
    def size(self) -> int:
        """Number of ids, sentinels included."""
        return self._processor.get_piece_size()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Content hash of the model file and `extra_ids`: 16 hex digits."""
        digest = hashlib.sha256(self._model_bytes)
        digest.update(f"\0{self.extra_ids}".encode())
        return digest.hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, without an end token."""
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without end tokens; faster than one by one."""
        return self._processor.encode(list(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` up to the first end token, padding left out.

        Ids that no piece has, as models with a padded vocabulary may give, are left
        out too.
        """
        kept: list[int] = []
        for token in map(int, ids):
            if token == EOS_ID:
                break
            if token != PAD_ID and token < self.size:
                kept.append(token)
        return self._processor.decode(kept)

    def sentinel_id(self, index: int) -> int:
        """Returns the id of `<extra_id_{index}>`; sentinels count down from the top."""
        if not 0 <= index < self.extra_ids:
            raise errors.ConfigError(
                errors.explain(
                    found=f"sentinel {index} of a vocabulary with {self.extra_ids}",
                    expected="an index below extra_ids",
                    do="Use shorter chunks, or a vocabulary with more sentinels",
                )
            )
        return self.size - 1 - index

    def seqio(self) -> Any:
        """Returns the same vocabulary as a SeqIO object; imports TensorFlow."""
        import seqio  # by way of `seqio_tasks.import_seqio`, when tasks are built

        self._processor  # noqa: B018 - our error for a bad file, not TensorFlow's
        return seqio.SentencePieceVocabulary(self.path, extra_ids=self.extra_ids)

    @functools.cached_property
    def _model_bytes(self) -> bytes:
        try:
            return pathlib.Path(self.path).read_bytes()
        except OSError as error:
            raise errors.DataError(
                errors.explain(
                    found=f"no readable vocabulary at {self.path!r}: {error.strerror}",
                    expected="a SentencePiece model file",
                    do="Correct the path, or train a model, as"
                    " gin/original/vocabulary.gin does",
                )
            ) from error

    @functools.cached_property
    def _processor(self) -> Any:
        # Loaded on first use: constructing a vocabulary must not touch the disk.
        import sentencepiece

        # Generated code, opaque to type checkers.
        model_pb2: Any = importlib.import_module(
            "sentencepiece.sentencepiece_model_pb2"
        )
        processor = sentencepiece.SentencePieceProcessor()
        content = self._model_bytes
        try:
            model = model_pb2.ModelProto.FromString(content)
            # Sentinels have to be pieces of the model, else their text would be
            # split into letters where SeqIO gives one id.
            for index in reversed(range(self.extra_ids)):
                model.pieces.add(
                    piece=f"▁<extra_id_{index}>",
                    score=0.0,
                    type=model_pb2.ModelProto.SentencePiece.USER_DEFINED,
                )
            processor.LoadFromSerializedProto(model.SerializeToString())
        except Exception as error:  # noqa: BLE001 - protobuf and C++ errors vary
            raise errors.DataError(
                errors.explain(
                    found=f"{self.path!r} is not a SentencePiece model: {error}",
                    expected="a file written by SentencePieceTrainer",
                    do="Correct the path, or copy the file again",
                )
            ) from error
        found = (processor.pad_id(), processor.eos_id())
        if found != (PAD_ID, EOS_ID):
            raise errors.DataError(
                errors.explain(
                    found=f"{self.path!r} has pad and end ids {found}",
                    expected=f"pad id {PAD_ID} and end id {EOS_ID}, as T5 has them",
                    do="Train it with pad_id=0, eos_id=1, unk_id=2, bos_id=-1",
                )
            )
        return processor
