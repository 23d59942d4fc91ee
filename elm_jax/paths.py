"""The one way in which a text becomes a path: checked, expanded, absolute.

A text in a configuration is never a shell pattern unless its field says so, and a
folder that is put into a pattern (`{MODEL_DIR}`, the current folder, the home folder)
never becomes one, whatever characters it has.
"""

import dataclasses
import fnmatch
import glob
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

from elm_jax import errors

PACKAGE = pathlib.Path(__file__).parents[1]
"""Where the packages `elm_jax` and `tasks` lie: the clone, or the installed wheel."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_PLACEHOLDER = re.compile(r"\{[A-Z_]+\}")
_PLACEHOLDERS = ("{MODEL_DIR}", "{PACKAGE}")
_MOST_PART_BYTES = 255
_MOST_PATH_BYTES = 3_500  # of 4,095, as some lie below
_LINE_BREAKS = ("Cc", "Zl", "Zp")  # control characters, line and paragraph separators
# SeqIO's characters and the hyphen, of ASCII: no two names look alike, or are one to a
# file system. None begins with a dot (hidden, `..`), or reads as a flag.
_NAME = re.compile(r"\w[\w.:#\-]*", re.ASCII)
NAME_BYTES = 200
"""The longest name. File systems take 255 bytes; hashes and endings need some."""
NAME_RULE = (
    f"a name: 1 to {NAME_BYTES} of the letters a to z and A to Z, digits,"
    " `_`, `.`, `-`, `:` and `#`, the first a letter, a digit or `_`"
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the text of a configuration field names.

    Attributes:
      text: The kind in words.
      may_be_empty: Whether "" stands for none.
      is_name: Whether it is a name as `is_name` has it, not a path.
    """

    text: str
    may_be_empty: bool = False
    is_name: bool = False

    def __str__(self) -> str:
        """Returns the kind in words."""
        return f'{self.text}, or ""' if self.may_be_empty else self.text

    def wrong(self, text: str) -> str:
        """Returns what a valid text of this kind looks like; "" if `text` is valid."""
        if not text and self.may_be_empty:
            return ""
        if self.is_name:
            return "" if is_name(text) else NAME_RULE
        if not text.strip():
            return f"{self.text} that is not empty"
        if any(unicodedata.category(letter) in _LINE_BREAKS for letter in text):
            return f"{self.text} without line breaks and control characters"
        if not {*_PLACEHOLDER.findall(text)} <= {*_PLACEHOLDERS}:
            return f"{self.text} with no placeholder but {', '.join(_PLACEHOLDERS)}"
        return ""


# For the fields of dataclasses that gin files configure; `fields.check` reads them.
Path = Annotated[str, Kind("a path")]
OptionalPath = Annotated[str, Kind("a path", may_be_empty=True)]
Place = Annotated[str, Kind("a path or URL")]
OptionalPlace = Annotated[str, Kind("a path or URL", may_be_empty=True)]
Source = Annotated[str, Kind("a path or a model's name")]
OptionalSource = Annotated[str, Kind("a path or a model's name", may_be_empty=True)]
Pattern = Annotated[str, Kind("a path, or a shell pattern of paths")]
Patterns = Pattern | tuple[Pattern, ...]
Name = Annotated[str, Kind("a name", is_name=True)]
OptionalName = Annotated[str, Kind("a name", may_be_empty=True, is_name=True)]


def is_name(text: object) -> bool:
    """Returns whether something is a name: of an expert, base, task or dataset.

    Names become folders and objects of buckets, and are printed: they are `NAME_RULE`
    wherever they are read, and so never paths.

    >>> is_name("dream_answer-2"), is_name("../x"), is_name("[bold]x"), is_name("")
    (True, False, False, False)
    """
    if not isinstance(text, str) or len(text) > NAME_BYTES:
        return False
    return _NAME.fullmatch(text) is not None


def check_name(text: str, *, of: str, do: str = "Rename it") -> str:
    """Returns a name.

    Args:
      text: The name to check.
      of: What it names, for the message.
      do: What the user can do about a name that is not valid.

    Raises:
      ConfigError: `text` is not a valid name.
    """
    if is_name(text):
        return text
    problem = f"{text!r:.100} as the name of {of}"
    raise errors.ConfigError(found=problem, expected=NAME_RULE, do=do)


def absolute(text: str | pathlib.Path) -> pathlib.Path:
    """Returns the absolute path that a text names; `~` is the home folder.

    Raises:
      ConfigError: The text is empty, has control characters, names no user's home, or
        is longer than file systems take.
    """
    return pathlib.Path(_short_enough(_absolute(str(text), escape=str)))


def is_url(text: str) -> bool:
    """Returns whether a text is a URL, such as `gs://bucket/x`, and no path."""
    return _URL.match(text) is not None


def fill(text: str, folders: Mapping[str, str]) -> str:
    """Returns a text with each placeholder replaced by its folder, in one pass.

    >>> fill("{MODEL_DIR}/x", {"{MODEL_DIR}": "/a[1]"})
    '/a[1]/x'
    """
    return _PLACEHOLDER.sub(lambda match: folders.get(match[0], match[0]), text)


def find(pattern: str, folders: Mapping[str, str]) -> list[pathlib.Path]:
    """Returns what a path, or a shell pattern of paths, names on disk, sorted.

    As far as the beginning of the pattern is there by that very name, it is no
    pattern: `runs/a[1]/*` looks into the folder `a[1]` if there is one.

    Args:
      pattern: With placeholders.
      folders: What they stand for; none of these is a pattern.
    """
    existing = pathlib.Path("/")
    literal = pathlib.Path(_short_enough(_absolute(fill(pattern, folders), str)))
    escaped = {name: glob.escape(folder) for name, folder in folders.items()}
    rest_parts = list(
        pathlib.Path(_absolute(fill(pattern, escaped), glob.escape)).parts[1:]
    )
    for part in literal.parts[1:]:
        if not os.path.exists(existing / part):
            break
        existing /= part
        del rest_parts[0]
    if not rest_parts:
        return [existing]
    matches = glob.glob("/".join(rest_parts), root_dir=existing)
    return sorted(existing / path for path in matches)


def fitting(pattern: str, names: Iterable[str]) -> list[str]:
    """Returns the name that equals a shell pattern, else those that match it, in order.

    >>> fitting("a[1]", ["a1", "a[1]"]), fitting("a[1]", ["a1", "a2"])
    (['a[1]'], ['a1'])
    """
    name_list = list(names)
    return [pattern] if pattern in name_list else fnmatch.filter(name_list, pattern)


def _unnameable(text: str) -> str:
    """Returns what is expected of a path that the locale cannot encode, else ""."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        return f"letters that the locale ({error.encoding}) has; UTF-8 has all"
    return ""


def _short_enough(text: str) -> str:
    """Returns an absolute path; raises ConfigError if it is too long."""
    lengths = [len(os.fsencode(part)) for part in text.split("/")]
    if max(lengths) > _MOST_PART_BYTES or sum(lengths) > _MOST_PATH_BYTES:
        raise errors.ConfigError(
            found=f"a path with a name of {max(lengths):,} bytes, of"
            f" {len(os.fsencode(text)):,} bytes in all: {text[:300]}...",
            expected=f"names of at most {_MOST_PART_BYTES} bytes, and paths of"
            f" {_MOST_PATH_BYTES:,}, which file systems take",
            do="Choose a shorter name or folder",
        )
    return text


def _absolute(text: str, escape: Callable[[str], str]) -> str:
    """Returns an absolute path; what is put in front of the text is escaped."""
    problem = Kind("a path").wrong(_PLACEHOLDER.sub("x", text)) or _unnameable(text)
    if problem:
        raise errors.ConfigError(
            found=f"{text!r} as a path",
            expected=problem,
            do="Correct it, or set the variable of the shell that it comes from",
        )
    if text.startswith("~"):
        user, slash, rest = text.partition("/")
        home = os.path.expanduser(user)
        if home == user:
            raise errors.ConfigError(
                found=f"{text!r}, and no home folder of {user!r}",
                expected="~, or ~ and the name of a user of this machine",
                do="Write the path in full; a folder of that name is ./~...",
            )
        return f"{escape(home)}{slash}{rest}"
    return text if text.startswith("/") else f"{escape(os.getcwd())}/{text}"
