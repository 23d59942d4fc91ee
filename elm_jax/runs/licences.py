"""The licences of the rows that an expert was trained on, in words for its cards."""

import collections

from elm_jax.checkpoints import manifest

NOT_KNOWN = "not known"


def of_task(info: manifest.Manifest, task: str) -> str:
    """Returns the licence of one task's rows."""
    return info.licences.get(task, NOT_KNOWN)


def of(info: manifest.Manifest) -> str:
    """Returns the licences of all training rows, as one line; the most frequent first.

    >>> about = {"name": "n", "kind": "prompt", "base_name": "b", "model": {}}
    >>> about |= {"base_fingerprint": "0", "trainable_pattern": "a"}
    >>> of(manifest.Manifest(tasks=("a", "b", "c"), licences={"b": "MIT"}, **about))
    'not known (2 tasks), MIT (1 task)'
    """
    counts = collections.Counter(of_task(info, task) for task in info.tasks)
    if len(counts) < 2:
        return next(iter(counts), NOT_KNOWN)
    return ", ".join(
        f"{licence} ({number} task{'s' * (number > 1)})"
        for licence, number in counts.most_common()
    )
