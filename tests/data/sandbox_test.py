import pytest

from elm_jax import errors
from elm_jax.data import templates

ROW = {"x": "a b c", "y": ["p", "q"], "n": 3, "d": {"k": "v"}, "long": "word " * 2000}

ESCAPES = {
    "attribute walk": "{{ x.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ x | attr('__class__') }}",
    "map attribute": "{{ y | map(attribute='__class__') | list }}",
    "sort attribute": "{{ y | sort(attribute='__class__') }}",
    "globals of a function": "{{ zip.__globals__ }}",
    "globals of a namespace": "{{ namespace.__init__.__globals__ }}",
    "loop object": "{% for a in y %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "self": "{{ self._TemplateReference__context }}",
    "import": "{% import 'os' as os %}",
    "from import": "{% from 'os' import path %}",
    "include": "{% include '/etc/passwd' %}",
    "include itself": "{% include 'templates.yaml' ignore missing %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block a %}{{ self.a() }}{% endblock %}",
    "macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "call block": "{% call f() %}{% endcall %}",
    "recursive loop": "{% for a in y recursive %}{{ loop(y) }}{% endfor %}",
    "do": "{% do x.lower() %}",
    "format method": "{{ '{0.__class__.__mro__}'.format(x) }}",
    "format_map method": "{{ '{x.__class__}'.format_map(d) }}",
    "format width": "{{ '{:>9999999999}'.format(x) }}",
    "center": "{{ x | center(10 ** 9) }}",
    "center method": "{{ x.center(10 ** 9) }}",
    "ljust method": "{{ x.ljust(10 ** 9) }}",
    "zfill method": "{{ x.zfill(10 ** 9) }}",
    "expandtabs method": "{{ x.expandtabs(10 ** 9) }}",
    "indent": "{{ x | indent(10 ** 9) }}",
    "batch": "{{ y | batch(10 ** 9, 'x') | list }}",
    "slice": "{{ y | slice(10 ** 9) | list }}",
    "to_bytes": "{{ n.to_bytes(10 ** 10, 'big') }}",
    "lipsum": "{{ lipsum(n=10 ** 9) }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('true') }}",
    "a block of text": "{% set a %}{{ long }}{% endset %}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 150 + "1" + "]" * 150 + " }}",
    "a long sum": "{{ 1" + " + 1" * 5000 + " }}",
    "a long literal": "{{ " + "9" * 9000 + " }}",
    "a long template": "x" * 10**6,
    "many statements": "{% if x %}a{% endif %}" * 2500,
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_that_reaches_for_more_than_a_row_is_refused(name):
    hostile = templates.Template("t", "1", f"{ESCAPES[name]} ||| a")
    with pytest.raises((errors.TemplateError, templates.RowError)) as raised:
        hostile.render(ROW, seed=0)
    # A few are only undefined names, which is a bad row and stops no build of others.
    missing = ("lipsum", "cycler", "self")
    assert isinstance(raised.value, errors.TemplateError) or name in missing
    in_choices = templates.Template("t", "1", "a ||| b", ESCAPES[name])
    with pytest.raises((errors.TemplateError, templates.RowError)):
        in_choices.render(ROW, seed=0)


@pytest.mark.parametrize(
    "jinja",
    [
        *("{{ range }}", "{{ x.upper }}", "{{ x['upper'] }}", "{{ [zip] }}"),
        *("{{ '%r' % range }}", "{{ '%s' | format(x.upper) }}", "{{ x.upper ~ '' }}"),
        *("{{ range | string }}", "{{ [range] | join }}", "{{ {'k': x.upper} }}"),
        *("{{ '-'.join([x.upper]) }}", "{{ y | map(attribute='upper') | list }}"),
        *("{{ x.upper.fn }}", "{{ x | replace('a', x.upper) }}", "{{ d.items }}"),
        "{% for a in y %}{{ loop.cycle }}{% endfor %}",
    ],
)
def test_a_function_has_no_text_as_its_address_differs_between_processes(jinja):
    for texts in ((f"{jinja} ||| a", None), ("a ||| b", jinja)):
        with pytest.raises(errors.TemplateError, match="the function"):
            templates.Template("t", "1", *texts).render(ROW, seed=0)


def test_the_row_stays_as_it_was():
    row = {"y": ["p"], "d": {"k": "v"}}
    jinja = "{{ y.append(1) or '' }}{{ d.update({'k': 2}) or '' }}{{ y }}{{ d }} ||| a"
    rendered = templates.Template("t", "1", jinja).render(row, seed=0)
    assert rendered is not None
    assert rendered.inputs == "['p', 1]{'k': 2}"
    assert row == {"y": ["p"], "d": {"k": "v"}}


@pytest.mark.parametrize(
    ("jinja", "expected"),
    [
        ("{{ y | map('upper') | join(', ') }}", "P, Q"),
        ("{{ x.split(' ')[-1] }}{{ x[:3] }}", "ca b"),
        ("{{ 'a' ~ n ~ y }}", "a3['p', 'q']"),
        ("{% for a, b in zip(y, 'ab') %}{{ loop.cycle(1, 2) }}{% endfor %}", "12"),
        ("{% set s = namespace(t=0) %}{% for a in y %}{% set s.t = s.t + 1 %}"
         "{% endfor %}{{ s.t }}", "2"),
        ("{{ '%.2f' | format(n) }}{{ '%s' % x }}", "3.00a b c"),
        ("{{ x | replace(' ', '-') }}{{ x.replace('a', 'b') }}", "a-b-cb b c"),
        ("{{ '-'.join(y) }}{{ y * 2 }}{{ 2 ** n }}", "p-q['p', 'q', 'p', 'q']8"),
        ("{{ d.items() | list }}{{ d.k }}", "[('k', 'v')]v"),
        ("{{ q | default('none') }}{{ x is defined }}", "noneTrue"),
        ("{{ y | selectattr('a', 'defined') | list | length }}", "0"),
        ("{{ long | length }}", "10000"),
        ("{{ y | sort(reverse=true) | first }}{{ [3, 1] | min }}", "q1"),
        ("{{ 'p' in y and n > 2 }}", "True"),
    ],
)  # fmt: skip
def test_what_templates_need_is_there(jinja, expected):
    rendered = templates.Template("t", "1", f"{jinja} ||| a").render(ROW, seed=0)
    assert rendered is not None
    assert rendered.inputs == expected


@pytest.mark.parametrize("null", [None, float("nan")])
@pytest.mark.parametrize(
    "jinja",
    [
        *("{{ v }}", "{{ 'a' ~ v }}", "{{ l }}", "{{ l | join }}", "{{ d }}"),
        *("{{ '-'.join(l) }}", "{{ '%s' % v }}", "{{ '%s' | format(v) }}"),
        *("{{ v | string }}", "{{ v | lower }}", "{{ v | trim }}", "{{ d.a }}"),
        *("{{ v | replace('a', 'b') }}", "{{ 'a' | replace('a', v) }}"),
        *("{{ v | int }}", "{{ l[v | int] }}", "{{ v | float }}", "{{ d.get('z') }}"),
        *(
            "{{ none }}",
            "{{ d.get('z') ~ 'a' }}",
            "{{ y | map(attribute='k') | list }}",
        ),
        *("{{ [v] }}", "{{ v | truncate(9) }}", "{{ [d.get('z')] | join }}"),
        "{% for one in l %}{{ one }}{% endfor %}",
        "{{ x if x == 'b' else v }}",
    ],
)
def test_no_way_to_print_leads_to_the_name_of_nothing(jinja, null):
    row = {"x": "a", "v": null, "l": ["a", null], "d": {"a": null}, "y": [{"k": null}]}
    with pytest.raises(templates.RowError) as raised:
        templates.Template("t", "1", f"{jinja} ||| a").render(row, seed=0)
    assert raised.value.reason == templates.NULL_VALUE
    choices = templates.Template("t", "1", "a ||| b", f"a ||| {jinja}")
    with pytest.raises(templates.RowError):
        choices.render(row, seed=0)


@pytest.mark.parametrize("null", [None, float("nan")])
@pytest.mark.parametrize(
    ("jinja", "expected"),
    [
        ("{{ 'no' if v is none else v }}", "no"),
        ("{{ 'no' if v == none else v }}{{ v is not none }}", "noFalse"),
        ("{% if not v %}no{% endif %}", "no"),
        ("{{ v or 'no' }}{{ v | default('no', true) }}", "nono"),
        ("{{ v | int(-1) }}{{ v | int(default=7) }}", "-17"),
        ("{{ none in l }}{{ v in l }}{{ l | length }}", "TrueTrue2"),
        ("{{ l | select | join }}{{ l | reject('none') | join }}", "aa"),
        ("{{ v is string }}{{ v is defined }}{{ v is mapping }}", "FalseTrueFalse"),
        ("{{ l.append(1) | replace(none, '') }}{{ l | length }}", "3"),
    ],
)
def test_nothing_may_be_tested_counted_and_replaced(jinja, expected, null):
    row = {"v": null, "l": ["a", null]}
    rendered = templates.Template("t", "1", f"{jinja} ||| a").render(row, seed=0)
    assert rendered is not None
    assert rendered.inputs == expected
    assert row["l"][0] == "a"
    assert len(row["l"]) == 2


def test_a_text_that_is_no_number_is_no_label():
    pick = templates.Template("t", "1", "q ||| {{ ['a', 'b'][label | int] }}")
    assert pick.render({"label": "1"}, seed=0) == ("q", "b", ())
    for label in ("", "one"):
        with pytest.raises(templates.RowError, match="is no number"):
            pick.render({"label": label}, seed=0)


def test_a_name_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(errors.TemplateError, match="templates may use abs, capitalize"):
        templates.Template("t", "1", "{{ x | center(9) }} ||| a").check()
