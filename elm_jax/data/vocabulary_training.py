"""Trains a SentencePiece vocabulary with T5's special ids."""

import io
import pathlib
from collections.abc import Iterable
from typing import Any

from elm_jax import errors
from elm_jax.disk import files


def train_vocabulary(
    texts: Iterable[str], path: pathlib.Path, *, vocab_size: int
) -> None:
    """Writes a unigram SentencePiece model trained on texts.

    The result is the same on every machine for the same texts in the same order and
    the same release of SentencePiece; 0.2.2 chooses other pieces than 0.2.1.

    Args:
      texts: Sentences or documents; long ones are used whole.
      path: The model file, to be written.
      vocab_size: Pieces, special ids included and sentinels not.

    Raises:
      DataError: The texts are too few for such a size.
      ConfigError: The file cannot be written.
    """
    import sentencepiece

    model = io.BytesIO()
    trainer: Any = sentencepiece.SentencePieceTrainer  # its stubs lack `train`
    try:
        trainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            character_coverage=1.0,
            max_sentence_length=1 << 16,  # bytes; the default drops long documents
            num_threads=1,  # sums in another order would give other pieces
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise errors.DataError(
            found=f"no vocabulary of {vocab_size} pieces: {error}",
            expected="enough text for the size",
            do="Choose a smaller VOCAB_SIZE or give more text",
        ) from error
    files.write_bytes(path, model.getvalue())
