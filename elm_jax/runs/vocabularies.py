"""The vocabulary of a base: it travels with it, and every run's is compared with it.

The same tokens mean other text under another vocabulary, and nothing else shows it: a
model scores them all the same. So manifests record the fingerprint of the vocabulary
that a base and its experts were trained on, and a base's folder holds a copy.
"""

import pathlib
import sys
from typing import Any

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.data import vocabulary as data_vocabulary

FILE_NAME = "vocabulary.model"


def describe(
    vocabulary: data_vocabulary.SentencePiece, *, set_by: str
) -> dict[str, Any]:
    """Returns what a manifest records of a vocabulary.

    Args:
      vocabulary: The one that makes the tokens.
      set_by: How it is known that it is the right one, such as `training`.
    """
    return {
        "fingerprint": vocabulary.fingerprint,
        "size": vocabulary.size,
        "extra_ids": vocabulary.extra_ids,
        "set_by": set_by,
    }


def attached(vocabulary: data_vocabulary.SentencePiece) -> dict[str, bytes]:
    """Returns the file that travels with a base, for `experts.save_expert`."""
    return {FILE_NAME: pathlib.Path(vocabulary.path).read_bytes()}


def of_base(folder: pathlib.Path) -> data_vocabulary.SentencePiece:
    """Returns the vocabulary that travels with a base.

    Raises:
      CheckpointError: The base's manifest cannot be read.
      ConfigError: It has none, or not the one that its manifest names.
    """
    info = manifest.read_manifest(folder)
    path = folder / FILE_NAME
    if not info.vocabulary or not path.is_file():
        raise errors.ConfigError(
            found=f"{folder} as vocabulary, whose base {info.name!r} brings none",
            expected="a base that does, or a SentencePiece model: the one that the"
            " base was trained with",
            do="Name the model with --gin.VOCABULARY=path, or import the base again"
            " with it",
        )
    pieces = data_vocabulary.SentencePiece(str(path), info.vocabulary["extra_ids"])
    check(info, pieces)
    return pieces


def check(info: manifest.Manifest, vocabulary: data_vocabulary.SentencePiece) -> None:
    """Raises FingerprintError if a base or expert was trained on another vocabulary.

    Where the manifest tells of none, as those before release 0.2 and of imports
    without one do, nothing can be compared but the size.

    Raises:
      ConfigError: The vocabulary has more ids than the model has rows.
    """
    trained_on = info.vocabulary
    if trained_on and trained_on["fingerprint"] != vocabulary.fingerprint:
        raise errors.FingerprintError(
            found=f"{vocabulary.path} ({vocabulary.size} ids, fingerprint"
            f" {vocabulary.fingerprint}) for {info.kind} {info.name!r}",
            expected=f"the vocabulary that it was trained with ({trained_on['size']}"
            f" ids, fingerprint {trained_on['fingerprint']})",
            do="Name that vocabulary, or the base's folder as vocabulary_path if"
            " it brings one",
        )
    check_size(info.model["vocab_size"], vocabulary)


def check_size(num_rows: int, vocabulary: data_vocabulary.SentencePiece) -> None:
    """Raises ConfigError if a model with so many embeddings lacks some ids."""
    if num_rows < vocabulary.size:
        raise errors.ConfigError(
            found=f"a vocabulary of {vocabulary.size} ids for a model with"
            f" {num_rows} ({vocabulary.path})",
            expected="a model with a row for every id",
            do="Use the vocabulary the base was trained with, or set"
            f" config.T5Config.vocab_size = {vocabulary.size} for a new base",
        )


def warn_if_unknown(info: manifest.Manifest) -> None:
    """Says on standard error that a base does not tell its vocabulary."""
    if not info.vocabulary:
        sys.stderr.write(
            f"{info.kind} {info.name!r} does not tell which vocabulary it was trained"
            " with, so that yours cannot be compared with it\n"
        )
