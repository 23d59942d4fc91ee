import dataclasses

import hypothesis
import hypothesis.strategies as st
import pytest

from elm_jax import errors
from elm_jax.data import templates


def template(jinja, answer_choices=None):
    return templates.Template("t", "1", jinja, answer_choices)


@pytest.mark.slow
@hypothesis.given(st.text(), st.text())
def test_text_of_a_row_never_splits_the_prompt(first, second):
    rendered = template("a{{x}}b ||| c{{y}}d").render({"x": first, "y": second}, seed=0)
    assert rendered == (f"a{first}b", f"c{second}d", ())


def test_choices_that_hold_the_separator_stay_whole():
    rendered = template(
        "{{q}} ||| {{answer_choices[1]}}", '{{ c | join("|||") }}'
    ).render({"q": "?", "c": ["a ||| b", "c"]}, seed=0)
    assert rendered.choices == ("a ||| b", "c")
    assert rendered.targets == "c"


def test_no_character_of_a_row_parts_its_choices_or_shifts_its_label():
    pick = template("pick ||| {{ answer_choices[label] }}", "{{ c | join('|||') }}")
    for icon in (
        "\ue000",
        "\ue001\ue000\ue002",
        "".join(map(chr, range(0xE000, 0xE100))),
    ):
        row = {"c": [f"{icon} home", "left", "right"], "label": 1}
        rendered = pick.render(row, seed=0)
        assert rendered == ("pick", "left", (f"{icon} home", "left", "right"))
    every = {"c": ["".join(map(chr, range(0xE000, 0xF900))), "b"], "label": 1}
    with pytest.raises(templates.RowError) as raised:
        pick.render(every, seed=0)
    assert raised.value.reason == templates.NO_MARK
    rendered_text = template("{{ 'a\ue000b' }} ||| {{ x }}").render({"x": "c"}, seed=0)
    assert rendered_text == ("a\ue000b", "c", ())


def test_random_choices_are_a_function_of_the_seed():
    pick = template("{{ ['a', 'b', 'c', 'd'] | choice }} ||| x")
    texts = [pick.render({}, seed=f"train/{i}").inputs for i in range(40)]
    assert texts == [pick.render({}, seed=f"train/{i}").inputs for i in range(40)]
    assert set(texts) == set("abcd")


def test_promptsource_functions_are_there():
    loop = "{% for a, b in zip(x, y) %}{{a}}{{b}} {% endfor %}"
    jinja = loop + " ||| {{ x | most_frequent | join }}"
    rendered = template(jinja).render({"x": "aab", "y": [1, 2, 3]}, seed=0)
    assert rendered[:2] == ("a1 a2 b3", "a")


@pytest.mark.parametrize(
    "jinja",
    [
        "{% if x %}a ||| b{% endif %}",
        "{{ x }} ||| b",
        "a ||| {{ x }}",
        "{% if x %}a{% endif %}{% if x %} ||| b{% endif %}",
    ],
)
def test_rows_that_render_to_nothing_give_none(jinja):
    assert template(jinja).render({"x": ""}, seed=0) is None


@pytest.mark.parametrize(
    "jinja",
    [
        "{{ x.__class__.__mro__ }}",
        "{{ x.__init__.__globals__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ self._TemplateReference__context }}",
        "{{ zip.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('true') }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{% set y.a = 1 %}",
    ],
)
def test_untrusted_text_reaches_no_objects_and_changes_no_row(jinja):
    row = {"x": "a", "y": [], "z": {}}
    with pytest.raises((errors.TemplateError, templates.RowError)):
        template(jinja + " ||| b").render(row, seed=0)
    assert row == {"x": "a", "y": [], "z": {}}


def test_a_field_that_rows_lack_is_named_with_those_present():
    with pytest.raises(templates.RowError, match="'contxt' is undefined") as raised:
        template("{{contxt}} ||| {{answer}}").render(
            {"context": 1, "answer": 2}, seed=0
        )
    assert "the row has answer, context" in str(raised.value)
    assert raised.value.reason == templates.MISSING_FIELD


def test_a_field_may_be_tested_for():
    jinja = "{% if x is defined %}a{% else %}b{% endif %} ||| c"
    assert template(jinja).render({}, seed=0).inputs == "b"


@pytest.mark.parametrize(
    ("jinja", "reason"),
    [
        ("{{ x[3] }} ||| a", "missing item"),
        ("{{ x[n] }} ||| a", "missing item"),
        ("{{ x[0].k }} ||| a", "missing item"),
        ("{{ x.index(9) }} ||| a", "ValueError"),
        ("{{ 1 / 0 }} ||| a", "ZeroDivisionError"),
        ("{{ x + 1 }} ||| a", "wrong type"),
        ("a ||| b ||| c", "more than one separator"),
    ],
)
def test_a_row_that_does_not_fit_is_told_by_a_countable_reason(jinja, reason):
    with pytest.raises(templates.RowError) as raised:
        template(jinja).render({"x": [1], "n": -1}, seed=0)
    assert raised.value.reason.startswith(reason)


def test_a_row_of_a_million_characters_is_a_bad_row():
    with pytest.raises(templates.RowError) as raised:
        template("{{x}} ||| a").render({"x": "a", "y": ["b" * 10**6]}, seed=0)
    assert raised.value.reason == templates.TOO_LONG


def test_a_text_of_a_million_characters_is_a_bad_row():
    with pytest.raises(templates.RowError) as raised:
        template("{{ x * 2000 }} ||| a").render({"x": "a" * 1000}, seed=0)
    assert raised.value.reason == templates.TOO_LONG


def test_a_field_without_a_text_as_its_name_is_a_bad_row():
    with pytest.raises(templates.RowError, match="whose name is 5"):
        template("{{x}} ||| a").render({"x": "a", 5: "b"}, seed=0)


def test_a_row_that_is_nested_deep_is_a_bad_row():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for jinja in ("{{ x }} ||| a", "{{ x.append(1) }} ||| a"):
        with pytest.raises(templates.RowError):
            template(jinja).render({"x": deep, "n": None}, seed=0)


def test_values_are_cut_as_promptsource_does_only_when_asked():
    long = {"x": "word " * 600, "c": ["w" * 3000, "b"]}
    cutting = templates.Template(
        *("t", "1", "{{x}} and {{ c[0] }} ||| {{ answer_choices[0] }}"),
        answer_choices="{{ c | join('|||') }}",
        max_value_chars=templates.PROMPTSOURCE_CHARS,
    )
    rendered = cutting.render(long, seed=0)
    assert rendered is not None
    first, second = rendered.inputs.split(" and ")
    assert first == "word " * 408 + "word..."
    assert second == "w" * 2045 + "..."
    assert rendered.targets == "w" * 2045 + "..."
    assert rendered.choices[0] == "w" * 3000
    whole = dataclasses.replace(cutting, max_value_chars=0)
    assert whole.sha256 != cutting.sha256
    assert whole.render(long, seed=0)[0] == f"{long['x']} and {'w' * 3000}"


def test_malformed_templates_are_told():
    with pytest.raises(errors.TemplateError, match="no |||"):
        template("no separator").render({}, seed=0)
    with pytest.raises(errors.TemplateError, match="line 1"):
        template("{{ a ||| b").render({}, seed=0)
