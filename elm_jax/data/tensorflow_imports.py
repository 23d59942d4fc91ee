"""SeqIO, TFDS and TensorFlow, imported where they are used and only there."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from elm_jax import errors


def import_seqio() -> Any:
    """Returns the module `seqio`, with TensorFlow kept quiet and off accelerators.

    Raises:
      MissingExtraError: This is an installation without TensorFlow or SeqIO.
    """
    import_tensorflow()
    with _told_if_missing():
        import seqio

    return seqio


def import_tensorflow() -> Any:
    """Returns the module `tensorflow`, kept quiet and off accelerators.

    TensorFlow would otherwise take most of a GPU's memory from JAX.

    Raises:
      MissingExtraError: This is an installation without TensorFlow.
    """
    # Read by TensorFlow while it is imported; leaves a user's own choice alone.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # Else it tells so, twice.
    with _told_if_missing():
        import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # Too late if the user's own code has TensorFlow running there already.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf


def import_tfds() -> Any:
    """Returns the module `tensorflow_datasets`.

    Raises:
      MissingExtraError: This is an installation without TensorFlow Datasets.
    """
    import_tensorflow()
    with _told_if_missing():
        import tensorflow_datasets

    return tensorflow_datasets


@contextlib.contextmanager
def _told_if_missing() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise errors.MissingExtraError(
            found=f"no module {error.name} in this installation",
            expected="SeqIO, TensorFlow Datasets and TensorFlow, which this task needs",
            do="Run `bash launch/install.sh` without --without_tensorflow, or install"
            " seqio and tensorflow-datasets",
        ) from error
