"""How evenly a chosen mixture spreads its weight over experts."""

import numpy as np
from scipy import special

from elm_jax.evaluation import result_store, results
from elm_jax.merging import averages
from elm_jax.runs import (
    candidates,
    pooled_candidate,
    routed_candidate,
    routing_traces,
)


def of(
    candidate: candidates.Candidate,
    row: results.ResultRow | None,
    store: result_store.ResultStore,
) -> float | None:
    """Returns the entropy of the weights of a choice's experts, in nats.

    0 for one expert, `log(n)` for a mean of n. Of a choice with weights for the whole
    task, it is the entropy of these. Of a token router with a stored trace, it is the
    entropy of the mean weights at each place of the model, as a mean over places.

    Args:
      candidate: What was chosen for a task.
      row: Of its score; None if it has none.
      store: That of the row.

    Returns:
      None where there are no experts, or their weights are not known.
    """
    if isinstance(candidate, routed_candidate.RoutedCandidate):
        if candidate.weights:
            return float(_entropy(np.array(candidate.weights)))
        row_trace = trace(row, store)
        return None if row_trace is None else float(_entropy(row_trace.weights).mean())
    if isinstance(candidate, pooled_candidate.PooledCandidate):
        return float(_entropy(np.array(candidate.weights)))
    number = len(candidate.folders)
    method = candidate.method
    if isinstance(method, averages.Weighted) and number > 1:
        return float(_entropy(np.array(method.weights)))
    if number == 1 or isinstance(method, (averages.Uniform, averages.RunningMean)):
        return float(np.log(number)) if number else None
    return None


def trace(
    row: results.ResultRow | None, store: result_store.ResultStore
) -> routing_traces.Trace | None:
    """Returns where a token router's tokens went, if that was kept with a score.

    Args:
      row: Of the score; None if there is none.
      store: That of the row.
    """
    array = None if row is None else store.per_example(row).get(routing_traces.ARRAY)
    return None if array is None else routing_traces.read(array)


def _entropy(weights: np.ndarray) -> np.ndarray:
    shares = weights / weights.sum(axis=-1, keepdims=True)
    return special.entr(shares).sum(axis=-1)
