import pytest

from elm_jax import errors
from elm_jax.data import rendering, sources, tasks, templates

PROMPT = templates.Template(
    "t", "1", "{% if show %}{{q}} ||| {{a}}{% endif %}", '{{c | join("|||")}}'
)


def row(*, a="x", c=("x", "y"), show=True, q="Which?"):
    return {"q": q, "a": a, "c": list(c) if isinstance(c, tuple) else c, "show": show}


@pytest.fixture
def render(data_options):
    def run(rows, *, template=PROMPT, max_bad_share=0.05):
        task = tasks.Task(
            name="made",
            dataset="made",
            prompt="t",
            cluster="none",
            source=sources.GeneratedRows(lambda split: rows, version="1"),
            template=template,
            metrics=(),
            max_bad_share=max_bad_share,
        )
        return rendering.render_split(task, "train", data_options)

    return run


def test_ids_are_places_in_the_source_whatever_is_dropped(render):
    rendered = render([row(show=False), row(), sources.Skipped("why"), row(a="y")])
    assert rendered.example_ids == [1, 3]
    assert rendered.labels == [0, 1]
    assert rendered.num_rows == 4
    assert rendered.dropped == {"renders to nothing": 1, "skipped: why": 1}


def test_a_few_bad_rows_are_counted_and_many_are_an_error(render):
    rows = [row() for _ in range(39)] + [row(a="z")]
    rendered = render(rows)
    assert len(rendered) == 39
    assert rendered.dropped == {"bad: no correct choice": 1}
    with pytest.raises(errors.DataError, match="2 of 38 rows in train of task 'made'"):
        render([*rows[3:], row(c=["x"])])


def test_a_document_without_text_is_a_bad_row(data_options):
    for null in (None, float("nan")):
        rows = [{"text": "One."}, {"text": null}]
        source = sources.GeneratedRows(lambda split, rows=rows: rows, version="1")
        with pytest.raises(errors.DataError, match="1 of 2 rows .* are bad, .* row 1"):
            rendering.render_split(tasks.TextTask("t", source), "train", data_options)


def test_reasons_are_told_with_their_counts(render):
    rows = [row(), row(a="z"), row(c=[]), row(a="z")]
    message = "2 x bad: no correct choice, 1 x bad: fewer than two choices"
    with pytest.raises(errors.DataError, match=message):
        render(rows)


def test_the_first_row_of_each_reason_is_kept(render):
    rendered = render(
        [row(), row(c=[]), row(a="z"), row(a="z"), row(c=[])], max_bad_share=0.9
    )
    assert rendered.first_bad == {
        "bad: fewer than two choices": "row 1: fewer than two choices",
        "bad: no correct choice": "row 2: no correct choice",
    }


def test_the_first_bad_row_is_named(render):
    with pytest.raises(errors.DataError, match="the first is row 1: no correct choice"):
        render([row(), row(a="z"), row(c=[])])


def test_a_template_without_choices_needs_no_correct_one(render):
    free = templates.Template("t", "1", "{{q}} ||| {{a}}")
    rendered = render([row(a="z")], template=free)
    assert rendered.labels == [-1]
    assert rendered.choices == [()]


def test_of_equal_choices_the_first_is_the_label(render):
    assert render([row(c=["y", "x", "x"])]).labels == [1]


@pytest.mark.parametrize("rows", [[], [row(show=False)] * 3])
def test_an_empty_split_says_what_became_of_its_rows(render, rows):
    with pytest.raises(errors.DataError, match="is empty") as raised:
        render(rows)
    assert not rows or "3 x renders to nothing" in str(raised.value)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"q": "Which?", "show": True, "c": ["x", "y"]}, "missing field"),
        (row(c=7), "wrong type"),
        (row(c=[]), "fewer than two choices"),
        (row(a="z"), "no correct choice"),
        (row(q="half a smile \ud83d"), "not UTF-8"),
        (row(q="a" * 2**20), "too long"),
        ("no mapping", "wrong type"),
    ],
)
def test_each_kind_of_bad_row_is_counted_by_its_reason(render, bad, reason):
    rendered = render([row()] * 19 + [bad])
    assert rendered.dropped == {f"bad: {reason}": 1}
    assert len(rendered) == 19
    with pytest.raises(errors.DataError, match=reason):
        render([row()] * 19 + [bad], max_bad_share=0.04)


def test_a_label_outside_the_choices_is_a_bad_row(render):
    by_label = templates.Template("t", "1", "{{q}} ||| {{answer_choices[l]}}", "a|||b")
    rows = [{"q": "?", "l": label} for label in (0, 1, -1, 2)]
    rendered = render(rows, template=by_label, max_bad_share=0.5)
    assert rendered.labels == [0, 1]
    assert rendered.dropped == {f"bad: {templates.MISSING_ITEM}": 2}


def test_a_template_that_fits_no_row_is_told(render):
    with pytest.raises(errors.TemplateError, match="'absent' is undefined"):
        render([row()], template=templates.Template("t", "1", "{{absent}} ||| b"))


def test_an_unknown_split_is_told_with_those_there_are(colours, data_options):
    with pytest.raises(errors.DataError, match="one of train, validation, test"):
        rendering.render_split(colours, "valid", data_options)


def test_documents_are_kept_whole_and_need_their_field(data_options):
    rows = [{"text": " One. "}, {"text": ""}, {"text": "Two."}]
    source = sources.GeneratedRows(lambda split: rows, version="1")
    rendered = rendering.render_split(
        tasks.TextTask("t", source), "train", data_options
    )
    assert rendered.targets == ["One.", "Two."]
    assert rendered.dropped == {"renders to nothing": 1}
    with pytest.raises(errors.DataError, match="Did you mean: text"):
        rendering.render_split(
            tasks.TextTask("t", source, "txt"), "train", data_options
        )
