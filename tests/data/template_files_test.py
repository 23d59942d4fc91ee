import json
import pathlib
import re

import pytest

from elm_jax import errors
from elm_jax.data import template_files, templates

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


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "birds" / "small"
    place.mkdir(parents=True)
    (place / "templates.yaml").write_text(YAML)
    return tmp_path


def test_a_template_is_read_and_rendered(folder):
    found = template_files.TemplateRef("birds", "fly?", "small").load(str(folder))
    assert found.metrics == ("Accuracy",)
    assert found.original_task
    rendered = found.render({"bird": "a kiwi", "label": 0}, seed=0)
    assert rendered == ("Does a kiwi fly?", "no", ("no", "yes"))


def test_missing_folder_file_and_name_are_told(folder):
    ref = template_files.TemplateRef
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
            template_files.load_templates(str(folder), "birds", "small")
        assert name


def test_of_two_templates_of_one_name_none_wins(folder):
    path = folder / "birds" / "small" / "templates.yaml"
    second = YAML.partition("templates:\n")[2].replace("Does", "Can")
    for name, text in (("'fly?'", second.replace("aaaa", "bbbb")), ("'aaaa'", second)):
        path.write_text(YAML + text)
        with pytest.raises(
            errors.TemplateError, match=f"several entries named {re.escape(name)}"
        ):
            template_files.load_templates(str(folder), "birds", "small")


def test_yaml_may_not_make_other_objects(folder):
    path = folder / "birds" / "small" / "templates.yaml"
    path.write_text("templates: !!python/object/apply:os.getcwd []")
    with pytest.raises(errors.TemplateError, match="not a PromptSource file"):
        template_files.load_templates(str(folder), "birds", "small")


def test_every_official_text_has_the_recorded_hash(official_templates, facts_dir):
    facts = json.loads((facts_dir / "train_prompts.json").read_text())
    count = 0
    for dataset in facts["datasets"]:
        place = (dataset["hf_name"], dataset["hf_config"])
        collection = template_files.load_templates(official_templates, *place)
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
        for found in template_files.load_templates(
            official_templates, str(dataset), subset
        ).values():
            found.check()
            count += 1
    assert count == 2085
