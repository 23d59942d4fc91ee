"""Short texts that joined processes send each other without waiting.

The texts are kept by JAX's coordinator in process 0, never on a disk, and are lost when
it ends.
"""

from typing import Any

import jax
from jax._src import distributed  # has no public name; Orbax uses it in the same way

_FOLDER = "elm_jax"


def tell(topic: str, text: str) -> None:
    """Leaves a text for all processes; it replaces an earlier one of this process.

    Args:
      topic: What it is about.
      text: Up to some MB.
    """
    key = f"{_FOLDER}/{topic}/{jax.process_index()}"
    _client().key_value_set(key, text, allow_overwrite=True)


def read_all(topic: str) -> dict[int, str]:
    """Returns the texts that processes have left so far, by their index.

    Returns {} if process 0 cannot be reached; heartbeats find out whether it is dead.
    """
    try:
        entries = _client().key_value_dir_get(f"{_FOLDER}/{topic}/")
    except jax.errors.JaxRuntimeError:
        return {}
    return {int(key.rpartition("/")[2]): text for key, text in entries}


def _client() -> Any:
    client = distributed.global_state.client
    assert client is not None, "this process has joined no others"
    return client
