import inspect

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from elm_jax import errors
from elm_jax.evaluation import metrics

TARGETS = ["the cat sat on the mat", "dogs were running", "it rains"]
PREDICTIONS = ["a cat sat on a mat today", "the dog runs", "it rains"]


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda m: m.name)
def test_every_metric_takes_targets_first_and_gives_its_keys_in_percent(metric):
    assert list(inspect.signature(metric.fn).parameters) == ["targets", "predictions"]
    perfect = metric([*TARGETS, "four words or more"], [*TARGETS, "four words or more"])
    assert tuple(perfect) == metric.keys
    assert perfect == pytest.approx(dict.fromkeys(metric.keys, 100.0))
    assert all(0 <= value <= 100 for value in metric(TARGETS, PREDICTIONS).values())


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda m: m.name)
def test_every_metric_is_the_mean_of_its_examples_or_of_a_corpus_only(metric):
    columns = metric.per_example(TARGETS, PREDICTIONS)
    if metric.name in ("bleu", "bleu_unicode"):
        assert columns == {}
        return
    means = {key: values.mean() for key, values in columns.items()}
    assert metric(TARGETS, PREDICTIONS) == pytest.approx(means)


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda m: m.name)
@pytest.mark.parametrize(("targets", "predictions"), [([], []), (["a"], ["a", "b"])])
def test_every_metric_refuses_what_cannot_be_compared(metric, targets, predictions):
    with pytest.raises(errors.DataError, match="predictions"):
        metric(targets, predictions)


def test_rouge_is_rouge_scores_mean_f_measure_with_stemmer():
    scorer = rouge_scorer.RougeScorer(metrics.ROUGE_KEYS, use_stemmer=True)
    pairs = list(zip(TARGETS, PREDICTIONS, strict=True))
    expected = {
        key: 100 * sum(scorer.score(t, p)[key].fmeasure for t, p in pairs) / len(pairs)
        for key in metrics.ROUGE_KEYS
    }
    assert metrics.rouge(TARGETS, PREDICTIONS) == pytest.approx(expected)


def test_bleu_is_sacrebleus_with_the_targets_as_references():
    expected = sacrebleu.corpus_bleu(PREDICTIONS, [TARGETS]).score
    assert metrics.bleu(TARGETS, PREDICTIONS) == {"bleu": expected}
    swapped = metrics.bleu(PREDICTIONS, TARGETS)
    assert swapped != metrics.bleu(TARGETS, PREDICTIONS)


def test_unicode_metrics_are_the_plain_ones_on_english_and_see_every_script():
    scorer = rouge_scorer.RougeScorer(metrics.ROUGE_KEYS, use_stemmer=False)
    pairs = list(zip(TARGETS, PREDICTIONS, strict=True))
    for key, rouge in metrics.rouge_unicode(TARGETS, PREDICTIONS).items():
        plain = [scorer.score(t, p)[key.removesuffix("_unicode")] for t, p in pairs]
        mean = 100 * sum(score.fmeasure for score in plain) / len(pairs)
        assert rouge == pytest.approx(mean)
    bleu = metrics.bleu(TARGETS, PREDICTIONS)["bleu"]
    assert metrics.bleu_unicode(TARGETS, PREDICTIONS)["bleu_unicode"] == bleu
    for target, near, rouge_1 in (
        ("항구가 닫혔다", "항구는 닫혔다", 100 * 5 / 6),
        ("港口关闭", "港口开放", 50.0),
        ("港が閉鎖された", "港は閉鎖", 200 * 3 / 11),
        ("Él abrió el puerto", "Él cerró el puerto", 75.0),
        ("Le port a fermé.", "Le port a ouvert", 75.0),
    ):
        rouge = metrics.rouge_unicode([target], [near])["rouge1_unicode"]
        assert rouge == pytest.approx(rouge_1)
        assert metrics.bleu_unicode([target], [target])["bleu_unicode"] > 0
    # What the plain metric makes of the same pair.
    assert metrics.rouge(["港口关闭"], ["港口关闭"])["rouge1"] == 0


def test_constraints_are_the_targets_first_and_last_word_case_and_all():
    targets = ["Rates rise again", ["a b c", "x y z"]]
    assert (
        metrics.first_word(targets, ["Rates fall", " xylophone"])["first_word"] == 100
    )
    assert metrics.first_word(targets, ["rates fall", "y"])["first_word"] == 0
    assert metrics.last_word(targets, ["once again ", "c z"])["last_word"] == 100
    assert metrics.last_word(targets, ["again!", ""])["last_word"] == 0


def test_every_metric_has_one_key_for_tables():
    assert len(metrics.MAIN_KEYS) == len(metrics.METRICS)
    assert {"accuracy", "f1", "rougeL", "bleu", "rougeL_unicode"} <= set(
        metrics.MAIN_KEYS
    )


def test_unicode_bleu_is_sacrebleus_own_on_chinese():
    chinese, near = "一艘船撞上码头，港口于周一关闭。", "一艘船撞上码头，港口关闭。"
    expected = sacrebleu.corpus_bleu([near], [[chinese]], tokenize="zh").score
    assert metrics.bleu_unicode([chinese], [near])["bleu_unicode"] == expected


def test_bleu_refuses_uneven_references():
    with pytest.raises(errors.DataError, match="1 and with 2 references"):
        metrics.bleu([["a"], ["a", "b"]], ["a", "b"])


def test_squad_takes_the_best_of_several_answers():
    scores = metrics.squad([["red", "the big house"]], ["big house there"])
    assert scores == pytest.approx({"exact_match": 0.0, "f1": 80.0})


def test_accuracy_compares_class_ids():
    assert metrics.accuracy([1, 0], [1, 1]) == {"accuracy": 50.0}


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(errors.ConfigError, match="Did you mean: accuracy"):
        metrics.get("acuracy")
