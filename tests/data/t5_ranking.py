"""What T5's own evaluation makes of scores, written once more."""

import numpy as np


def t5_rank_accuracy(targets, scores):
    """Accuracy as `t5.evaluation.metrics.rank_classification` defines it."""
    assert {len(target) for target in targets} == {4}
    best = {}
    for (idx, is_correct, weight, _), score in zip(targets, scores, strict=True):
        row, choice = (int(i) for i in idx)
        assert weight == 1.0
        if row not in best or score > best[row][0]:
            best[row] = (score, bool(is_correct), choice)
    return {"accuracy": 100 * np.mean([correct for _, correct, _ in best.values()])}
