"""What a page holds for its own scripts: their text, and data as JSON.

No text can end the element that holds it: JSON has `<`, `>` and `&` as escapes.
"""

import base64
import functools
import hashlib
import json as json_format
import pathlib
from typing import Any

import markupsafe

_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def json(value: Any) -> markupsafe.Markup:
    """Returns a value as JSON for a `script` element of type `application/json`.

    Raises:
      ValueError: A number is not finite.
    """
    text = json_format.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return markupsafe.Markup(text.translate(_ESCAPED))  # noqa: S704


@functools.cache
def script(*names: str) -> markupsafe.Markup:
    """Returns the scripts of these names in this folder, one after another."""
    folder = pathlib.Path(__file__).parent
    parts = [(folder / name).read_text("utf-8") for name in names]
    return markupsafe.Markup("\n".join(["", *parts]))  # noqa: S704


def policy_of(script: str) -> str:
    """Returns the hash by which a page's policy permits a script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
