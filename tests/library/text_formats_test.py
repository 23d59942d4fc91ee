"""The ten formats, letter by letter."""

import pytest

from elm_jax import errors
from elm_jax.library import text_formats

# What the released code of the paper writes for one instance.
EXPECTED = {
    "instance": "Instance: Fun?",
    "label": "Answer Choices: Yes, No",
    "choice": "Answer Choices: {{a}} ||| No",
    "label_instance": "Answer Choices: Yes, No, Instance: Fun?",
    "choice_instance": "Answer Choices: {{a}} ||| No, Instance: Fun?",
    "instance_new": "Fun?",
    "label_new": "Yes, No",
    "choice_new": "{{a}} ||| No",
    "label_instance_new": "Yes, No</s>Fun?",
    "choice_instance_new": "{{a}} ||| No</s>Fun?",
}


def test_there_are_ten_formats_and_each_has_an_expected_text():
    assert len(text_formats.FORMATS) == 10
    assert set(text_formats.FORMATS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_format_reads_as_in_the_paper(name):
    text = text_formats.format_text(
        name, inputs="Fun?", choices=["Yes", "No"], answer_choices="{{a}} ||| No"
    )
    assert text == EXPECTED[name]


def test_an_instance_without_choices_reads_as_none_or_empty():
    def text(name):
        return text_formats.format_text(name, inputs="Fun?")

    assert text("choice_instance") == "Answer Choices: None, Instance: Fun?"
    assert text("label_instance") == "Answer Choices: , Instance: Fun?"
    assert text("label_instance_new") == "</s>Fun?"
    assert text("label_new") == ""


def test_the_end_marker_can_be_another():
    text = text_formats.format_text(
        "choice_instance_new", inputs="a", answer_choices="b", end_of_sequence="[SEP]"
    )
    assert text == "b[SEP]a"


def test_an_unknown_format_is_refused_with_the_nearest_name():
    with pytest.raises(errors.ConfigError, match="Did you mean: choice_instance"):
        text_formats.format_text("choice_instanc", inputs="a")
