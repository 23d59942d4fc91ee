"""Other rules of retrieval, to compare: each query has a say for several keys."""

import collections
from collections.abc import Collection

import numpy as np

from elm_jax.library import retrieval
from elm_jax.library.index import Index


def ranked(
    index: Index,
    queries: np.ndarray,
    *,
    num_nearest: int,
    by: retrieval.By,
    experts: Collection[str] | None = None,
) -> tuple[tuple[str, float], ...]:
    """Returns experts with votes or similarities, greatest first, equal ones by name.

    With one key, by votes, these are the votes of `retrieval.retrieve`.

    Args:
      index: The keys.
      queries: float32 [queries, width], one or more.
      num_nearest: How many of its nearest keys each query has a say for; of equally
        near ones those come first whose expert does so by name.
      by: `votes`: one for each such key, to its expert; `similarity`: the key's inner
        product with the query, 0 if it is below.
      experts: Those that may be retrieved; None for all that have keys.

    Raises:
      LibraryError: There is no query, one does not fit the keys or is not finite, or an
        expert has no keys.
    """
    # Checks queries and experts, and knows which keys are equally near.
    retrieval.retrieve(index, queries, experts=experts)
    names = sorted({*(index.names if experts is None else experts)})
    rank_of = {name: rank for rank, name in enumerate(names)}
    ranks = np.array([rank_of.get(expert.name, -1) for expert in index.experts])
    ranks = ranks[index.owners]
    keys, ranks = index.keys[ranks >= 0], ranks[ranks >= 0]
    slack = retrieval.TIE_TOLERANCE * np.max(np.linalg.norm(keys, axis=1))
    sums: dict[str, float] = collections.defaultdict(float)
    for query in np.asarray(queries, np.float32):
        scores = keys @ query
        margin = slack * np.linalg.norm(query)
        for place in _nearest(scores, ranks, num_nearest, margin=float(margin)):
            weight = 1.0 if by == "votes" else max(0.0, float(scores[place]))
            sums[names[ranks[place]]] += weight
    rounded = {name: float(f"{total:.6g}") for name, total in sums.items()}
    return tuple(sorted(rounded.items(), key=lambda item: (-item[1], item[0])))


def ranked_by_means(
    index: Index, queries: np.ndarray, *, experts: Collection[str] | None = None
) -> tuple[tuple[str, float], ...]:
    """Returns experts with the cosine of the mean of their keys and the mean query.

    Greatest first, equal ones by name; all experts, as no query votes.

    Args:
      index: The keys.
      queries: float32 [queries, width], one or more.
      experts: Names of those that may be retrieved; None for all that have keys.

    Raises:
      LibraryError: There is no query, one does not fit the keys or is not finite, or an
        expert has no keys.
    """
    retrieval.retrieve(index, queries, experts=experts)  # which checks both
    query_direction = _direction(np.asarray(queries))
    cosines = {}
    for place, expert in enumerate(index.experts):
        if experts is None or expert.name in experts:
            cosine = _direction(index.keys[index.owners == place]) @ query_direction
            cosines[expert.name] = float(f"{cosine:.6g}")
    return tuple(sorted(cosines.items(), key=lambda item: (-item[1], item[0])))


def _direction(vectors: np.ndarray) -> np.ndarray:
    """Returns the mean of vectors, scaled to norm 1; zeros for a mean of 0."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    return mean / max(float(np.linalg.norm(mean)), np.finfo(float).tiny)


def _nearest(
    scores: np.ndarray, ranks: np.ndarray, number: int, *, margin: float
) -> list[int]:
    """Returns the places of the greatest scores; of close ones, the lowest ranks."""
    order = np.argsort(-scores, kind="stable")
    nearest: list[int] = []
    start = 0
    while start < len(order) and len(nearest) < number:
        least = scores[order[start]] - margin
        stop = start + int(np.sum(scores[order[start:]] >= least))
        close = sorted(order[start:stop].tolist(), key=lambda i: (ranks[i], i))
        nearest += close[: number - len(nearest)]
        start = stop
    return nearest
