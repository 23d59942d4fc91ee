"""What searches choose keeps the laws of merges, for experts of every kind.

The answers are those of a small model: one of three choices in seven rows, by scores
that are linear in what an expert does. Merges are made as `elm_merge` makes them. That
the losses of real models are those of their merges, and have these slopes, is tested in
`merge_searches_test.py`.
"""

import dataclasses
import json

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.merging import affine, averages, methods, task_arithmetic
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merge_searches, search_rows
from elm_jax.runs.progress import Progress
from tests.merging import kinds

NUM_ROWS, NUM_CHOICES = 7, 3
SEARCHES = {
    "greedy_soup": merge_searches.GreedySoup(),
    "lorahub": merge_searches.LoraHub(by="gradient", max_steps=30),
    "lorahub_by_search": merge_searches.LoraHub(max_steps=60),
    "adamerging": merge_searches.AdaMerging(max_steps=30, learning_rate=0.1),
}
EACH_KIND = pytest.mark.parametrize("kind", kinds.SHAPES)
EACH_SEARCH = pytest.mark.parametrize("name", SEARCHES)


@dataclasses.dataclass
class Small:
    """What a search asks of `search_problems.Problem`, for a small model."""

    sample: kinds.Sample
    method: MergeMethod
    rows: search_rows.Rows = search_rows.Rows()

    def __post_init__(self):
        rng = np.random.default_rng(7)
        flat = [self.vector(expert) for expert in self.sample.experts]
        size = (NUM_ROWS, NUM_CHOICES, flat[0].size)
        self.readout = rng.normal(size=size) / np.sqrt(flat[0].size)
        self.right = rng.integers(NUM_CHOICES, size=NUM_ROWS)
        self.folders = [*range(len(flat))]
        self.of_each = np.stack([self.readout @ vector for vector in flat])

    def vector(self, params):
        does = kinds.does(params, self.sample.start, self.sample.beside)
        # What all experts of one kind have, however wide their adapters are.
        return np.concatenate([does[name].ravel() for name in sorted(does)])

    def merge(self, method):
        return method.merge(self.sample.experts, **self.sample.arguments(method)).params

    def objective(self, scores, of):
        """A mean over rows, and its gradient by the scores [rows, choices]."""
        shifted = scores - scores.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        if of == "loss":
            right = np.eye(NUM_CHOICES)[self.right]
            return -(right * log_p).sum() / NUM_ROWS, (p - right) / NUM_ROWS
        entropies = -(p * log_p).sum(axis=1, keepdims=True)
        return entropies.mean(), -p * (log_p + entropies) / NUM_ROWS

    def value(self, method, of):
        """The same of a merge, without any search."""
        return self.objective(self.readout @ self.vector(self.merge(method)), of)[0]

    def score(self, method):
        return -self.value(method, "loss")

    def slope_fn(self, of):
        def slope(weights):
            scores = np.tensordot(weights[affine.ALL], self.of_each, axes=1)
            value, by_scores = self.objective(scores, of)
            gradient = np.tensordot(self.of_each, by_scores, axes=2)
            return value, {affine.ALL: gradient}

        return slope

    def progress(self, total):
        return Progress("search", total=total, unit="merges")


def problem_of(name, sample):
    is_mean = name == "greedy_soup"
    method = averages.Uniform() if is_mean else task_arithmetic.TaskArithmetic()
    SEARCHES[name].check(method)
    return Small(sample, method)


def chosen(name, sample):
    problem = problem_of(name, sample)
    return problem, SEARCHES[name].find(problem)


@EACH_KIND
@EACH_SEARCH
def test_what_is_told_is_what_the_chosen_merge_gets(name, kind):
    """And no other that was tried is better."""
    problem, best = chosen(name, kinds.sample(kind))
    of = "entropy" if name == "adamerging" else "loss"
    value = problem.value(best.method, of)
    tried = best.facts["tried"]
    values = [value for _, value in tried]
    if name == "greedy_soup":
        (score,) = {
            score for weights, score in tried if weights == best.facts["chosen"]
        }
        assert score == -value >= max(values[:3])  # of the three alone
        return
    # In the dtype of the experts, float32, of which the search knows nothing.
    assert min(values) < values[0]
    penalty = SEARCHES[name].penalty if name != "adamerging" else 0.0
    totals = [value + penalty * np.abs(weights).mean() for weights, value in tried]
    least, told_value = tried[int(np.argmin(totals))]
    assert abs(told_value - value) < 2e-5
    assert best.facts["chosen"] == least
    assert [*best.method.weights] == np.ravel(least).tolist()


@EACH_KIND
@EACH_SEARCH
def test_one_expert_is_itself_in_a_soup_and_gets_a_weight_in_a_sum(name, kind):
    """A sum that has a weight to choose for it is not asked to keep it as it is."""
    sample = kinds.sample(kind)
    alone = sample.only(1)
    problem, best = chosen(name, alone)
    merged = problem.merge(best.method)
    if name == "greedy_soup":
        assert trees.fingerprint(merged) == trees.fingerprint(alone.experts[0])
        return
    (weight,) = best.method.weights
    expected = weight * problem.vector(alone.experts[0])
    limit = 2e-5 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(problem.vector(merged), expected, atol=limit)
    as_it_is = dataclasses.replace(best.method, weights=(1.0,))
    fingerprint = trees.fingerprint(problem.merge(as_it_is))
    assert fingerprint == trees.fingerprint(alone.experts[0])


@EACH_KIND
@EACH_SEARCH
def test_the_order_of_experts_changes_their_places_alone(name, kind):
    """Of soups no bit, since no two scores are equal here: equal ones go by order.

    Gradients are summed in another order, which changes weights by rounding, times what
    30 steps of Adam make of it. COBYQA looks at one weight after another, so that it
    takes another path; after 60 steps its loss is the same within 1e-6 nats.
    """
    sample, places = kinds.sample(kind), (2, 0, 1)
    problem, best = chosen(name, sample)
    moved, again = chosen(name, sample.only(*places))
    expected = np.array(best.method.weights)[[*places]]
    if name == "greedy_soup":
        assert again.method.weights == tuple(expected)
        merged = (problem.merge(best.method), moved.merge(again.method))
        first, second = map(trees.fingerprint, merged)
        assert first == second
    elif name == "lorahub_by_search":
        values = (problem.value(best.method, "loss"), moved.value(again.method, "loss"))
        assert values[0] == pytest.approx(values[1], abs=1e-6)
    else:
        np.testing.assert_allclose(again.method.weights, expected, atol=1e-12)


@EACH_KIND
@EACH_SEARCH
def test_the_recipe_of_what_was_chosen_gives_the_same_bits_without_a_search(name, kind):
    problem, best = chosen(name, kinds.sample(kind))
    again = methods.from_recipe(json.loads(json.dumps(best.method.recipe())))
    assert again == best.method
    bits = [trees.fingerprint(problem.merge(each)) for each in (again, best.method)]
    assert bits[0] == bits[1]


@EACH_KIND
@EACH_SEARCH
def test_a_search_finds_the_same_again(name, kind):
    first, again = (chosen(name, kinds.sample(kind))[1] for _ in range(2))
    assert first == again


def test_other_labels_change_what_lorahub_chooses_and_nothing_of_adamerging():
    """Here; `merge_searches_test.py` has it for a real model."""
    outcomes = {}
    for name in ("lorahub", "adamerging"):
        problem = problem_of(name, kinds.sample("lora"))
        first = SEARCHES[name].find(problem)
        problem.right = (problem.right + 1) % NUM_CHOICES
        outcomes[name] = (first, SEARCHES[name].find(problem))
    assert outcomes["adamerging"][0] == outcomes["adamerging"][1]
    assert outcomes["lorahub"][0] != outcomes["lorahub"][1]
