"""Retrieval: each query votes for the expert that owns the nearest key."""

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from elm_jax import errors
from elm_jax.library.index import Index
from elm_jax.types import Embedder

# Scores whose difference is below this fraction of the product of the vectors' lengths
# count as equal. Equal texts differ by less if they are embedded in batches of other
# shapes, and such noise must not choose an expert.
TIE_TOLERANCE = 1e-6

By = Literal["votes", "similarity"]

# Bounds the scores held at once to 64 MiB.
MAX_SCORES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """The votes of the queries of one target task.

    Attributes:
      votes: Experts with at least one vote, with their counts, most votes first;
        equal counts are ordered by name.
      nearest: The expert each query votes for.
      scores: float32 [queries], each query's greatest inner product.
      num_ties: Queries whose greatest score several experts share; they vote for
        the first of these by name.
    """

    votes: tuple[tuple[str, int], ...]
    nearest: tuple[str, ...]
    scores: np.ndarray
    num_ties: int

    @property
    def expert(self) -> str:
        """The expert with most votes."""
        return self.votes[0][0]

    def ranked(self, by: By) -> tuple[tuple[str, float], ...]:
        """Returns the experts with votes or similarities, in the order of these.

        Greatest first, equal ones by name. Sums have six digits, so that the noise of
        other batches does not tell in them; a similarity below 0 counts as 0.

        Args:
          by: `votes`, or `similarity`: the greatest inner products of the queries that
            vote for an expert, summed.
        """
        if by == "votes":
            return tuple((name, float(count)) for name, count in self.votes)
        sums = dict.fromkeys((name for name, _ in self.votes), 0.0)
        for name, score in zip(self.nearest, self.scores.tolist(), strict=True):
            sums[name] += max(0.0, score)
        rounded = {name: float(f"{total:.6g}") for name, total in sums.items()}
        return tuple(sorted(rounded.items(), key=lambda item: (-item[1], item[0])))

    def top(self, num_experts: int) -> tuple[str, ...]:
        """Returns the experts with most votes; fewer if fewer have any."""
        return tuple(name for name, _ in self.votes[:num_experts])


def retrieve(
    index: Index, queries: np.ndarray, *, experts: Collection[str] | None = None
) -> Retrieval:
    """Returns the experts whose keys are nearest to the queries.

    Every key is compared (exact maximum inner product); a query votes for the owner
    of its nearest key. The order of queries and experts has no influence.

    Args:
      index: The keys.
      queries: float32 [queries, width], one or more.
      experts: Experts that may be retrieved, such as the active ones; None means
        all that have keys.

    Raises:
      LibraryError: No query, queries of another width or not finite, or an expert
        without keys.

    Reference: arXiv:2302.03202, section on retrieval of experts.
    """
    _check_queries(index, queries)
    names = _check_experts(index, experts)
    # Owners are ranked by name, so that the lowest rank decides a tie.
    ranks = np.array([names.get(expert.name, -1) for expert in index.experts])
    key_ranks = ranks[index.owners]
    keys, key_ranks = index.keys[key_ranks >= 0], key_ranks[key_ranks >= 0]
    slack = TIE_TOLERANCE * np.max(np.linalg.norm(keys, axis=1))
    size = max(1, MAX_SCORES // len(keys))
    winners, best, num_ties = [], [], 0
    for start in range(0, len(queries), size):
        part = np.asarray(queries[start : start + size], np.float32)
        scores = part @ keys.T
        greatest = scores.max(axis=1)
        margin = slack * np.linalg.norm(part, axis=1)
        rows, columns = np.nonzero(scores >= (greatest - margin)[:, None])
        first, last = np.full(len(part), len(names)), np.full(len(part), -1)
        np.minimum.at(first, rows, key_ranks[columns])
        np.maximum.at(last, rows, key_ranks[columns])
        num_ties += int(np.sum(first != last))
        winners.extend(first.tolist())
        best.append(greatest)
    by_rank = sorted(names)
    nearest = tuple(by_rank[rank] for rank in winners)
    counts = collections.Counter(nearest).items()
    votes = tuple(sorted(counts, key=lambda item: (-item[1], item[0])))
    return Retrieval(votes, nearest, np.concatenate(best), num_ties)


def retrieve_for_texts(
    index: Index,
    texts: Sequence[str],
    *,
    embedder: Embedder,
    experts: Collection[str] | None = None,
) -> Retrieval:
    """Returns the experts for formatted texts of a target; see `retrieve`.

    Raises:
      LibraryError: The embedder is not the one that made the keys, and as `retrieve`.
    """
    return retrieve(index, embed_for(index, texts, embedder=embedder), experts=experts)


def embed_for(index: Index, texts: Sequence[str], *, embedder: Embedder) -> np.ndarray:
    """Returns queries, float32 [texts, width], for the keys of an index.

    Raises:
      LibraryError: The embedder is not the one that made the keys.
    """
    if embedder.name != index.settings.embedder:
        raise errors.LibraryError(
            found=f"queries embedded by {embedder.name}",
            expected=f"{index.settings.embedder}, which made the keys",
            do="Use that embedder, or build an index with this one",
        )
    return embedder.embed(texts)


def _check_queries(index: Index, queries: np.ndarray) -> None:
    width = index.keys.shape[1]
    fits = queries.ndim == 2 and queries.shape[1] == width and len(queries) > 0
    if not fits or not np.all(np.isfinite(queries)):
        raise errors.LibraryError(
            found=f"queries of shape {queries.shape}"
            + (" that are not finite" if fits else ""),
            expected=f"[one or more, {width}] finite numbers",
            do="Embed at least one text with the embedder of the index",
        )


def _check_experts(index: Index, experts: Collection[str] | None) -> dict[str, int]:
    """Returns the rank by name of the experts that may be retrieved."""
    names = sorted(set(index.names if experts is None else experts))
    index.check_has(names)
    return {name: rank for rank, name in enumerate(names)}
