"""SentencePiece vocabularies with T5's sentinels, without TensorFlow."""

import dataclasses
import functools
import hashlib
import importlib
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import known_files, tensorflow_imports
from elm_jax.limits import native_files
from elm_jax.types import EOS_ID, PAD_ID

# T5's sentinels as pieces; U+2581 stands for the space in front of a word.
_SENTINEL = re.compile("\u2581?<extra_id_(\\d+)>")


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model plus T5's sentinel tokens at the end of the ids.

    Encodes exactly as `seqio.SentencePieceVocabulary(path, num_added)` does: the
    text `<extra_id_0>` is the highest id, `<extra_id_1>` the one below, and so on.

    Some model files contain their sentinels as pieces, such as T5X's
    `cc_all.32000.100extra` and mT5's file; nothing is added to those. For SeqIO the
    right number of extra ids is then 0, while T5 counts 100: both mean the same here.

    Attributes:
      path: The model file, trained with pad id 0 and end-of-sequence id 1.
      extra_ids: Number of sentinels: those added to the model's own pieces, or those
        among them; 0 adds none.
    """

    path: str
    extra_ids: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.extra_ids, int) or self.extra_ids < 0:
            raise errors.ConfigError(
                found=f"extra_ids={self.extra_ids!r}",
                expected="a count of sentinel tokens, 0 or more",
                do="Use 100, as T5 does",
            )

    @classmethod
    def with_content(
        cls, content: bytes, *, name: str, extra_ids: int = 100
    ) -> "SentencePiece":
        """Returns the vocabulary of a file that is in memory.

        Args:
          content: Of the model file.
          name: In place of its path, for messages.
          extra_ids: As above.
        """
        vocabulary = cls(name, extra_ids)
        vars(vocabulary)["_model_bytes"] = content
        return vocabulary

    @property
    def size(self) -> int:
        """Number of ids, sentinels included."""
        return self._processor.get_piece_size()

    @property
    def unknown_id(self) -> int:
        """The id of text that no piece covers."""
        return self._processor.unk_id()

    @functools.cached_property
    def num_added(self) -> int:
        """Number of sentinels that the model file lacks and that are added to it.

        Raises:
          DataError: The file cannot be read, or brings other sentinels than asked for.
        """
        sentinels = self._own_sentinels
        if not sentinels or not self.extra_ids:
            return self.extra_ids
        if sentinels != set(range(self.extra_ids)):
            count = len(sentinels)
            is_whole = sentinels == set(range(count))
            raise errors.DataError(
                found=f"{self.path!r} brings {count} sentinels of its own"
                + ("" if is_whole else f", numbered up to {max(sentinels)},")
                + f" for extra_ids = {self.extra_ids}",
                expected="none, or as many as extra_ids says",
                do=f"Set extra_ids to {count}, or to 0, which means the same"
                if is_whole
                else "Set extra_ids to 0; span corruption needs another file",
            )
        return 0

    @functools.cached_property
    def fingerprint(self) -> str:
        """Content hash of the model file and what is added to it: 16 hex digits."""
        digest = hashlib.sha256(self._model_bytes)
        digest.update(f"\0{self.num_added}".encode())
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
        tokens: list[int] = []
        for token in map(int, ids):
            if token == EOS_ID:
                break
            if token != PAD_ID and token < self.size:
                tokens.append(token)
        return self._processor.decode(tokens)

    def sentinel_id(self, index: int) -> int:
        """Returns the id of `<extra_id_{index}>`; sentinels count down from the top.

        Raises:
          ConfigError: There are fewer sentinels.
          DataError: The model file has its own elsewhere.
        """
        num_own = len(self._own_sentinels)
        count = num_own or self.extra_ids
        if not 0 <= index < count:
            raise errors.ConfigError(
                found=f"sentinel {index} of a vocabulary with {count}",
                expected="an index below their number",
                do="Use shorter chunks, or a vocabulary with more sentinels",
            )
        token = self.size - 1 - index
        piece = self._processor.id_to_piece(token)
        if num_own and not (
            (match := _SENTINEL.fullmatch(piece)) and int(match[1]) == index
        ):
            raise errors.DataError(
                found=f"{self.path!r} with {piece!r} as id {token}",
                expected=f"<extra_id_{index}>: sentinels counting down from the"
                " highest id, as span corruption takes them",
                do="Use another vocabulary for span corruption",
            )
        return token

    def seqio(self) -> Any:
        """Returns the same vocabulary as a SeqIO object; imports TensorFlow."""
        seqio = tensorflow_imports.import_seqio()
        self._processor  # noqa: B018 - our error for a bad file, not TensorFlow's
        return seqio.SentencePieceVocabulary(self.path, extra_ids=self.num_added)

    @functools.cached_property
    def _model_bytes(self) -> bytes:
        try:
            return pathlib.Path(self.path).read_bytes()
        except OSError as error:
            raise errors.DataError(
                found=f"no readable vocabulary at {self.path!r}: {error.strerror}",
                expected="a SentencePiece model file",
                do="Correct the path, or train a model, as"
                " gin/original/vocabulary.gin does",
            ) from error

    @functools.cached_property
    def _own_sentinels(self) -> set[int]:
        """The numbers of the sentinels among the model's own pieces."""
        matches = (_SENTINEL.fullmatch(piece.piece) for piece in self._model().pieces)
        return {int(match[1]) for match in matches if match}

    def _model(self) -> Any:
        # Generated code, opaque to type checkers.
        model_pb2: Any = importlib.import_module(
            "sentencepiece.sentencepiece_model_pb2"
        )
        content = self._model_bytes
        try:
            model = model_pb2.ModelProto.FromString(content)
        except Exception as error:  # noqa: BLE001 - protobuf's errors vary
            raise _not_a_model(self.path, content, str(error)) from error
        # Most text files do not parse as a model, but some bytes do by chance.
        if not model.pieces:
            raise _not_a_model(self.path, content, "it has no pieces")
        if not all(math.isfinite(piece.score) for piece in model.pieces):
            raise _not_a_model(self.path, content, "a piece has no finite score")
        return model

    @functools.cached_property
    def _processor(self) -> Any:
        # Loaded on first use: constructing a vocabulary must not touch the disk.
        import sentencepiece

        model = self._model()
        # Sentinels must be pieces of the model. Otherwise their text would be split
        # into letters, while SeqIO gives one id.
        for index in reversed(range(self.num_added)):
            model.pieces.add(
                piece=f"\u2581<extra_id_{index}>",
                score=0.0,
                type=type(model).SentencePiece.USER_DEFINED,
            )
        content = model.SerializeToString()
        is_known = known_files.is_known(self._model_bytes)
        problem = "" if is_known else native_files.problem_of_pieces(content)
        processor = sentencepiece.SentencePieceProcessor()
        if not problem:
            try:
                processor.LoadFromSerializedProto(content)
            except Exception as error:  # noqa: BLE001 - C++ errors vary
                problem = str(error)
        if problem:
            raise errors.DataError(
                found=f"{self.path!r} is a model of {len(model.pieces)} pieces that"
                f" SentencePiece does not take: {problem}",
                expected="a file written by SentencePieceTrainer",
                do="Copy the file again, or use another",
            )
        special_ids = (processor.pad_id(), processor.eos_id())
        if special_ids != (PAD_ID, EOS_ID):
            raise errors.DataError(
                found=f"{self.path!r} has pad and end ids {special_ids}",
                expected=f"pad id {PAD_ID} and end id {EOS_ID}, as T5 has them",
                do="Train it with pad_id=0, eos_id=1, unk_id=2, bos_id=-1",
            )
        return processor


def _not_a_model(path: str, content: bytes, why: str) -> errors.DataError:
    """Returns the error for a file of another kind, guessed from its start."""
    do = "Correct the path, or copy the file again"
    if not content:
        why = "it is empty"
    elif content.startswith(b"version https://git-lfs"):
        why, do = "it is a pointer of Git LFS", "Fetch the file that it stands for"
    elif content.lstrip().startswith(b"{"):
        why = "it is JSON"
        do = "Name the .model file beside it, often spiece.model"
    elif content.startswith((b"<pad>", b"<unk>")):
        why = "it is the list of pieces"
        do = "Name the .model file beside this .vocab file"
    return errors.DataError(
        found=f"{path!r} is not a SentencePiece model: {why}",
        expected="a file written by SentencePieceTrainer",
        do=do,
    )
