"""Each method on 2 x 2 matrices, held against what a pencil gives."""

import numpy as np
import pytest

from elm_jax.merging import methods

FIRST = ([[4, -1], [2, 0]], [[2, 3], [-6, 1]])
DIAGONAL = ([[4, 0], [0, 1]], [[1, 0], [0, 3]])
ROOT = np.sqrt(2.0)

# Method, options, what two experts change, what their merge changes.
EXAMPLES = [
    ("uniform", {}, FIRST, [[3, 1], [-2, 0.5]]),
    ("running_mean", {}, FIRST, [[3, 1], [-2, 0.5]]),
    ("aligned", {}, FIRST, [[3, 1], [-2, 0.5]]),
    ("weighted", {"weights": (3.0, 1.0)}, FIRST, [[3.5, 0], [0, 0.25]]),
    ("task_arithmetic", {"weights": (1.0, -1.0)}, FIRST, [[2, -4], [8, -1]]),
    ("low_rank_sum", {"scale": 0.5}, FIRST, [[3, 1], [-2, 0.5]]),
    ("narrowed", {"scale": 0.5}, FIRST, [[3, 1], [-2, 0.5]]),
    ("elementwise", {}, FIRST, [[6, 2], [-4, 1]]),
    # Of votes +1 -1, -1 +1, +1 -1, 0 +1 a tie is positive.
    ("elementwise", {"sign": "count"}, FIRST, [[6, 3], [2, 1]]),
    # 4, 2 and 3, -6 are left; 2 and -6 disagree, and the greater one wins.
    ("ties", {"density": 0.5}, FIRST, [[4, 3], [-6, 0]]),
    ("magnitude", {"density": 0.5}, FIRST, [[4, 3], [-4, 0]]),
    ("dare", {"density": 1.0}, FIRST, [[6, 2], [-4, 1]]),
    ("dare_ties", {"density": 1.0}, FIRST, [[6, 3], [-6, 1]]),
    ("della", {"density": 1.0, "spread": 0.0}, FIRST, [[3, 3], [-6, 1]]),
    # 4 and -6 go first; -1, 2 and 2, 3 are left.
    ("breadcrumbs", {"density": 0.5, "dropped": 0.25}, FIRST, [[2, 2], [2, 0]]),
    ("breadcrumbs_ties", {"density": 0.5, "dropped": 0.25}, FIRST, [[2, 3], [2, 0]]),
    ("magmax", {}, FIRST, [[4, 3], [-6, 1]]),
    # Weights 21 and 50: sums of squares.
    ("sce", {}, FIRST, [[184 / 71, 3], [-6, 1]]),
    # Variances 1, 4, 16, 1/4: two numbers are kept, -1, 2 and 3, -6.
    ("sce", {"density": 0.5}, FIRST, [[0, 3], [-6, 0]]),
    # Only 4 and 2 are both at least 0.4 of the other.
    ("consensus", {}, FIRST, [[6, 0], [0, 0]]),
    ("emr", {}, FIRST, [[4, 3], [-6, 1]]),
    # Of the elected numbers 4 has the sign that the first expert has; 7 / 4 times.
    ("emr", {"expert": 0}, FIRST, [[7, 0], [0, 0]]),
    # V is diag(4 / 5, 1 / root 2) and diag(3 / 5, 1 / root 2), S is 5, root 2.
    (
        "knots",
        {"density": 1.0},
        ([[4, 0], [0, 1]], [[3, 0], [0, 1]]),
        [[3.5, 0], [0, 1]],
    ),
    ("tsv_merge", {}, DIAGONAL, [[4, 0], [0, 3]]),
    ("iso_c", {}, DIAGONAL, [[4.5, 0], [0, 4.5]]),
    ("iso_cts", {}, DIAGONAL, [[4.5, 0], [0, 4.5]]),
    ("iso_cts", {"common_share": 0.0}, DIAGONAL, [[3.5, 0], [0, 3.5]]),
    # G: diag(16, 1) and diag(1, 9).
    ("covariance", {}, DIAGONAL, [[65 / 17, 0], [0, 2.8]]),
    # The same by 17 and 10, the squared norms.
    ("wudi", {"cut": False}, DIAGONAL, [[657 / 177, 0], [0, 469 / 163]]),
    # S: [[8, -2], [-2, .5]] and [[.5, -1.5], [-1.5, 4.5]]; the prior's rows 2.5, .75.
    (
        "ace",
        {"epsilon": 0.5},
        DIAGONAL,
        [[226.75 / 78.25, -27.875 / 78.25], [-17.75 / 78.25, 174.125 / 78.25]],
    ),
    ("regmean", {}, FIRST, [[3, 1], [-6, 1]]),
    ("fisher", {}, FIRST, [[3, 0], [-4, 1]]),
    # The cosine c is 1 / root 2; the mean times 2 c / (1 + c).
    (
        "model_stock",
        {},
        ([[1, 0], [0, 0]], [[1, 1], [0, 0]]),
        [[2 * ROOT - 2, ROOT - 1], [0, 0]],
    ),
    ("slerp", {}, ([[1, 0], [0, 0]], [[0, 1], [0, 0]]), [[1 / ROOT, 1 / ROOT], [0, 0]]),
]
STATISTICS = {
    "regmean": ([[1, 0], [0, 0]], [[1, 0], [0, 2]]),
    "narrowed": ([], []),
    "fisher": ([[1, 3], [1, 0]], [[1, 1], [3, 1]]),
}


def merged(name, options, changes, start):
    merging = methods.of(name, **options)
    experts = [
        {"w": (start + np.array(change)).astype(np.float64)} for change in changes
    ]
    given = {"base": {"w": start.astype(np.float64)}} if merging.needs_base else {}
    if merging.needs_statistics:
        measured = STATISTICS[name]
        given["statistics"] = [{"w": np.array(each, float)} for each in measured]
    return merging.merge(experts, **given).params["w"] - start


@pytest.mark.parametrize(("name", "options", "changes", "expected"), EXAMPLES)
def test_a_method_gives_what_a_pencil_gives(name, options, changes, expected):
    # Slerp's arc is of the parameters themselves, around zero.
    start = np.full((2, 2), 0.0 if name == "slerp" else 8.0)
    values = merged(name, options, changes, start)
    np.testing.assert_allclose(values, expected, atol=2e-5)


def test_every_method_has_an_example():
    assert {name for name, *_ in EXAMPLES} == methods.METHODS.keys()
