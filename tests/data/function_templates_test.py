import dataclasses

import pytest

from elm_jax import errors
from elm_jax.data import function_templates, rendering, sources, tasks, templates


def ask(row):
    if row["a"] == "nothing":
        return None
    return f"{row['q']}?", row["c"][row["a"]], row["c"]


def tell(row):
    return row["q"], f" {row['a']} "


def wrong(row):
    return row["q"]


ASK = function_templates.FunctionTemplate("ask", ask, has_choices=True)


def rows(split):
    del split
    yield from ({"q": f"q{i}", "a": i % 2, "c": ("x", "y")} for i in range(20))
    yield {"q": "none", "a": "nothing", "c": ()}


def test_a_function_is_a_template_like_another(data_options):
    (task,) = tasks.prompted_tasks(
        "made",
        [ASK],
        source=sources.GeneratedRows(rows, version="1"),
        cluster="none",
        metrics=("accuracy",),
    )
    assert (task.name, task.prompt) == ("made_ask", "ask")
    rendered = rendering.render_split(task, "train", data_options)
    assert rendered.inputs[:2] == ["q0?", "q1?"]
    assert rendered.labels[:2] == [0, 1]
    assert rendered.dropped == {"renders to nothing": 1}
    assert str(ASK.answer_choices).endswith("function_templates_test.ask")


def test_without_choices_there_is_nothing_to_rank():
    free = function_templates.FunctionTemplate("tell", tell)
    assert free.render({"q": "a", "a": 1}, seed=0) == ("a", "1", ())
    assert free.answer_choices is None
    assert free.sha256 != ASK.sha256
    assert dataclasses.replace(ASK).sha256 == ASK.sha256


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"q": "a"}, templates.MISSING_FIELD),
        ({"q": "a", "a": 5, "c": ["x"]}, templates.MISSING_ITEM),
        ({"q": "a", "a": "x", "c": ["x"]}, templates.WRONG_TYPE),
        ({"q": "a" * 10**6, "a": 0, "c": ["x"]}, templates.TOO_LONG),
    ],
)
def test_a_row_that_does_not_fit_is_a_bad_row(row, reason):
    with pytest.raises(templates.RowError) as raised:
        ASK.render(row, seed=0)
    assert raised.value.reason == reason


def annotated(row):
    more = "" if row["a"] is None else f", {row['a']}"
    return f"None of {row['l']}{more}: {row['q']}", "yes"


def test_a_function_may_test_a_null_but_not_print_it():
    template = function_templates.FunctionTemplate("annotated", annotated)
    nan = float("nan")
    assert template.render({"q": "a", "a": None, "l": []}, seed=0) == (
        *("None of []: a", "yes"),
        (),
    )
    assert template.render({"q": "a", "a": 1, "l": [], "b": nan}, seed=0) is not None
    for row in (
        *({"q": None, "a": 1, "l": []}, {"q": "a", "a": 1, "l": [None]}),
        *({"q": nan, "a": 1, "l": []}, {"q": "a", "a": nan, "l": []}),
    ):
        with pytest.raises(templates.RowError) as raised:
            template.render(row, seed=0)
        assert raised.value.reason == templates.NULL_VALUE


def hinted(row):
    hint = f" {row['hint']}" if row["hint"] is not None else ""
    return f"{row['text']}{hint} Good or bad?", "good"


@pytest.mark.parametrize(
    "row",
    [
        {"text": None, "hint": None},
        {"text": None, "hint": float("nan")},
        {"text": ["a", None, None], "hint": {"is": (float("nan"),)}},
    ],
)
def test_of_several_nulls_each_that_is_printed_is_told(row):
    template = function_templates.FunctionTemplate("some", hinted)
    with pytest.raises(templates.RowError) as raised:
        template.render(row, seed=0)
    assert raised.value.reason == templates.NULL_VALUE


def test_of_several_nulls_that_are_tested_none_is_told():
    template = function_templates.FunctionTemplate("some", hinted)
    row = {"text": "None of it.", "hint": None, "a": [None, float("nan")]}
    rendered = template.render(row, seed=0)
    assert rendered is not None
    assert rendered.inputs == "None of it. Good or bad?"


def test_nulls_that_are_nested_too_deep_make_a_bad_row():
    deep = None
    for _ in range(2_000):
        deep = [deep]
    template = function_templates.FunctionTemplate("some", hinted)
    with pytest.raises(templates.RowError) as raised:
        template.render({"text": "None of it.", "hint": None, "a": deep}, seed=0)
    assert raised.value.reason == templates.WRONG_TYPE


def test_what_is_no_text_is_told():
    broken = function_templates.FunctionTemplate("wrong", wrong)
    for value in (1, "text", ("a", 2), ("a", "b", "choices")):
        with pytest.raises(
            errors.TemplateError, match="function template 'wrong' gave"
        ):
            broken.render({"q": value}, seed=0)
