import dataclasses
import json
import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest

from elm_jax import errors
from elm_jax.data import templates

YAML = """\
dataset: birds
subset: small
templates:
  aaaa: !Template
    answer_choices: no ||| yes
    id: aaaa
    jinja: 'Does {{bird}} fly? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      languages:
      - en
      metrics:
      - Accuracy
      original_task: true
    name: fly?
    reference: ''
"""


def template(jinja, answer_choices=None):
    return templates.Template("t", "1", jinja, answer_choices)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "birds" / "small"
    place.mkdir(parents=True)
    (place / "templates.yaml").write_text(YAML)
    return tmp_path


def test_a_template_is_read_and_rendered(folder):
    found = templates.TemplateRef("birds", "fly?", "small").load(str(folder))
    assert found.metrics == ("Accuracy",)
    assert found.original_task
    rendered = found.render({"bird": "a kiwi", "label": 0}, seed=0)
    assert rendered == ("Does a kiwi fly?", "no", ("no", "yes"))


@hypothesis.given(st.text(), st.text())
def test_text_of_a_row_never_splits_the_prompt(one, other):
    rendered = template("a{{x}}b ||| c{{y}}d").render({"x": one, "y": other}, seed=0)
    if templates._MARK not in one + other:
        assert rendered == (f"a{one}b", f"c{other}d", ())


def test_choices_that_hold_the_separator_stay_whole():
    rendered = template(
        "{{q}} ||| {{answer_choices[1]}}", '{{ c | join("|||") }}'
    ).render({"q": "?", "c": ["a ||| b", "c"]}, seed=0)
    assert rendered.choices == ("a ||| b", "c")
    assert rendered.targets == "c"


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


def test_values_are_cut_as_promptsource_does_only_when_asked():
    long = {"x": "word " * 600, "c": ["w" * 3000, "b"]}
    asked = templates.Template(
        *("t", "1", "{{x}} and {{ c[0] }} ||| {{ answer_choices[0] }}"),
        answer_choices="{{ c | join('|||') }}",
        max_value_chars=templates.PROMPTSOURCE_CHARS,
    )
    found = asked.render(long, seed=0)
    assert found is not None
    first, second = found.inputs.split(" and ")
    assert first == "word " * 408 + "word..."
    assert second == "w" * 2045 + "..."
    assert found.targets == "w" * 2045 + "..."
    assert found.choices[0] == "w" * 3000
    whole = dataclasses.replace(asked, max_value_chars=0)
    assert whole.sha256 != asked.sha256
    assert whole.render(long, seed=0)[0] == f"{long['x']} and {'w' * 3000}"


def test_malformed_templates_are_told():
    with pytest.raises(errors.TemplateError, match="no |||"):
        template("no separator").render({}, seed=0)
    with pytest.raises(errors.TemplateError, match="line 1"):
        template("{{ a ||| b").render({}, seed=0)


def test_missing_folder_file_and_name_are_told(folder):
    ref = templates.TemplateRef
    for where in ("", str(folder / "none")):
        with pytest.raises(errors.TemplateError, match="no template folder"):
            ref("birds", "fly?", "small").load(where)
    with pytest.raises(errors.TemplateError, match="Did you mean: birds/small"):
        ref("bird", "fly?", "small").load(str(folder))
    with pytest.raises(errors.TemplateError, match=r"Did you mean: fly\?"):
        ref("birds", "fly", "small").load(str(folder))


def test_a_hostile_file_is_told(folder):
    path = folder / "birds" / "small" / "templates.yaml"
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
    )
    hostile = {
        "no text": YAML.replace("no ||| yes", "[no, yes]"),
        "shared lists": laughs + YAML.replace("no ||| yes", "*a39"),
        "too large": YAML + "# " + "x" * (5 << 20),
        "too deep": "templates: " + "[" * 20000,
    }
    for name, text in hostile.items():
        path.write_text(text)
        with pytest.raises(errors.TemplateError, match="not a PromptSource file"):
            templates.load_templates(str(folder), "birds", "small")
        assert name


def test_yaml_may_not_make_other_objects(folder):
    path = folder / "birds" / "small" / "templates.yaml"
    path.write_text("templates: !!python/object/apply:os.getcwd []")
    with pytest.raises(errors.TemplateError, match="not a PromptSource file"):
        templates.load_templates(str(folder), "birds", "small")


def test_every_official_text_has_the_recorded_hash(official_templates, facts_dir):
    facts = json.loads((facts_dir / "train_prompts.json").read_text())
    count = 0
    for dataset in facts["datasets"]:
        place = (dataset["hf_name"], dataset["hf_config"])
        collection = templates.load_templates(official_templates, *place)
        for prompt in dataset["prompts"]:
            found, facts = collection[prompt["template_name"]], prompt["promptsource"]
            assert found.jinja_sha256 == facts["jinja_sha256"], found.name
            assert found.id == facts["id"]
            assert sorted(found.metrics) == sorted(facts["metrics"])
            assert found.original_task == facts["original_task"]
            name = templates.task_name(*place, found.name)
            assert name == prompt["t0_seqio_task_name"]
            count += 1
    assert count == 296


def test_every_official_template_compiles(official_templates):
    root = pathlib.Path(official_templates)
    count = 0
    for path in root.rglob("templates.yaml"):
        place = path.parent.relative_to(root)
        dataset, subset = (
            (place.parent, place.name) if place.parent.name else (place, None)
        )
        for found in templates.load_templates(
            official_templates, str(dataset), subset
        ).values():
            found.check()
            count += 1
    assert count == 2085
