"""The vocabulary that a base brings, or that is named for it."""

import pathlib

from elm_jax import errors, paths
from elm_jax.data import vocabulary as data_vocabulary
from elm_jax.runs import loaded, vocabularies


def of_base(
    base: loaded.Base, named: str | pathlib.Path | None
) -> data_vocabulary.SentencePiece:
    """Returns the vocabulary whose tokens a base reads.

    Args:
      base: The base.
      named: A SentencePiece model; None for the one that the base brings.

    Raises:
      ConfigError: The base brings none and none is named.
      FingerprintError: Another one is named than the base was trained with.
    """
    extra_ids = base.manifest.vocabulary.get("extra_ids", 100)
    content = base.attached.get(vocabularies.FILE_NAME)
    if named is not None:
        vocabulary = data_vocabulary.SentencePiece(
            f"{paths.absolute(named)}", extra_ids
        )
    elif content is not None:
        vocabulary = data_vocabulary.SentencePiece.with_content(
            content, name=f"vocabulary of {base.name}", extra_ids=extra_ids
        )
    else:
        raise errors.ConfigError(
            found=f"base {base.name!r}, which brings no vocabulary",
            expected="the SentencePiece model that it was trained with",
            do="Name it: vocabulary='path/to/spiece.model'",
        )
    vocabularies.check(base.manifest, vocabulary)
    return vocabulary
