import json
import pathlib
import re

import pytest

from elm_jax import errors
from elm_jax.data import known_files, template_files, templates
from tests.data import make_known_files

MERGES = "m0: &m0 {k: v}\n" + "".join(
    f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
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
    loaded = template_files.TemplateRef("birds", "fly?", "small").load(str(folder))
    assert loaded.metrics == ("Accuracy",)
    assert loaded.original_task
    rendered = loaded.render({"bird": "a kiwi", "label": 0}, seed=0)
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


@pytest.mark.slow
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
        "deep block": "- " * 100_000 + "a",
        "deep flow": "x: " + "[" * 30_000 + "]" * 30_000,
        "merges of merges": MERGES,
        "a number to the base 60": "x: 1" + ":59" * 1_300_000,
        "a fraction to the base 60": "x: 1" + ":59" * 1_300_000 + ".5",
        "metrics as a text": YAML.replace("\n      - Accuracy", " Accuracy"),
        "no UTF-8": b"\xff\xfe",
    }
    for name, text in hostile.items():
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(errors.TemplateError, match="not a PromptSource file"):
            template_files.load_templates(str(folder), "birds", "small")
        assert name


def test_only_a_file_known_by_its_hash_is_believed(tmp_path):
    ours = pathlib.Path(template_files.__file__).parents[2] / "tasks/own_words"
    (name,) = list(template_files.load_templates(str(ours), "dream"))[:1]
    ref = template_files.TemplateRef("dream", name, folder=str(ours))
    assert ref.load("").is_known
    copied = tmp_path / "dream" / "templates.yaml"
    copied.parent.mkdir()
    content = (ours / "dream" / "templates.yaml").read_bytes()
    for added, is_known in ((b"", True), (b"\n", False)):
        copied.write_bytes(content + added)
        loaded = template_files.TemplateRef("dream", name).load(str(tmp_path))
        assert loaded.is_known == is_known
        assert loaded.sha256 == ref.load("").sha256


def test_the_list_of_known_files_is_that_of_this_checkout(official_templates):
    listed = known_files.LIST.read_text("utf-8").splitlines()
    official = pathlib.Path(official_templates)
    official_lines = [*make_known_files.lines_of(official, root=official.parent)]
    ours = [*make_known_files.lines_of(make_known_files.ROOT / "tasks")]
    do = "run python tests/data/make_known_files.py TEMPLATES_DIR"
    assert listed == official_lines + ours, do


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
            official, facts = (
                collection[prompt["template_name"]],
                prompt["promptsource"],
            )
            assert official.jinja_sha256 == facts["jinja_sha256"], official.name
            assert official.id == facts["id"]
            assert sorted(official.metrics) == sorted(facts["metrics"])
            assert official.original_task == facts["original_task"]
            name = templates.task_name(*place, official.name)
            assert name == prompt["t0_seqio_task_name"]
            count += 1
    assert count == 296


@pytest.mark.slow
def test_every_official_template_compiles(official_templates):
    root = pathlib.Path(official_templates)
    count = 0
    for path in root.rglob("templates.yaml"):
        place = path.parent.relative_to(root)
        dataset, subset = (
            (place.parent, place.name) if place.parent.name else (place, None)
        )
        for official in template_files.load_templates(
            official_templates, str(dataset), subset
        ).values():
            official.check()
            count += 1
    assert count == 2085
