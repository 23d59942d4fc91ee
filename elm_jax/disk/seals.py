"""Hashes of JSON objects within themselves: one changed byte of a value is found."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "digest"


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an object with its own hash as the last field, `digest`.

    >>> seal({"steps": 3})
    {'steps': 3, 'digest': '6f35973e41fd89bc'}
    """
    return {**content, KEY: _hash(content)}


def open_sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content that `seal` was given; content without a hash unchanged.

    Raises:
      ValueError: The hash is another object's.
    """
    opened = {name: value for name, value in content.items() if name != KEY}
    if KEY in content and content[KEY] != _hash(opened):
        raise ValueError(
            f"it was changed after it was written: its {KEY!r} is of other content"
        )
    return opened


def _hash(content: Mapping[str, Any]) -> str:
    # As it is read: keys are texts then, and tuples are lists.
    read = json.loads(json.dumps(content))
    text = json.dumps(read, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
