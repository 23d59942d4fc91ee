import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import batching, rank_classification
from elm_jax.model import config, scoring, t5
from tests.model import naive_scores

VOCABULARY, WIDTH = 50, 8


@dataclasses.dataclass(frozen=True)
class Example:
    inputs: np.ndarray
    choices: tuple[np.ndarray, ...]
    label: int
    example_id: int
    choices_text: tuple[str, ...]


def tokens(*ids):
    return np.array(ids, np.int32)


def example(choices, *, label=0, inputs=(5, 6, 1), example_id=0, texts=()):
    """Choices of other tokens, or of other texts if given, are other answers."""
    names = tuple(texts) or tuple(map(str, choices))
    return Example(tokens(*inputs), tuple(choices), label, example_id, names)


def random_examples(count, *, seed=0):
    """Questions with 2 to 7 choices and uneven lengths."""
    rng = np.random.default_rng(seed)

    def text(longest):
        ids = rng.integers(2, VOCABULARY, rng.integers(0, longest))
        return np.append(ids, 1).astype(np.int32)

    examples = []
    for i, n in enumerate(rng.integers(2, 8, count)):
        inputs, choices = text(90), tuple(text(9) for _ in range(n))
        names = tuple(map(str, choices))
        examples.append(Example(inputs, choices, int(rng.integers(n)), i, names))
    return examples


def small_weights():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    return table, rng.normal(size=(WIDTH, VOCABULARY)).astype(np.float32)


def small_model():
    """A score function on real log-probabilities, without any model of ours."""
    table, head = map(jnp.asarray, small_weights())

    def score(inputs, choices, mask):
        weights = (inputs > 0).astype(jnp.float32)[..., None]
        encoded = (table[inputs] * weights).sum(1) / weights.sum(1)
        before = jnp.pad(choices, ((0, 0), (0, 0), (1, 0)))[..., :-1]
        hidden = jnp.tanh(table[before] + encoded[:, None, None, :])
        logps = jax.nn.log_softmax(hidden @ head)
        chosen = jnp.take_along_axis(logps, choices[..., None], -1)[..., 0]
        chosen = jnp.where(choices > 0, chosen, 0.0)
        return jnp.where(mask, chosen.sum(-1), -jnp.inf)

    return jax.jit(score)


def naive(question):
    """The same in float64, one choice and one token at a time, nothing padded."""
    table, head = (weights.astype(np.float64) for weights in small_weights())
    encoded, scores = table[question.inputs].mean(0), []
    for choice in question.choices:
        score, before = 0.0, 0
        for token in choice:
            logits = np.tanh(table[before] + encoded) @ head
            score += logits[token] - np.log(np.exp(logits).sum())
            before = token
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize(
    "batch_size",
    [
        pytest.param(7, marks=pytest.mark.slow),
        64,
        pytest.param(1024, marks=pytest.mark.slow),
    ],
)
def test_scores_and_predictions_equal_the_naive_ones_in_any_batch_size_and_order(
    batch_size,
):
    score_fn, examples = small_model(), random_examples(1000)
    order = np.random.default_rng(batch_size).permutation(len(examples))
    outcome = rank_classification.rank_classify(
        score_fn, [examples[i] for i in order], batch_size=batch_size
    )
    for position, i in enumerate(order):
        expected = naive(examples[i])
        np.testing.assert_allclose(
            outcome.scores[position], expected, rtol=1e-5, atol=1e-5
        )
        assert outcome.predictions[position] == expected.argmax()
    assert outcome.example_ids.tolist() == order.tolist()


@pytest.mark.slow
def test_a_t5_gives_the_naive_scores_on_a_thousand_questions_however_batched():
    model = t5.T5(
        config.T5Config(
            vocab_size=VOCABULARY,
            emb_dim=16,
            num_heads=2,
            head_dim=8,
            mlp_dim=32,
            num_encoder_layers=2,
            num_decoder_layers=2,
        )
    )
    params, examples = t5.init_params(model, seed=0), random_examples(1000)
    naive_fn = naive_scores.make_score_fn(model)
    expected = []
    for start in range(0, 1000, 100):  # in the order given, padded to the longest
        some = examples[start : start + 100]
        inputs = batching.pad([question.inputs for question in some], 90)
        choices = np.zeros((100, 7, 9), np.int32)
        for i, question in enumerate(some):
            choices[i, : len(question.choices)] = batching.pad(question.choices, 9)
        scored = naive_fn(params, inputs, choices, choices[..., 0] > 0)
        expected += list(np.asarray(scored))
    score_fn = functools.partial(scoring.make_score_fn(model), params)
    for batch_size, seed in ((64, 0), (250, 1)):
        order = np.random.default_rng(seed).permutation(1000)
        outcome = rank_classification.rank_classify(
            score_fn, [examples[i] for i in order], batch_size=batch_size
        )
        for scores, i in zip(outcome.scores, order, strict=True):
            np.testing.assert_allclose(
                scores, expected[i][: len(scores)], rtol=1e-5, atol=1e-5
            )
        naive_predictions = [expected[i].argmax() for i in order]
        assert outcome.predictions.tolist() == naive_predictions


def test_the_order_of_examples_changes_no_bit():
    score_fn, examples = small_model(), random_examples(60)
    order = np.random.default_rng(1).permutation(len(examples))
    in_order = rank_classification.rank_classify(score_fn, examples, batch_size=16)
    permuted = rank_classification.rank_classify(
        score_fn, [examples[i] for i in order], batch_size=16
    )
    for position, i in enumerate(order):
        assert permuted.scores[position].tobytes() == in_order.scores[i].tobytes()


@pytest.mark.slow
def test_a_thousand_uneven_examples_need_few_compiles():
    score_fn, shapes = small_model(), set()

    def spy(inputs, choices, mask):
        shapes.add((inputs.shape, choices.shape))
        return score_fn(inputs, choices, mask)

    rank_classification.rank_classify(spy, random_examples(1000), batch_size=64)
    assert len(shapes) <= 16


def by_first_token(inputs, choices, mask):
    """Scores that are equal for 20 to 29, 30 to 39, and so on; the least is best."""
    return np.where(mask, -(choices[..., 0] // 10).astype(np.float32), -np.inf)


def test_ties_predict_the_first_choice_are_worth_a_fair_draw_and_are_counted():
    outcome = rank_classification.rank_classify(
        by_first_token,
        [
            example([tokens(31, 1), tokens(22, 1), tokens(21, 1)], label=1),
            example([tokens(31, 1), tokens(22, 1), tokens(21, 1)], label=0),
            example([tokens(11, 1), tokens(31, 1)], label=1),
            example([tokens(11, 1), tokens(31, 1)], label=0),
        ],
        batch_size=2,
    )
    assert outcome.predictions.tolist() == [1, 1, 0, 0]
    assert outcome.credit.tolist() == [0.5, 0.0, 0.0, 1.0]
    assert outcome.num_ties == 2
    assert outcome.accuracy == 37.5
    assert outcome.per_example()["accuracy"].tolist() == [50.0, 0.0, 0.0, 100.0]


def test_the_order_of_choices_changes_no_accuracy():
    choices = [tokens(31, 1), tokens(22, 1), tokens(21, 1), tokens(22, 1)]
    texts = ["a", "b", "c", "b"]
    for label in range(4):
        outcomes = set()
        for order in itertools.permutations(range(4)):
            permuted = example(
                [choices[i] for i in order],
                label=order.index(label),
                texts=[texts[i] for i in order],
            )
            outcome = rank_classification.rank_classify(
                by_first_token, [permuted], batch_size=1
            )
            outcomes.add((outcome.accuracy, outcome.chance, outcome.num_ties))
        assert outcomes == {(0.0 if label == 0 else 50.0, 100.0 * (1 / 3), 1)}


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_choice_that_is_there_twice_is_one_answer_right_at_either_place(label):
    choices = [tokens(31, 1), tokens(21, 1), tokens(21, 1)]
    doubled = example(choices, label=label, texts=("yes", "no", "no"))
    outcome = rank_classification.rank_classify(by_first_token, [doubled], batch_size=1)
    assert outcome.chance == 50.0
    assert outcome.num_ties == 0
    assert outcome.predictions.tolist() == [1]
    assert outcome.accuracy == (100.0 if label else 0.0)


def test_rows_that_no_model_can_tell_apart_are_worth_their_chance():
    rows = [
        example([tokens(3, 2, 1)] * 3, label=label, texts="<>=") for label in (0, 1, 1)
    ]
    outcome = rank_classification.rank_classify(small_model(), rows, batch_size=2)
    assert outcome.accuracy == outcome.chance == pytest.approx(100 / 3)
    assert outcome.num_ties == 3


def test_a_model_of_equal_scores_is_worth_chance_wherever_the_labels_are():
    def flat(inputs, choices, mask):
        return np.where(mask, np.float32(-1), -np.inf)

    rows = random_examples(50)
    firsts = [dataclasses.replace(row, label=0) for row in rows]
    for some in (rows, firsts):
        outcome = rank_classification.rank_classify(flat, some, batch_size=8)
        assert outcome.accuracy == pytest.approx(outcome.chance)
        assert outcome.num_ties == 50


def test_equal_choices_tie_even_if_rounding_differs_by_place():
    def score_fn(inputs, choices, mask):
        noise = np.float32(1e-6) * np.arange(mask.shape[1], dtype=np.float32)
        return np.where(mask, -1.0 + noise, -np.inf).astype(np.float32)

    twice = example([tokens(4, 1), tokens(4, 1)], texts=("<", ">"))
    outcome = rank_classification.rank_classify(score_fn, [twice], batch_size=1)
    assert outcome.predictions.tolist() == [0]
    assert outcome.accuracy == 50.0
    assert outcome.num_ties == 1


def test_length_normalisation_is_off_unless_asked():
    def score_fn(inputs, choices, mask):
        return np.where(mask, -(choices > 0).sum(-1, dtype=np.float32), -np.inf)

    uneven = example([tokens(4, 5, 6, 1), tokens(4, 1)])
    plain = rank_classification.rank_classify(score_fn, [uneven], batch_size=1)
    normal = rank_classification.rank_classify(
        score_fn, [uneven], batch_size=1, length_normalized=True
    )
    assert plain.scores[0].tolist() == [-4.0, -2.0]
    assert normal.scores[0].tolist() == [-1.0, -1.0]
    assert (plain.num_ties, normal.num_ties) == (0, 1)


def test_chance_is_the_mean_of_one_over_the_number_of_answers():
    examples = [example([tokens(i, 1) for i in range(2, 2 + n)]) for n in (2, 4)]
    outcome = rank_classification.rank_classify(small_model(), examples, batch_size=2)
    assert outcome.chance == 37.5
    assert outcome.per_example()["num_choices"].tolist() == [2, 4]
    assert len(outcome.per_example()["scores"]) == 6


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no example"),
        ([example([tokens(3, 1)], label=1)], "label 1 and 1 choices"),
        ([example([tokens(3, 1)], label=-1)], "label -1 and 1 choices"),
        ([example([])], "label 0 and 0 choices"),
        ([example([tokens(3, 1), tokens()])], "a choice without tokens"),
    ],
)
def test_examples_that_cannot_be_ranked_are_refused(examples, message):
    with pytest.raises(errors.DataError, match=message):
        rank_classification.rank_classify(small_model(), examples, batch_size=1)


def test_scores_that_are_not_finite_are_refused():
    def score_fn(inputs, choices, mask):
        return np.full(mask.shape, np.nan, np.float32)

    with pytest.raises(errors.CheckpointError, match="finite"):
        rank_classification.rank_classify(
            score_fn, [example([tokens(3, 1)])], batch_size=1
        )
