"""Methods of matrices against naive versions and what they are the best of."""

import threading

import numpy as np
import pytest
import scipy.linalg

from elm_jax.merging import (
    closed_form,
    core,
    elementwise,
    keeping,
    methods,
    singular,
    spectral,
    stacks,
    views,
)
from elm_jax.merging.deltas import Layer
from elm_jax.types import Side

RNG = np.random.default_rng(5)
BESIDE = {
    "q_adapter/a": Side(-1, False, "q_adapter", True),
    "q_adapter/b": Side(-2, True, "q_adapter", True),
}
MATRICES = [
    *("tsv_merge", "iso_c", "iso_cts", "covariance", "wudi", "ace", "low_rank_sum"),
    *("knots", "model_stock"),
]


def matrices(count=3, rows=7, columns=5):
    return RNG.normal(size=(count, rows, columns))


def change(name, changes, **options):
    merging = methods.of(name, **options)
    experts = [{"w": each} for each in changes]
    return merging.merge(experts, base={"w": np.zeros(changes[0].shape)}).params["w"]


def loras(count=3, rank=2, inputs=9, outputs=8):
    return [
        {
            "q_adapter": {
                "a": RNG.normal(size=(inputs, rank)),
                "b": RNG.normal(size=(rank, outputs)),
            }
        }
        for _ in range(count)
    ]


def product(expert):
    return expert["q_adapter"]["a"] @ expert["q_adapter"]["b"]


@pytest.mark.parametrize("name", MATRICES)
def test_merging_loras_in_their_core_is_merging_their_products(name):
    experts, merging = loras(), methods.of(name)
    merged = merging.merge(experts, base={}, beside=BESIDE)
    expected = change(name, [product(expert) for expert in experts])
    np.testing.assert_allclose(product(merged.params), expected, atol=1e-6)
    assert merged.rank == 6


@pytest.mark.parametrize("name", ["low_rank_sum", "tsv_merge"])
def test_many_loras_that_span_the_whole_space_are_merged_all_the_same(name):
    experts = loras(count=6)
    merged = methods.of(name, rank=8).merge(experts, base={}, beside=BESIDE)
    expected = change(name, [product(expert) for expert in experts])
    np.testing.assert_allclose(product(merged.params), expected, atol=1e-6)


def test_a_sum_is_cut_to_the_nearest_matrix_of_its_rank():
    experts = loras()
    merged = methods.of("low_rank_sum", rank=3).merge(experts, base={}, beside=BESIDE)
    total = sum(product(expert) for expert in experts)
    left, sizes, right = np.linalg.svd(total)
    nearest = (left[:, :3] * sizes[:3]) @ right[:3]
    np.testing.assert_allclose(product(merged.params), nearest, atol=1e-9)
    share = np.square(total - nearest).sum() / np.square(total).sum()
    assert merged.facts["discarded_energy/q_adapter"] == pytest.approx(share)


def test_the_core_is_smaller_than_the_matrices_and_loses_nothing():
    experts = loras(inputs=50, outputs=40)
    lefts = np.stack([expert["q_adapter"]["a"] for expert in experts])
    rights = np.stack([expert["q_adapter"]["b"] for expert in experts])
    small_core = core.of(lefts, rights)
    assert small_core.matrices.shape == (3, 6, 6)
    whole = small_core.left @ small_core.matrices.some(...) @ small_core.right
    np.testing.assert_allclose(whole, lefts @ rights, atol=1e-12)


def test_equal_loras_have_a_core_of_their_rank():
    (expert,) = loras(count=1)
    small_core = core.of(*(np.stack([expert["q_adapter"][n]] * 3) for n in "ab"))
    assert small_core.matrices.shape == (3, 2, 2)


@pytest.mark.parametrize("shape", [(4, 5, 5), (4, 40, 3), (3, 40), (2, 3, 4)])
def test_singular_values_of_long_matrices_are_numpys(shape):
    values = RNG.normal(size=shape)
    u, s, v = singular.svd(values)
    np.testing.assert_allclose(s, np.linalg.svd(values, compute_uv=False), rtol=1e-9)
    np.testing.assert_allclose(u * s[..., None, :] @ v, values, atol=1e-9)


def test_tsv_merge_of_orthogonal_experts_is_their_sum_of_first_directions():
    basis, _ = np.linalg.qr(RNG.normal(size=(8, 8)))
    orthogonal, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    sizes = np.array([5.0, 3.0, 0.2, 0.1, 0.05, 0.01])
    parts = [
        (basis[:, n::2][:, :3] * sizes[:3]) @ orthogonal[:, n::2][:, :3].T
        for n in (0, 1)
    ]
    total = change("tsv_merge", parts)
    expected = sum(
        sizes[0] * np.outer(basis[:, n], orthogonal[:, n]) for n in (0, 1)
    )  # rank 3 of 2 experts: one direction each
    np.testing.assert_allclose(total, expected, atol=1e-9)


def test_more_experts_than_directions_do_not_merge_to_nothing():
    total = change("tsv_merge", matrices(count=12, rows=7, columns=5))
    assert np.linalg.matrix_rank(total) == 5


def test_iso_c_has_one_size_in_the_directions_of_the_experts_only():
    sizes = np.linalg.svd(
        change("iso_c", [product(expert) for expert in loras()]), compute_uv=False
    )
    np.testing.assert_allclose(sizes[:6], sizes[0])
    np.testing.assert_allclose(sizes[6:], 0, atol=1e-9)


def of_ranks(*ranks, rows=12, columns=10):
    return [RNG.normal(size=(rows, r)) @ RNG.normal(size=(r, columns)) for r in ranks]


@pytest.mark.parametrize("common_share", [0.0, 0.2, 0.4, 0.8, 1.0])
@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        *(((2, 2, 2), 6), ((1, 1, 1), 3), ((3, 2), 5), ((5, 1), 6), ((0, 5), 5)),
        *(((1, 1), 2), ((1, 2), 3), ((9, 9, 9), 10), ((1,) * 7, 7), ((6,), 6)),
    ],
)
@pytest.mark.parametrize("as_loras", [False, True])
def test_iso_cts_has_one_size_in_directions_of_the_experts_only(
    ranks, expected, common_share, as_loras
):
    changes = of_ranks(*ranks)
    merged = iso_cts(changes, common_share, as_loras=as_loras)
    sizes = np.linalg.svd(merged, compute_uv=False)
    rank = singular.rank(sizes)
    # Where one expert has less of its own than its share, there are fewer.
    is_even = len({*ranks}) == 1
    assert rank == expected if is_even or common_share > 0.5 else 0 < rank <= expected
    np.testing.assert_allclose(sizes[:rank], sizes[0])
    for matrix, span in (
        (merged, np.concatenate(changes, axis=1)),
        (merged.T, np.concatenate(changes).T),
    ):
        basis = scipy.linalg.orth(span, rcond=1e-9)
        inside = basis @ (basis.T @ matrix)
        np.testing.assert_allclose(inside, matrix, atol=1e-6 * sizes[0])


def iso_cts(changes, common_share, *, as_loras):
    if not as_loras:
        return change("iso_cts", changes, common_share=common_share)
    experts = []
    for matrix in changes:
        left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
        experts.append({"q_adapter": {"a": left * sizes, "b": right}})
    merging = methods.of("iso_cts", common_share=common_share)
    return product(merging.merge(experts, base={}, beside=BESIDE).params)


def interference(merged, changes, weigh):
    return sum(weigh(d) * np.square((merged - d).T @ d).sum() for d in changes)


@pytest.mark.parametrize(
    ("name", "options", "weigh"),
    [
        ("covariance", {}, lambda d: 1.0),
        ("wudi", {"cut": False}, lambda d: 1 / np.square(d).sum()),
    ],
)
def test_closed_forms_are_the_least_of_what_they_minimise(name, options, weigh):
    changes = matrices()
    best = change(name, changes, **options)
    least = interference(best, changes, weigh)
    for _ in range(20):
        nearby = best + 1e-3 * RNG.normal(size=best.shape)
        assert interference(nearby, changes, weigh) > least


def test_filtered_wudi_is_gradient_descent_that_stops_early():
    changes, time = matrices(), 3.0
    filtered = change("wudi", changes, cut=False, time=time)
    grams = [d @ d.T / np.square(d).sum() for d in changes]
    gram = sum(grams)
    most = np.linalg.eigvalsh(gram)[-1]
    point, steps = np.sum(changes, axis=0), 20000
    target = sum(g @ d for g, d in zip(grams, changes, strict=True))
    for _ in range(steps):
        point = point + time / most / steps * (target - gram @ point)
    np.testing.assert_allclose(filtered, point, atol=1e-3)
    flow = scipy.linalg.expm(-time / most * gram)
    start = np.sum(changes, axis=0)
    exact = np.linalg.solve(gram, target)
    np.testing.assert_allclose(filtered, exact + flow @ (start - exact), atol=1e-9)


def test_cut_wudi_leaves_directions_of_small_eigenvalues_at_the_sum():
    changes = [product(expert) for expert in loras(rank=1)]
    changes[0] = changes[0] * 1.0
    small = 1e-3 * matrices(1, 9, 8)[0]
    changes[1] = changes[1] + small
    cut, whole = (change("wudi", changes, cut=cut) for cut in (True, False))
    total = np.sum(changes, axis=0)
    gram = sum(d @ d.T / np.square(d).sum() for d in changes)
    values, vectors = np.linalg.eigh(gram)
    rank = round(np.sqrt(np.abs(values)).sum() ** 2 / values.sum())
    rest, first = vectors[:, : len(values) - rank], vectors[:, len(values) - rank :]
    np.testing.assert_allclose(rest.T @ cut, rest.T @ total, atol=1e-9)
    np.testing.assert_allclose(first.T @ cut, first.T @ whole, atol=1e-6)


def test_ace_corrects_the_spectrum_of_experts_of_uneven_size():
    changes = matrices() * np.array([0.01, 1.0, 30.0])[:, None, None]
    weights = np.ones(3)
    plain = closed_form.Ace(flat_share=0.0)._matrix(
        Layer("w", stacks.Arrays(changes), weights)
    )
    more = closed_form.Ace(flat_share=0.9)._matrix(
        Layer("w", stacks.Arrays(changes), weights)
    )
    sizes = np.linalg.svd(more - plain, compute_uv=False)
    assert sizes.max() > 0
    assert np.isfinite(more).all()


def ace_by_definition(changes, weights, epsilon=0.01, flat_share=0.3):
    """ACE with a covariance of each expert, as its docstring has it."""
    count, rows, _ = changes.shape
    centred = changes - changes.mean(axis=2, keepdims=True)
    grams = [d @ d.T for d in centred]
    sizes = np.array([np.square(d).sum() for d in changes])
    logs = np.log(sizes + 1e-12)
    is_uneven = logs.var(ddof=1) / (logs.mean() ** 2 + 1e-12) > 0.3
    scales = [np.trace(g) + 1e-12 if is_uneven else 1.0 for g in grams]
    each = [w * g / s for w, g, s in zip(weights, grams, scales, strict=True)]
    ridges = [epsilon * w / s for w, s in zip(weights, scales, strict=True)]
    total = np.sum(each, axis=0)
    prior = np.tile(total.mean(axis=1)[:, None], rows)
    if is_uneven:
        prior = prior / (sizes.mean() + 1e-12)
    ridge = np.eye(rows)
    target = sum(
        (g + r * ridge) @ d for g, r, d in zip(each, ridges, changes, strict=True)
    )
    solved = np.linalg.solve(total + sum(ridges) * ridge + prior, target)
    if not is_uneven:
        return solved
    mean = (total + sum(ridges) * ridge) / weights.sum()
    solved = solved + sum(
        (each[t] - weights[t] * mean) @ changes[t] for t in range(count)
    )
    left, values, right = np.linalg.svd(solved, full_matrices=False)
    num_flat = max(1, int(np.linalg.matrix_rank(solved) * flat_share))
    solution = np.linalg.solve(total + sum(ridges) * ridge + prior, target)
    return solution + values[:num_flat].mean() * left[:, :num_flat] @ right[:num_flat]


@pytest.mark.parametrize("shape", [(3, 7, 5), (4, 5, 20), (5, 6, 6), (3, 30, 4)])
@pytest.mark.parametrize("is_uneven", [False, True])
def test_ace_without_a_covariance_of_each_expert_is_its_definition(shape, is_uneven):
    """To 1e-9 of the greatest number: rounding, times what solving makes of it."""
    sizes = np.array([0.05, 1.0, 30.0, 2.0, 0.4]) if is_uneven else np.ones(5)
    changes = matrices(*shape) * sizes[: shape[0], None, None]
    weights = np.linspace(0.5, 2.0, shape[0])
    matrix = closed_form.Ace()._matrix(Layer("w", stacks.Arrays(changes), weights))
    expected = ace_by_definition(changes, weights)
    np.testing.assert_allclose(matrix, expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("seed", range(5))
def test_ace_takes_experts_of_equal_columns_whose_trace_rounds_below_nothing(seed):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(3, 7, 1)) * np.array([1e-3, 1.0, 1e6])[:, None, None]
    changes = np.repeat(columns, 5, axis=2)
    matrix = closed_form.Ace()._matrix(Layer("w", stacks.Arrays(changes), np.ones(3)))
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize("shape", [(3, 7, 5), (12, 4, 10), (9, 20, 3)])
def test_knots_by_gram_matrices_is_that_by_singular_vectors(shape):
    """To 1e-9: what the root of the rounding in squares leaves of sizes near 1."""
    changes = matrices(*shape)
    count, rows, columns = shape
    left, sizes, right = np.linalg.svd(changes.reshape(-1, columns), False)
    parts = left.reshape(count, rows, -1)
    sparse = np.zeros_like(parts)
    for number, part in enumerate(parts):
        least = np.sort(np.abs(part), axis=None)[-max(1, int(0.2 * part.size))]
        sparse[number] = np.where(np.abs(part) >= least, part, 0.0)
    elected = np.where(sparse.sum(axis=0) >= 0, 1.0, -1.0)
    agree = np.sign(sparse) == elected
    merged = (sparse * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
    expected = (merged * sizes) @ right
    np.testing.assert_allclose(change("knots", changes), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 40, 10), (30, 4, 8)])
def test_knots_of_many_numbers_in_float32_is_that_in_float64(monkeypatch, shape):
    """To 2e-6 of the greatest, where no number is at the limit of what is kept."""
    changes = matrices(*shape)
    expected = change("knots", changes, keep="all", density=1.0)
    monkeypatch.setattr(views, "_MANY", 1)
    single = change("knots", changes, keep="all", density=1.0)
    assert not np.array_equal(single, expected)
    limit = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(single, expected, atol=limit)
    # Which numbers are kept is decided by sizes that float32 hardly ever confuses.
    trimmed = change("knots", changes)
    monkeypatch.setattr(views, "_MANY", 1 << 40)
    np.testing.assert_allclose(change("knots", changes), trimmed, atol=limit)


def test_knots_multiplies_a_few_experts_at_a_time_as_all_at_once(monkeypatch):
    """To 2e-6 of the greatest: what adding up float32 in other parts may change."""
    changes = matrices(12, 40, 10)
    monkeypatch.setattr(views, "_MANY", 1)
    expected = change("knots", changes, keep="all", density=1.0)
    monkeypatch.setattr(views, "_AT_ONCE", 70)  # of 480 rows 10 wide: the last is less
    few = change("knots", changes, keep="all", density=1.0)
    np.testing.assert_allclose(few, expected, atol=2e-6 * np.abs(expected).max())


def test_others_are_merged_while_the_vectors_of_a_wide_matrix_are_found(monkeypatch):
    """Of two wide ones, the first is merged while the second is begun; bits stay."""
    shapes = {"narrow": (60, 5), "wide": (60, 20), "wide_too": (60, 20), "bias": (20,)}
    changes = {name: RNG.normal(size=(6, *shape)) for name, shape in shapes.items()}
    changes["zeros"] = np.zeros((6, 60, 20))
    monkeypatch.setattr(views, "_MANY", 1)

    def merged(*names):
        """Some of the parameters, of experts whose order does not depend on these."""
        experts = [{name: changes[name][place] for name in names} for place in range(6)]
        base = {name: np.zeros(changes[name].shape[1:]) for name in names}
        return methods.of("knots").merge(experts, base=base, marks=[*"abcdef"]).params

    alone = {name: merged(name)[name] for name in changes}
    monkeypatch.setattr(views, "_WIDE", 20)
    order, wide_grams, eigh = [], [], np.linalg.eigh
    has_others = threading.Event()

    def eigh_after_others(gram):
        if len(gram) == 20:
            wide_grams.append(gram)
            assert len(wide_grams) == 1 or has_others.wait(30)
        return eigh(gram)

    def change_of(method, layer):
        order.append(layer.name)
        if {*order} == {*changes} - {"wide_too"}:
            has_others.set()
        return elementwise.Ties._change(method, layer)

    monkeypatch.setattr(np.linalg, "eigh", eigh_after_others)
    monkeypatch.setattr(spectral.Knots, "_change", change_of)
    together = merged(*changes)
    assert order == ["bias", "wide", "zeros", "narrow", "wide_too"]
    for name, expected in alone.items():
        np.testing.assert_array_equal(together[name], expected)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.99, 1.0])
def test_the_greatest_numbers_are_kept_and_of_equal_ones_the_first(density):
    numbers = np.random.default_rng(3).integers(-4, 5, (23, 5)).astype(float)
    count = max(1, int(density * numbers.size))
    order = np.argsort(-np.abs(numbers), axis=None, kind="stable")
    expected = np.zeros(numbers.size)
    expected[order[:count]] = numbers.ravel()[order[:count]]
    sparse = keeping.magnitude(numbers, density)
    np.testing.assert_array_equal(sparse, expected.reshape(numbers.shape))


@pytest.mark.parametrize("method", [spectral.IsoC(), spectral.TsvMerge()])
def test_experts_that_change_nothing_merge_to_nothing(method):
    layer = Layer("w", stacks.Arrays(np.zeros((3, 4, 5))), np.ones(3))
    np.testing.assert_array_equal(method._change(layer), 0)
