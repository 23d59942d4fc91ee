import dataclasses

import numpy as np

from elm_jax.evaluation import answers


@dataclasses.dataclass(frozen=True)
class Row:
    choices: tuple[np.ndarray, ...]
    choices_text: tuple[str, ...]


def row(*tokens):
    return Row(tuple(np.array(ids, np.int32) for ids in tokens), ("",) * len(tokens))


def test_choices_of_one_text_are_one_answer_white_space_aside():
    texts = ["yes", "no", "Yes", " no\n", "not  yet", "not yet"]
    assert answers.number(texts).tolist() == [0, 1, 2, 1, 3, 3]


def test_a_score_can_depend_on_the_choice_if_two_have_other_tokens():
    assert answers.are_any_apart(row([4, 1], [4, 1], [5, 1]))
    assert not answers.are_any_apart(row([2, 1], [2, 1]))
    assert not answers.are_any_apart(row([4, 1]))
