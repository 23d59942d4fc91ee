"""Indices of a few keys by hand."""

import numpy as np

from elm_jax.library import index

SETTINGS = index.IndexSettings(embedder="e", text_format="instance", num_keys=2, seed=0)


def library(**keys):
    """An index of keys, rows of numbers by expert."""
    experts = tuple(
        index.IndexEntry(name, len(rows_of), (), "") for name, rows_of in keys.items()
    )
    owners = np.repeat(np.arange(len(keys), dtype=np.int32), [*map(len, keys.values())])
    rows = np.concatenate(
        [np.asarray(rows_of, np.float32) for rows_of in keys.values()]
    )
    return index.Index(SETTINGS, experts, rows, owners)


ONE = library(a=[[1, 0], [0, 0.5]], b=[[0.9, 0.1], [0.8, 0]], c=[[-1, -1], [0, 1]])
QUERIES = np.array([[1, 0], [0, 1], [2, 0]], np.float32)
