"""Metrics by name: `(targets, predictions) -> {key: percent in [0, 100]}`.

Targets come first, as in SeqIO. A target is a text, or several texts of which the
best counts (where the metric allows it); class ids work for `accuracy`.
"""

import collections
import dataclasses
import functools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors

ROUGE_KEYS = ("rouge1", "rouge2", "rougeL")
# Scripts whose words have no spaces between them, or hardly any fixed ones: ideographs,
# kana and Hangul. Each character is a token.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s]|_")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric, its function and its fields.

    Attributes:
      name: Name of the metric.
      keys: The names of its scores; a result row has one of them as `metric`.
      fn: `(targets, predictions) -> {key: percent}`.
      example_fn: `(target, prediction) -> {key: percent}` of one example, whose mean
        `fn` is; None if the metric exists for a corpus only.
      reference: Where it is defined.
    """

    name: str
    keys: tuple[str, ...]
    fn: Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]
    example_fn: Callable[[Any, Any], Mapping[str, float]] | None
    reference: str

    def __call__(
        self, targets: Sequence[Any], predictions: Sequence[Any]
    ) -> dict[str, float]:
        """Returns the scores; see `fn`."""
        return self.fn(targets, predictions)

    def per_example(
        self, targets: Sequence[Any], predictions: Sequence[Any]
    ) -> dict[str, np.ndarray]:
        """Returns float64 [n] percent by key; empty for a corpus metric."""
        if self.example_fn is None:
            return {}
        return _per_example(self.example_fn, targets, predictions)


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Returns the share of predictions that equal their target.

    Texts are compared without white space at the ends, as T0 does.

    >>> accuracy(["yes", "no"], ["yes ", "yes"])
    {'accuracy': 50.0}
    """
    return _mean(_example_accuracy, targets, predictions)


def squad(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Returns exact match and token F1 of normalised texts, best of the answers.

    Case, punctuation, articles and repeated white space do not count.

    >>> squad([["The cat.", "a dog"]], ["cat"])
    {'exact_match': 100.0, 'f1': 100.0}
    """
    return _mean(_example_squad, targets, predictions)


def rouge(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Returns mean ROUGE-1, ROUGE-2 and ROUGE-L F-measures, with Porter's stemmer."""
    return _mean(_example_rouge, targets, predictions)


def bleu(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Returns corpus BLEU-4 with sacrebleu's defaults (13a tokens, exp smoothing).

    Raises:
      DataError: Nothing to compare, unequal lengths, or unequal numbers of
        reference texts.
    """
    references = [_answers(target) for target in targets]
    return {"bleu": _corpus_bleu(references, predictions)}


def _corpus_bleu(
    references: Sequence[Sequence[str]],
    predictions: Sequence[str],
    tokenize: str = "13a",
) -> float:
    _check_lengths(references, predictions)
    counts = sorted({len(texts) for texts in references})
    if len(counts) > 1:
        raise errors.DataError(
            found=f"targets with {counts[0]} and with {counts[-1]} references",
            expected="the same number of reference texts for every example",
            do="Keep as many references as every example has",
        )
    import sacrebleu  # here, because loading it costs a third of a second

    columns = [list(column) for column in zip(*references, strict=True)]
    return sacrebleu.corpus_bleu(list(predictions), columns, tokenize=tokenize).score


def rouge_unicode(
    targets: Sequence[Any], predictions: Sequence[str]
) -> dict[str, float]:
    """Returns mean ROUGE-1, ROUGE-2 and ROUGE-L F-measures over words of any script.

    `rouge` sees ASCII letters only, so it is 0 for most languages. Here tokens are the
    lower-cased words of every script, each ideograph, kana and Hangul syllable by
    itself; nothing is stemmed.

    >>> rouge_unicode(["港が閉鎖"], ["港は閉鎖"])["rouge1_unicode"]
    75.0
    """
    return _mean(_example_rouge_unicode, targets, predictions)


def bleu_unicode(
    targets: Sequence[Any], predictions: Sequence[str]
) -> dict[str, float]:
    """Returns corpus BLEU-4 over the tokens of `rouge_unicode`, and punctuation."""
    spaced = [[_spaced(text) for text in _answers(target)] for target in targets]
    spaced_predictions = [_spaced(prediction) for prediction in predictions]
    return {"bleu_unicode": _corpus_bleu(spaced, spaced_predictions, tokenize="none")}


def first_word(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share of predictions that begin with their target's first word.

    What a prompt that prescribes the first word asks for.

    >>> first_word(["rates rise"], ["rates fall"])
    {'first_word': 100.0}
    """
    return _mean(_example_first_word, targets, predictions)


def last_word(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share of predictions that end with their target's last word."""
    return _mean(_example_last_word, targets, predictions)


def _example_first_word(target: Any, prediction: str) -> dict[str, float]:
    words = [answer.split()[0] for answer in _answers(target)]
    return {"first_word": 100.0 * prediction.strip().startswith(tuple(words))}


def _example_last_word(target: Any, prediction: str) -> dict[str, float]:
    words = [answer.split()[-1] for answer in _answers(target)]
    return {"last_word": 100.0 * prediction.strip().endswith(tuple(words))}


def _example_accuracy(target: Any, prediction: Any) -> dict[str, float]:
    if isinstance(target, str):
        return {"accuracy": 100.0 * (target.strip() == str(prediction).strip())}
    return {"accuracy": 100.0 * bool(target == prediction)}


def _example_squad(target: Any, prediction: str) -> dict[str, float]:
    normal = _normalize(prediction)
    answers = [_normalize(answer) for answer in _answers(target)]
    return {
        "exact_match": 100.0 * max(normal == answer for answer in answers),
        "f1": 100.0 * max(_token_f1(normal.split(), a.split()) for a in answers),
    }


def _example_rouge(target: Any, prediction: str) -> dict[str, float]:
    scores = _rouge_scorer().score_multi(_answers(target), prediction)
    return {key: 100.0 * scores[key].fmeasure for key in ROUGE_KEYS}


def _example_rouge_unicode(target: Any, prediction: str) -> dict[str, float]:
    scorer = _rouge_scorer(_UnicodeTokenizer())
    scores = scorer.score_multi(_answers(target), prediction)
    return {f"{key}_unicode": 100.0 * scores[key].fmeasure for key in ROUGE_KEYS}


@dataclasses.dataclass(frozen=True)
class _UnicodeTokenizer:
    """The form of tokenizer that rouge_score asks for."""

    def tokenize(self, text: str) -> list[str]:
        return [token for token in _tokens(text) if token[0].isalnum()]


def _tokens(text: str) -> list[str]:
    """Returns lower-cased words of any script, and punctuation.

    >>> _tokens("Él abrió 2 puertas. 港が")
    ['él', 'abrió', '2', 'puertas', '.', '港', 'が']
    """
    return _TOKEN.findall(text.lower())


def _spaced(text: str) -> str:
    return " ".join(_tokens(text))


@functools.cache
def _rouge_scorer(tokenizer: _UnicodeTokenizer | None = None) -> Any:
    from rouge_score import rouge_scorer  # here, because it loads all of nltk

    return rouge_scorer.RougeScorer(
        ROUGE_KEYS, use_stemmer=tokenizer is None, tokenizer=tokenizer
    )


def _answers(target: Any) -> list[str]:
    return [target] if isinstance(target, str) else list(target)


def _normalize(text: str) -> str:
    """Returns the text as SQuAD's official script compares it.

    >>> _normalize("The  Cat's hat.")
    'cats hat'
    """
    letters = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())


def _token_f1(predicted: list[str], expected: list[str]) -> float:
    """Returns the F1 of two bags of tokens, a fraction; 1 if both are empty."""
    if not predicted or not expected:
        return float(predicted == expected)
    shared = (collections.Counter(predicted) & collections.Counter(expected)).total()
    return 2 * shared / (len(predicted) + len(expected))


def _per_example(
    example_fn: Callable[[Any, Any], Mapping[str, float]],
    targets: Sequence[Any],
    predictions: Sequence[Any],
) -> dict[str, np.ndarray]:
    _check_lengths(targets, predictions)
    scores = [example_fn(t, p) for t, p in zip(targets, predictions, strict=True)]
    return {key: np.array([score[key] for score in scores]) for key in scores[0]}


def _mean(
    example_fn: Callable[[Any, Any], Mapping[str, float]],
    targets: Sequence[Any],
    predictions: Sequence[Any],
) -> dict[str, float]:
    columns = _per_example(example_fn, targets, predictions)
    return {key: float(values.mean()) for key, values in columns.items()}


def _check_lengths(targets: Sequence[Any], predictions: Sequence[Any]) -> None:
    if len(targets) == len(predictions) > 0:
        return
    raise errors.DataError(
        found=f"{len(targets)} targets and {len(predictions)} predictions",
        expected="as many predictions as targets, and at least one",
        do="Check the split for examples, and the order (targets, predictions)",
    )


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="accuracy",
            keys=("accuracy",),
            fn=accuracy,
            example_fn=_example_accuracy,
            reference="arXiv 2110.08207, section 5",
        ),
        Metric(
            name="squad",
            keys=("exact_match", "f1"),
            fn=squad,
            example_fn=_example_squad,
            reference="arXiv 1606.05250, section 6.1",
        ),
        Metric(
            name="rouge",
            keys=ROUGE_KEYS,
            fn=rouge,
            example_fn=_example_rouge,
            reference="Lin, ROUGE: a package for automatic evaluation, ACL 2004",
        ),
        Metric(
            name="bleu",
            keys=("bleu",),
            fn=bleu,
            example_fn=None,
            reference="arXiv 1804.08771",
        ),
        Metric(
            name="rouge_unicode",
            keys=tuple(f"{key}_unicode" for key in ROUGE_KEYS),
            fn=rouge_unicode,
            example_fn=_example_rouge_unicode,
            reference="as `rouge`, tokens as in XL-Sum's of arXiv 2106.13822, but no "
            "word segmentation and no stemming",
        ),
        Metric(
            name="bleu_unicode",
            keys=("bleu_unicode",),
            fn=bleu_unicode,
            example_fn=None,
            reference="as `bleu`, over the tokens of `rouge_unicode`",
        ),
        Metric(
            name="first_word",
            keys=("first_word",),
            fn=first_word,
            example_fn=_example_first_word,
            reference="arXiv 2205.12393, constraint of headlines",
        ),
        Metric(
            name="last_word",
            keys=("last_word",),
            fn=last_word,
            example_fn=_example_last_word,
            reference="arXiv 2205.12393, constraint of headlines",
        ),
    )
}


# The key of each metric that a table of one number per task shows.
MAIN_KEYS = tuple(metric.keys[-1] for metric in METRICS.values())


def get(name: str) -> Metric:
    """Returns a metric by name.

    Raises:
      ConfigError: No metric has this name.
    """
    if name in METRICS:
        return METRICS[name]
    raise errors.ConfigError(
        found=f"metric {name!r}",
        expected="the name of a metric",
        do=errors.did_you_mean(name, METRICS),
    )
