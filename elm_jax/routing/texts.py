"""Which texts are like a query by the words that they share: BM25.

Reference: Robertson and Zaragoza (2009), The Probabilistic Relevance Framework: BM25
and Beyond, equation 3.15, with the inverse document frequency that Lucene uses, which
is never below 0.
"""

import collections
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

_WORD = re.compile(r"\w+")


def bm25(
    documents: Sequence[str],
    queries: Sequence[str],
    *,
    k1: float = 1.2,
    b: float = 0.75,
) -> np.ndarray:
    """Returns how like each query each document is.

    Args:
      documents: Texts; words are runs of letters and digits, in lower case.
      queries: Texts, too. A word that comes twice counts twice.
      k1: How soon more occurrences of a word in a document count no more.
      b: How much a document's length counts, from 0 to 1.

    Returns:
      Float64 [queries, documents], at least 0; 0 where no word is common to both.
    """
    counts = [collections.Counter(_words(text)) for text in documents]
    lengths = np.array([max(1, sum(count.values())) for count in counts], float)
    norms = k1 * (1 - b + b * lengths / lengths.mean())
    counts_of: dict[str, dict[int, int]] = collections.defaultdict(dict)
    for place, count in enumerate(counts):
        for word, number in count.items():
            counts_of[word][place] = number
    scores = np.zeros((len(queries), len(documents)))
    for row, query in zip(scores, queries, strict=True):
        for word, times in collections.Counter(_words(query)).items():
            places = np.array([*counts_of.get(word, {})], int)
            numbers = np.array([*counts_of.get(word, {}).values()], float)
            rest = len(documents) - len(places)
            rarity = math.log1p((rest + 0.5) / (len(places) + 0.5))
            row[places] += (
                times * rarity * numbers * (k1 + 1) / (numbers + norms[places])
            )
    return scores


def votes(
    texts: Mapping[str, Sequence[str]], queries: Sequence[str]
) -> tuple[tuple[str, int], ...]:
    """Returns experts with the number of queries whose best text by BM25 they have.

    Args:
      texts: Of each expert, at least one.
      queries: One or more. Of equally like texts, that of the first expert by name;
        a query that shares no word with any text has no vote.

    Returns:
      `(name, number of queries)`, most first, equal ones by name; none without votes.
    """
    names = sorted(texts)
    owners = np.repeat(np.arange(len(names)), [len(texts[name]) for name in names])
    scores = bm25([text for name in names for text in texts[name]], queries)
    # Six digits, so that the order in which words were added does not tell.
    best = [int(np.argmax(np.round(row, 6))) for row in scores if row.any()]
    counts = collections.Counter(names[owners[place]] for place in best)
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
