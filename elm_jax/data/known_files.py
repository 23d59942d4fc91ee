"""Files that the project knows by hash: PromptSource's own and those of `tasks`.

The list beside this module has the format of `sha256sum`. The program
`tests/data/make_known_files.py` makes it from an unpacked PromptSource 0.2.3 and this
checkout.
"""

import functools
import hashlib
import pathlib

LIST = pathlib.Path(__file__).with_name("known_files.txt")


def is_known(content: bytes) -> bool:
    """Returns whether a file's content is that of a known file, whatever its name."""
    return hashlib.sha256(content).hexdigest() in _hashes()


@functools.cache
def _hashes() -> frozenset[str]:
    lines = LIST.read_text("utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines)
