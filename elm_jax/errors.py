"""Exceptions of the project; every message says found, expected and what to do."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator


class ElmError(Exception):
    """Base of all errors that a user of elm_jax can cause and repair.

    >>> raise ConfigError(found="no tasks", expected="one or more", do="Name one")
    Traceback (most recent call last):
    elm_jax.errors.ConfigError: Found: no tasks.
    Expected: one or more.
    To do: Name one.

    Args:
      text: The whole message, where it is made already.
      found: What is wrong, with the name or place of it.
      expected: What would be right.
      do: What the user can do about it.
    """

    def __init__(
        self, text: str = "", *, found: str = "", expected: str = "", do: str = ""
    ) -> None:
        super().__init__(text or explain(found=found, expected=expected, do=do))


class ConfigError(ElmError):
    """A configuration value or name is wrong; found before anything compiles."""


class DataError(ElmError):
    """Rows, files or token caches are missing, malformed or empty."""


class TemplateError(ElmError):
    """A prompt template is missing, does not compile or does not fit its rows."""


class CheckpointError(ElmError):
    """A checkpoint or manifest is missing, corrupt or of another model."""


class ExistsError(CheckpointError):
    """A result is there already, perhaps another process's that was quicker."""


class FingerprintError(CheckpointError):
    """An expert was trained on another base than the one it meets."""


class LibraryError(ElmError):
    """An expert library or index is missing, inconsistent or empty."""


class TrainingError(ElmError):
    """Training stopped because of its numbers, such as a loss that is not finite."""


class MissingExtraError(ElmError):
    """An optional dependency is not installed; the message names the extra."""


def first_line(error: BaseException) -> str:
    """Returns what an error of a library says, without the details in further lines."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}".partition("\n")[0][:300] or type(error).__name__


def reason(error: BaseException) -> str:
    """Returns the operating system's reason, as TensorStore tells it, else a line.

    >>> reason(ValueError("Error writing x: Disk quota exceeded [os_error_code='122']"))
    'Disk quota exceeded'
    """
    match = re.search(r': ([^:\[\]"]+) \[.*os_error_code', f"{error}", re.DOTALL)
    return match[1] if match else first_line(error)


@contextlib.contextmanager
def during(activity: str) -> Iterator[None]:
    """Adds an activity, such as `reading a task`, to errors that are raised inside.

    The binaries print it below the message.
    """
    try:
        yield
    except ElmError as error:
        error.add_note(f"While {activity}.")
        raise


def explain(*, found: str, expected: str, do: str) -> str:
    """Returns an error text in the three parts that all messages here have.

    >>> print(explain(found="no tasks", expected="one or more", do="Register one."))
    Found: no tasks.
    Expected: one or more.
    To do: Register one.
    """
    parts = (("Found", found), ("Expected", expected), ("To do", do))
    return "\n".join(f"{title}: {_sentence(text)}" for title, text in parts)


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text.rstrip('.')}."


def did_you_mean(name: str, known_names: Iterable[str], *, shown: int = 5) -> str:
    """Returns the known names nearest to `name`, or the first few, as a sentence.

    >>> did_you_mean("dreem", ["dream", "quail"])
    'Did you mean: dream?'
    """
    names = sorted(known_names)
    near = difflib.get_close_matches(name, names, n=shown, cutoff=0.6)
    if near:
        return f"Did you mean: {', '.join(near)}?"
    if not names:
        return "No name is known here."
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"Known names: {', '.join(names[:shown])}{more}."
