"""What reaches a terminal: texts, never commands to it.

Names, rows and messages may come from files of others. A terminal obeys control
characters in them: it clears the screen, writes over lines or turns the writing
direction.
"""

import re
import sys
from typing import Any, TextIO

# All but line feed and tab; marks that turn the direction; separators of lines.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def escape(text: str) -> str:
    r"""Returns a text with control characters as their Python escapes.

    >>> print(escape("red" + chr(27) + "[31m"))
    red\x1b[31m
    """
    return _COMMANDS.sub(lambda match: ascii(match[0])[1:-1], text)


def replaced(text: str) -> str:
    """Returns a text of the same length, with U+FFFD for each control character."""
    return _COMMANDS.sub("\ufffd", text)


class EscapedStream:
    """A text stream that writes what `escape` returns.

    Args:
      stream: The stream to write to; its other methods are unchanged.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        """Writes a text; returns how many of its characters, which is all."""
        self.unescaped.write(escape(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


def escape_all() -> None:
    """Lets everything that this program prints go through `escape`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, EscapedStream):
            setattr(sys, name, EscapedStream(stream))


def unescaped(stream: Any) -> Any:
    """Returns the stream for what escapes names itself and styles what it prints."""
    return stream.unescaped if isinstance(stream, EscapedStream) else stream
