"""The generative tasks: names, splits, prompts, and Continual-T0's own files."""

import json

import pytest

from elm_jax import errors
from elm_jax.data import rendering, serving, tasks
from tasks import generative, written

EXAMPLES = tasks.DataOptions("", sources=("examples",))
MIXTURES = {mixture.name: mixture for mixture in generative.MIXTURES}
BY_NAME = {task.name: task for task in generative.TASKS}


def test_the_counts_are_the_papers_and_names_are_the_original_codes(facts_dir):
    assert len(MIXTURES["elm_generative"].tasks) == 16
    assert len(MIXTURES["elm_continual_train"].tasks) == 10
    assert MIXTURES["elm_continual_train"].cap("haiku_do_nothing") == 100_000
    facts = json.loads((facts_dir / "eval_tasks.json").read_text())["generative_ct0"]
    assert len(facts["tasks"]) == 8
    keys, prompts, trained = set(), set(), set()
    for task in facts["tasks"]:
        for key in task["elm_keys"]:
            keys.add(key)
            prompts |= {(key, prompt) for prompt in task["eval_prompts"]}
        first = task["elm_keys"][0]
        trained |= {(first, prompt) for prompt in task["train_prompts"]}
    assert {task.dataset for task in generative.TASKS} == keys
    assert {(task.dataset, task.prompt) for task in generative.TASKS} == prompts
    ours = [BY_NAME[name] for name in MIXTURES["elm_continual_train"].tasks]
    assert {(task.dataset, task.prompt) for task in ours} == trained


def test_every_prompt_renders_the_made_rows_and_reads_the_fields_of_the_table():
    for name, entry in written.read("generative").items():
        for prompt in entry.prompts:
            task = next(
                t
                for t in generative.TASKS
                if t.dataset == name and t.prompt == prompt.name
            )
            task.template.load("").check()
            rendered = rendering.render_split(task, "eval_300", EXAMPLES)
            assert len(rendered) == len(entry.examples) >= 2
            assert not any(rendered.choices)
            less = [{k: row[k] for k in prompt.fields} for row in entry.examples]
            again = rendering.render_rows(
                less, split="eval_300", template=task.template
            )
            assert again.inputs == rendered.inputs
            assert again.targets == rendered.targets


@pytest.mark.parametrize("kind", ["make_a_title", "write_its_sentence"])
def test_constraints_are_words_of_the_headline(kind):
    rows = [{"document": "a b c", "summary": "one two three"}] * 40
    for constraint, allowed in (
        ("start", {"one"}),
        ("contain", {"one", "two", "three"}),
        ("end", {"three"}),
    ):
        task = BY_NAME[f"ct0_gigaword_constrain_{constraint}_{kind}"]
        rendered = rendering.render_rows(rows, split="test", template=task.template)
        words = {text.split('"')[1] for text in rendered.inputs}
        assert words == allowed
        assert len(set(rendered.inputs)) == 2 * len(allowed)  # two ways to ask


def test_no_row_is_judged_that_is_trained_on():
    for task in generative.TASKS:
        judged = serving.Part.parse(task.splits["eval_300"])
        if "train" not in task.splits:
            continue
        trained = serving.Part.parse(task.splits["train"])
        if trained.split == judged.split:
            assert trained.seed == judged.seed == 42
            assert trained.start == judged.stop == 300
        # The original code trains and judges on the same rows of COVID-QA only.
        elm = serving.Part.parse(task.splits.get("train@elm", task.splits["train"]))
        assert (elm.split == judged.split) == (task.dataset == "covid_qa")


def test_protocol_elm_takes_the_first_rows(tmp_path):
    lines = [
        {"translation": {"en1": f"ask {n}", "en2": f"haiku {n}"}} for n in range(400)
    ]
    (tmp_path / "haiku").mkdir()
    (tmp_path / "haiku/haikutest.json").write_text("\n".join(map(json.dumps, lines)))
    folder = tmp_path / "ct0_data/eSNLI"
    folder.mkdir(parents=True)
    content = {"src": [f"p{n}" for n in range(400)], "tgt": ["t"] * 400}
    (folder / "explain_why.test.json").write_text(json.dumps(content))
    ours = tasks.DataOptions("", str(tmp_path))
    elm = tasks.DataOptions("", str(tmp_path), protocol="elm")
    haiku, esnli = BY_NAME["haiku_do_nothing"], BY_NAME["esnli_explain_why"]
    drawn = rendering.render_split(haiku, "eval_300", ours).example_ids
    assert len(drawn) == 300
    assert rendering.render_split(haiku, "eval_300", elm).example_ids == drawn
    rendered = rendering.render_split(esnli, "eval_300", elm)
    assert rendered.inputs == [f"p{n}" for n in range(300)]
    assert rendering.render_split(esnli, "eval_300", ours).inputs != rendered.inputs


def test_a_dataset_that_is_nowhere_says_how_to_get_it(tmp_path):
    task = BY_NAME["eli5_generate_a_question_1"]
    with pytest.raises(errors.DataError) as raised:
        rendering.render_split(task, "eval_300", tasks.DataOptions("", str(tmp_path)))
    assert "eli5/train_asks.jsonl" in str(raised.value)
    assert "ct0_data/eli5" in str(raised.value)
