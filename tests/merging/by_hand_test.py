"""Each method on 2 x 2 matrices, held against what a pencil gives.

What a method does to adapters, and by which chance it keeps a number, is in tests of
their own below.
"""

from typing import Any

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.merging import keeping, methods
from elm_jax.types import Side

FIRST = ([[4, -1], [2, 0]], [[2, 3], [-6, 1]])
DIAGONAL = ([[4, 0], [0, 1]], [[1, 0], [0, 3]])
ROOT = np.sqrt(2.0)
DELLA = {"density": 0.5, "spread": 0.25}
# A number is kept if its draw is below its chance.
DRAWS = ([[0.6, 0.3], [0.4, 0.3]], [[0.2, 0.6], [0.4, 0.9]])

# Method, options, what two experts change, what their merge changes.
EXAMPLES = [
    ("uniform", {}, FIRST, [[3, 1], [-2, 0.5]]),
    ("running_mean", {}, FIRST, [[3, 1], [-2, 0.5]]),
    ("weighted", {"weights": (3.0, 1.0)}, FIRST, [[3.5, 0], [0, 0.25]]),
    ("task_arithmetic", {"weights": (1.0, -1.0)}, FIRST, [[2, -4], [8, -1]]),
    ("elementwise", {}, FIRST, [[6, 2], [-4, 1]]),
    # Of votes +1 -1, -1 +1, +1 -1, 0 +1 a tie is positive.
    ("elementwise", {"sign": "count"}, FIRST, [[6, 3], [2, 1]]),
    # 4, 2 and 3, -6 are left; 2 and -6 disagree, and the greater one wins.
    ("ties", {"density": 0.5}, FIRST, [[4, 3], [-6, 0]]),
    ("magnitude", {"density": 0.5}, FIRST, [[4, 3], [-4, 0]]),
    # By the draws below -1, 2 and 2, -6 are left, and doubled.
    ("dare", {"density": 0.5}, FIRST, [[4, -2], [-8, 0]]),
    # Sizes of 3 are left of 7, and of 8 of 12.
    ("dare", {"density": 0.5, "rescale": "l1"}, FIRST, [[3, -7 / 3], [-13 / 3, 0]]),
    # Of 4 and -12 the greater wins.
    ("dare_ties", {"density": 0.5}, FIRST, [[4, -2], [-12, 0]]),
    ("dare_ties", {"density": 0.5, "rescale": "l1"}, FIRST, [[3, -7 / 3], [-9, 0]]),
    # Of each row the greater number by a chance of 3 / 4, the other one by 1 / 4: 4, 2
    # and 2, 3, -6, which are sizes of 6 of 7, and of 11 of 12.
    ("della", DELLA, FIRST, [[(14 / 3 + 24 / 11) / 2, 36 / 11], [-72 / 11, 0]]),
    (
        "della",
        {**DELLA, "rescale": "density", "combine": "sum"},
        FIRST,
        [[12, 6], [-12, 0]],
    ),
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
    # 9 is 10 times the shrink, 0.9: G is [[20, 9], [9, 20]] and [[20, -9], [-9, 20]],
    # and their sum 40 times the identity.
    ("regmean", {}, FIRST, [[4.8, 0.775], [-1.55, -0.4]]),
    # The first G three times, and nothing shrunk.
    ("regmean", {"shrink": 1.0, "weights": (3.0, 1.0)}, FIRST, [[5, 0], [0, -0.5]]),
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
    "regmean": ([[20, 10], [10, 20]], [[20, -10], [-10, 20]]),
    "fisher": ([[1, 3], [1, 0]], [[1, 1], [3, 1]]),
}


MARKS = ("a", "b")  # by which the first is the first


class Drawn:
    """A source of chance that is known."""

    def __init__(self, draws):
        self.draws = np.array(draws)

    def random(self, shape):
        assert shape == self.draws.shape
        return self.draws


def merged(name, options, changes, start):
    merging = methods.of(name, **options)
    experts = [
        {"w": (start + np.array(change)).astype(np.float64)} for change in changes
    ]
    arguments: dict[str, Any] = {}
    if merging.needs_base:
        arguments["base"] = {"w": start.astype(np.float64)}
    if merging.needs_statistics:
        measured = STATISTICS[name]
        arguments["statistics"] = [{"w": np.array(each, float)} for each in measured]
    return merging.merge(experts, **arguments, marks=MARKS).params["w"] - start


@pytest.mark.parametrize(("name", "options", "changes", "expected"), EXAMPLES)
def test_a_method_gives_what_a_pencil_gives(
    monkeypatch, name, options, changes, expected
):
    monkeypatch.setattr(keeping, "generators", lambda *_: [*map(Drawn, DRAWS)])
    # Slerp's arc is of the parameters themselves, around zero.
    start = np.full((2, 2), 0.0 if name == "slerp" else 8.0)
    values = merged(name, options, changes, start)
    np.testing.assert_allclose(values, expected, atol=2e-5)


def test_trimming_the_whole_expert_takes_its_greatest_numbers_wherever_they_are():
    """Of six numbers three: 5, 4, 3 and -6, 3, 2; by tensors it would be 2 and 1."""
    first = {"v": np.array([3.0, 5.0]), "w": np.array(FIRST[0], float)}
    second = {"v": np.array([1.0, -0.5]), "w": np.array(FIRST[1], float)}
    base = {"v": np.zeros(2), "w": np.zeros((2, 2))}
    for per, v, w in (
        ("expert", [3, 5], [[3, 3], [-6, 0]]),
        ("tensor", [1, 5], [[4, 3], [-6, 0]]),
    ):
        trimmed = methods.of("ties", density=0.5, per=per)
        params = trimmed.merge([first, second], base=base, marks=MARKS).params
        np.testing.assert_array_equal(params["v"], v)
        np.testing.assert_array_equal(params["w"], w)


# Of what an adapter's parameters are, by their places in these dictionaries.
BOTTLENECK = {
    "a/down": Side(-1, False, "a"),
    "a/bias": Side(-1, False, "a"),
    "a/up": Side(-2, True, "a"),
}
LORA = {"q/a": Side(-1, False, "q", True), "q/b": Side(-2, True, "q", True)}


def adapters(name, experts, beside, **options):
    merging = methods.of(name, **options)
    trees_of = [
        trees.unflatten({n: np.array(leaf, float) for n, leaf in expert.items()})
        for expert in experts
    ]
    arguments: dict[str, Any] = {"base": {}} if merging.needs_base else {}
    if merging.needs_statistics:
        hidden = ([[2.0], [0.0]], [[1.0], [1.0]])
        arguments["statistics"] = [{"a/up": np.array(each)} for each in hidden]
    done = merging.merge(trees_of, beside=beside, marks=MARKS, **arguments)
    return trees.flatten(done.params), done


def check_leaves(leaves, expected):
    assert leaves.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(leaves[name], values, atol=1e-12, err_msg=name)


def test_trimming_whole_loras_takes_the_greatest_numbers_of_their_products():
    """Products of rank 1 have cores of one number: 5 x 1 of q, 2 x 2 of k.

    Of two numbers one is kept: of the first expert q, of the second k, 3 against 2. By
    tensors each is.
    """
    beside = LORA | {f"k/{n}": LORA[f"q/{n}"]._replace(place="k") for n in "ab"}
    first = {"q/a": [[3], [4]], "q/b": [[1, 0]], "k/a": [[2], [0]], "k/b": [[0, 2]]}
    second = {"q/a": [[0], [2]], "q/b": [[1, 0]], "k/a": [[0], [3]], "k/b": [[1, 0]]}
    for per, weights, q, k in (
        ("expert", (1, 0), [[3, 0], [4, 0]], [[0, 0], [0, 0]]),
        ("expert", (0, 1), [[0, 0], [0, 0]], [[0, 0], [3, 0]]),
        ("tensor", (1, 0), [[3, 0], [4, 0]], [[0, 4], [0, 0]]),
    ):
        options = {"density": 0.5, "per": per, "weights": weights}
        leaves, _ = adapters("ties", [first, second], beside, **options)
        check_leaves(
            {place: leaves[f"{place}/a"] @ leaves[f"{place}/b"] for place in "qk"},
            {"q": q, "k": k},
        )


def test_aligned_averages_units_that_do_the_same_wherever_they_are():
    """The second one's units are those of the first the other way round."""
    first = {
        "a/down": [[4, 0], [0, 1]],
        "a/bias": [1, 2],
        "a/up": [[1, 0], [0, 2]],
    }
    second = {
        "a/down": [[0, 2], [3, 0]],
        "a/bias": [4, 1],
        "a/up": [[0, 4], [3, 0]],
    }
    leaves, _ = adapters("aligned", [first, second], BOTTLENECK)
    expected = {
        "a/down": [[3, 0], [0, 2]],
        "a/bias": [1, 3],
        "a/up": [[2, 0], [0, 3]],
    }
    check_leaves(leaves, expected)


def test_a_low_rank_sum_keeps_the_greatest_direction_and_tells_what_it_loses():
    """Half of diag(4, 0) + 2 diag(0, 3) is diag(2, 3), of which diag(0, 3) is left."""
    first = {"q/a": [[2], [0]], "q/b": [[2, 0]]}
    second = {"q/a": [[0], [1]], "q/b": [[0, 3]]}
    leaves, done = adapters(
        "low_rank_sum", [first, second], LORA, weights=(1.0, 2.0), scale=0.5, rank=1
    )
    product = leaves["q/a"] @ leaves["q/b"]
    np.testing.assert_allclose(product, [[0, 0], [0, 3]], atol=1e-12)
    assert done.rank == 1
    assert done.facts == {"discarded_energy/q": pytest.approx(4 / 13)}


def test_a_narrowed_sum_keeps_the_unit_that_adds_most_and_tells_what_it_loses():
    """Activations are (2, 0) and (1, 1), and outputs [[2, 1], [0, 1]].

    The first unit makes (2, 0) times [1, 1 / 2] of them; the row [0, 1] is lost.
    """
    first = {"a/down": [[5], [6]], "a/bias": [7], "a/up": [[1, 0]]}
    second = {"a/down": [[8], [9]], "a/bias": [3], "a/up": [[0, 1]]}
    leaves, done = adapters("narrowed", [first, second], BOTTLENECK)
    expected = {"a/down": [[5], [6]], "a/bias": [7], "a/up": [[1, 0.5]]}
    check_leaves(leaves, expected)
    assert done.num_beside == 1
    assert done.facts == {"relative_error/a/up": pytest.approx(np.sqrt(1 / 6))}


IN_TESTS_OF_THEIR_OWN = {"aligned", "low_rank_sum", "narrowed"}


def test_every_method_has_an_example():
    names = {name for name, *_ in EXAMPLES}
    assert names | IN_TESTS_OF_THEIR_OWN == methods.METHODS.keys()
    assert not names & IN_TESTS_OF_THEIR_OWN


# A share of so many rows has a standard deviation of at most 0.005; five of them.
ROWS, LIMIT = 10_000, 0.025


@pytest.mark.parametrize("name", ["dare", "dare_ties"])
def test_chance_keeps_the_share_of_the_density_and_their_sum(name):
    change = np.tile([[1.0, 2.0, -4.0]], (ROWS, 1))
    sparse = merged(name, {"density": 0.3}, [change], np.zeros(change.shape))
    np.testing.assert_allclose((sparse != 0).mean(axis=0), 0.3, atol=LIMIT)
    # Each number that is left is 1 / 0.3 times as great.
    np.testing.assert_allclose(sparse.mean(axis=0), change[0], rtol=LIMIT / 0.3)
    chosen = sparse[sparse != 0]
    assert {*np.round(chosen, 9)} == {*np.round(np.array([1, 2, -4]) / 0.3, 9)}


def test_della_keeps_numbers_by_a_chance_that_grows_with_their_rank_in_a_row():
    change = np.tile([[-3.0, 0.5, 9.0, 1.0, -4.0]], (ROWS, 1))
    options = {"density": 0.4, "spread": 0.2, "sign": "all", "combine": "sum"}
    sparse = merged("della", options, [change], np.zeros(change.shape))
    chances = [0.4, 0.2, 0.6, 0.3, 0.5]  # of ranks 3, 1, 5, 2, 4 of 5
    np.testing.assert_allclose((sparse != 0).mean(axis=0), chances, atol=LIMIT)
    # The sum of sizes is that of all.
    assert np.abs(sparse).sum() == pytest.approx(np.abs(change).sum(), rel=1e-9)
