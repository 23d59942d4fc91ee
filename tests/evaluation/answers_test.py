import dataclasses
import pathlib

import numpy as np
import pytest

import tasks
from elm_jax.data import vocabulary
from elm_jax.evaluation import answers

MODEL = pathlib.Path(tasks.__file__).parent / "pocket_world" / "pocket.model"


@dataclasses.dataclass(frozen=True)
class Row:
    choices: tuple[np.ndarray, ...]
    choices_text: tuple[str, ...]


@pytest.fixture(scope="module")
def pocket():
    return vocabulary.SentencePiece(str(MODEL))


def row(pocket, *texts, length=12):
    """Choices as a token cache has them: cut, with the end token."""
    tokens = [[*pocket.encode(text)[: length - 1], 1] for text in texts]
    return Row(tuple(np.array(ids, np.int32) for ids in tokens), texts)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("yes", "no"), ""),
        (("yes", "<"), ""),  # nobody knows <, but it is like no other choice
        (("<", ">", "="), answers.UNKNOWN),
        (("大", "小"), answers.UNKNOWN),
        (("a < b", "a > b"), answers.SAME_TOKENS),
        (("yes", "no", "no"), answers.SAME_TEXT),
        (("yes", "no", " no\n"), answers.SAME_TEXT),
        (("the dog and the cat", "the dog and the hat", "no"), answers.CUT),
        (("no", "no", "<", ">"), answers.UNKNOWN),  # the worse of two reasons
        (("no",), answers.ONE_CHOICE),
    ],
)
def test_each_way_of_being_alike_has_its_reason(pocket, texts, reason):
    assert answers.problem(row(pocket, *texts, length=4), pocket) == reason


def test_rows_are_counted_by_reason_and_good_ones_are_not(pocket):
    rows = [row(pocket, "yes", "no"), row(pocket, "no", "no")]
    rows += [row(pocket, "<", ">")] * 2
    counts = answers.problems(rows, pocket)
    assert list(counts.items()) == [(answers.UNKNOWN, 2), (answers.SAME_TEXT, 1)]
    assert answers.problems(rows[:1], pocket) == {}


def test_a_score_can_depend_on_the_choice_if_two_have_other_tokens(pocket):
    assert answers.are_any_apart(row(pocket, "no", "no", "yes"))
    assert not answers.are_any_apart(row(pocket, "<", ">"))
    assert not answers.are_any_apart(row(pocket, "no"))
