"""BIG-bench's files as rows and prompts: the rule of assembly, and files gone wrong."""

import json

import pytest

from elm_jax import errors
from elm_jax.data import rendering, sources, tasks, templates
from tasks import bigbench, bigbench_files

NAME = "bigbench_known_unknowns_zero_shot"
TASK = next(task for task in bigbench.TASKS if task.name == NAME)

DEEP = '{"examples": [{"input": %s%s}]}'
DEPTHS = (2_000, 10_000)


def example(number=0, **changes):
    fields = {
        "input": f"Is {number} even?",
        "target_scores": {"Yes": 1 - number % 2, "No": number % 2},
    }
    return {**fields, **changes}


def write(folder, content, name="known_unknowns"):
    path = folder / "bigbench" / name / "task.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def render(folder, content, protocol=""):
    write(folder, content)
    data_options = tasks.DataOptions("", str(folder), protocol=protocol)
    return rendering.render_split(TASK, "validation", data_options)


def prompt(**content):
    (row,) = bigbench_files.rows({**content, "examples": [example()]}, "all")
    return bigbench_files.zero_shot(row)[0]


def test_a_prompt_is_prefixes_input_and_choices_with_nothing_between():
    assert prompt() == "\nQ: Is 0 even?\n choice: Yes\n choice: No\nA: "
    hidden = {"append_choices_to_input": False}
    assert prompt(**hidden) == "\nQ: Is 0 even?\nA: "
    everything = {
        "task_prefix": "Say.",
        "example_input_prefix": "[",
        "choice_prefix": "|",
        "example_output_prefix": "]",
    }
    assert prompt(**everything) == "Say.[Is 0 even?|Yes|No]"
    assert prompt(**everything, **hidden) == "Say.[Is 0 even?]"
    assert prompt(**dict.fromkeys(everything, "")) == "Is 0 even?YesNo"
    # What no prompt has: a description, few-shot separators, a free target.
    more = {"description": "d", "few_shot_example_separator": "s", "canary": "c"}
    assert prompt(**more) == prompt()


def test_the_text_false_shows_choices_as_in_bigbenchs_own_program():
    assert prompt(append_choices_to_input="false") == prompt()
    assert prompt(append_choices_to_input=True) == prompt()


def test_choices_keep_the_files_order_and_the_one_with_score_1_is_right(tmp_path):
    scores = {"z": 0, "a": 0.5, "m": 1.0, "b": 0}
    rendered = render(tmp_path, {"examples": [example(target_scores=scores)]})
    assert rendered.choices == [("z", "a", "m", "b")]
    assert (rendered.targets, rendered.labels) == (["m"], [2])


def test_repeated_examples_are_left_out_and_counted_and_kept_for_elm(tmp_path):
    reordered = example(target_scores={"No": 0, "Yes": 1})  # the same in another order
    content = {"examples": [example(0), example(1), example(0), reordered]}
    rendered = render(tmp_path, content)
    assert rendered.example_ids == [0, 1]
    assert rendered.dropped == {"skipped: an earlier example again": 2}
    elm = render(tmp_path, content, protocol="elm")
    assert (len(elm), elm.dropped) == (4, {})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"target_scores": {"Yes": 1, "No": 1}}, "more than one correct choice"),
        ({"target_scores": {"Yes": 0, "No": 0}}, "no correct choice"),
        ({"target_scores": {}}, "no correct choice"),
        ({"target_scores": {"Yes": 1}}, "fewer than two choices"),
        ({"target_scores": {"Yes": "1", "No": 0}}, "wrong type"),
        ({"target_scores": {"Yes": True, "No": False}}, "wrong type"),
        ({"target_scores": ["Yes", "No"]}, "wrong type"),
        ({"input": ["Is it?"]}, "wrong type"),
        ({"input": None}, "wrong type"),
        ({"input": "a" * 10**6}, "too long"),
        ({"target_scores": {"Yes": 1, "n" * 10**6: 0}}, "too long"),
        ({"input": "half a pair: \ud800"}, "not UTF-8"),
    ],
)
def test_bad_examples_are_dropped_and_counted_by_reason(tmp_path, bad, reason):
    good = [example(i) for i in range(40)]
    rendered = render(tmp_path, {"examples": [example(**bad), *good]})
    assert len(rendered) == 40
    assert rendered.dropped == {f"bad: {reason}": 1}
    with pytest.raises(errors.DataError, match=reason):
        render(tmp_path, {"examples": [example(**bad), *good[:9]]})


@pytest.mark.parametrize("field", ["input", "target_scores"])
def test_missing_fields_are_counted(tmp_path, field):
    bad = {key: value for key, value in example().items() if key != field}
    rendered = render(tmp_path, {"examples": [bad, *(example(i) for i in range(40))]})
    assert rendered.dropped == {f"bad: {templates.MISSING_FIELD}": 1}


def test_an_example_that_is_no_object_is_counted(tmp_path):
    rendered = render(tmp_path, {"examples": [7, *(example(i) for i in range(40))]})
    assert rendered.dropped == {f"bad: {templates.WRONG_TYPE}": 1}


def test_bytes_that_are_not_utf8_cost_their_example_alone(tmp_path):
    text = json.dumps({"examples": [example(i) for i in range(40)]}).encode()
    rendered = render(tmp_path, text.replace(b"Is 3 even", b"Is \xff even"))
    assert len(rendered) == 39
    assert rendered.dropped == {f"bad: {templates.NOT_UTF8}": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON: Expecting property name"),
        ("", "no JSON: Expecting value"),
        ("[" * 100_000, "more than 64 lists"),
        *(
            (DEEP % (depth * "[", depth * "]"), "more than 64 lists")
            for depth in DEPTHS
        ),
        ([], "'list' object"),
        ({"name": "a task of subtasks", "keywords": []}, "KeyError: 'examples'"),
        ({"examples": {"a": 1}}, "examples is no list"),
        ({"examples": [], "task_prefix": None}, "task_prefix is None, no text"),
        ({"examples": [], "choice_prefix": 3}, "choice_prefix is 3, no text"),
        ({"examples": [], "append_choices_to_input": 0}, "is 0, no truth value"),
        ({"examples": []}, "is empty"),
    ],
)
def test_a_file_that_is_no_multiple_choice_task_is_a_typed_error(
    tmp_path, content, message
):
    with pytest.raises(errors.DataError, match=message) as raised:
        render(tmp_path, content)
    assert "Expected:" in str(raised.value)


def test_skipped_examples_say_why():
    content = {"examples": [example(), example()]}
    assert list(bigbench_files.rows(content, "all"))[1] == sources.Skipped(
        "an earlier example again"
    )
