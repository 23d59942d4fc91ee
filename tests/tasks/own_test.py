"""Prompts in our own words: complete, ours, and in need of nobody's files."""

import json
import os
import re
import subprocess
import sys

import jinja2
import pytest
from jinja2 import meta

from elm_jax.data import rendering, seqio_tasks, tasks, template_files
from tasks import own, pocket, t0, table_rows
from tests.tasks.golden import write_own

BY_NAME = {task.name: task for task in own.TASKS}
MIXTURES = {mixture.name: mixture for mixture in own.MIXTURES}


def test_each_of_the_papers_datasets_has_one():
    official = {mixture.name: mixture for mixture in t0.MIXTURES}
    of_task = {task.name: task for task in t0.TASKS}
    for ours, official_name, count in (
        ("own_train", "elm_train", 36),
        ("own_unseen", "elm_unseen", 11),
    ):
        datasets = {BY_NAME[name].dataset for name in MIXTURES[ours].tasks}
        assert datasets == {of_task[n].dataset for n in official[official_name].tasks}
        assert len(datasets) == count
    assert len(own.TASKS) == 47


def test_they_are_marked_as_ours():
    for task in own.TASKS:
        assert task.prompt.endswith(" own words")
        assert "own_words" in task.name
        assert task.note.startswith(own.NOTE)
    assert not set(BY_NAME) & {task.name for task in t0.TASKS}


def test_caps_are_the_papers():
    caps = MIXTURES["own_train"].caps
    assert caps["dream_listening_test_own_words"] == 50_000
    assert caps["xsum_one_breath_own_words"] == 10_000
    assert "trec_what_is_wanted_own_words" not in caps


def test_examples_are_the_recorded_ones():
    recorded = json.loads(write_own.PATH.read_text("utf-8"))
    # Change only with tests/tasks/golden/write_own.py.
    assert {t.name: write_own.first_example(t) for t in own.TASKS} == recorded


def test_every_made_row_is_kept_and_ranked_by_right_choices():
    for task in own.TASKS:
        rendered = rendering.render_split(task, "validation", write_own.PLACES)
        assert len(rendered) == len(table_rows.examples()[task.dataset]), task.name
        assert all((label >= 0) == (task.num_choices != 0) for label in rendered.labels)
        assert ("accuracy" in task.metrics) == (task.num_choices != 0)
        if task.num_choices is not None and task.num_choices > 0:
            assert {len(c) for c in rendered.choices} == {task.num_choices}


def test_every_label_of_a_fixed_choice_prompt_has_its_own_word():
    # Wrong orders of words show here: the labels of the made rows are all different.
    for task in own.TASKS:
        if (task.num_choices or 0) <= 0:
            continue
        rows = table_rows.examples()[task.dataset]
        rendered = rendering.render_split(task, "validation", write_own.PLACES)
        assert len(set(rendered.targets)) == len(rows), task.name
        for row, target in zip(rows, rendered.targets, strict=True):
            label = row.get("label", row.get("label-coarse"))
            if label is not None:
                assert rendered.choices[0][label] == target, task.name


def test_choice_tasks_come_once_more_as_score_eval_in_seqio():
    names = seqio_tasks.register_with_seqio(
        tuple(MIXTURES),
        vocabulary=pocket.VOCABULARY,
        features=tasks.Features(),
        data_options=write_own.PLACES,
    )
    from seqio import MixtureRegistry, TaskRegistry

    try:
        ranked = {task.name for task in own.TASKS if task.num_choices != 0}
        assert len(ranked) == 35
        assert {name for name in names if name.endswith("_score_eval")} == {
            f"{name}_score_eval" for name in (*ranked, *MIXTURES)
        }
        mixture = MixtureRegistry.get("own_unseen_score_eval")
        assert len(mixture.tasks) == 11
    finally:
        for registry in (MixtureRegistry, TaskRegistry):
            for name in set(names) & set(registry.names()):
                registry.remove(name)


def test_files_hold_these_prompts_and_no_other():
    named = {(*table_rows.datasets()[t.dataset].folder, t.prompt) for t in own.TASKS}
    assert len(named) == 45  # ANLI's three rounds share one
    texts = []
    for dataset, subset, prompt in named:
        loaded = template_files.load_templates(own.FOLDER, dataset, subset)
        assert list(loaded) == [prompt]
        loaded[prompt].check()
        texts.append(loaded[prompt].jinja)
    assert len(set(texts)) == len(texts)


def test_templates_read_the_fields_that_the_table_says():
    environment = jinja2.Environment()
    for prompt in table_rows.own_prompts():
        template = BY_NAME[prompt.task].template.load("")
        read = set()
        for text in (template.jinja, template.answer_choices or ""):
            read |= meta.find_undeclared_variables(environment.parse(text))
        assert read - {"answer_choices", "zip"} == set(prompt.fields), prompt.task


@pytest.mark.parametrize(
    ("dataset", "split", "count"),
    [
        ("dream", "train", 6116),
        ("dream", "validation", 2040),
        ("dream", "test", 2041),
        ("cos_e_v1.11", "train", 7191),
        ("commonsense_qa", "validation", 950),
        ("cosmos_qa", "validation", 2985),
        ("quail", "validation", 2164),
        ("rotten_tomatoes", "train", 8530),
    ],
)
def test_real_rows_are_all_kept(data_dir, dataset, split, count):
    (task,) = (task for task in own.TASKS if task.dataset == dataset)
    rendered = rendering.render_split(task, split, tasks.DataOptions("", str(data_dir)))
    assert len(rendered) == count
    assert not [r for r in rendered.dropped if not r.startswith("skipped")]
    assert min(rendered.labels) >= 0


def words(jinja):
    fixed = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", " | ", jinja, flags=re.DOTALL)
    return re.findall(r"[\w']+|\|", fixed.lower())


def runs_of(words, length):
    runs = {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
    return {run for run in runs if "|" not in run}


def test_no_six_words_in_a_row_are_promptsources(official_templates):
    for task in own.TASKS:
        folder = table_rows.datasets()[task.dataset].folder
        ours = runs_of(words(task.template.load("").jinja), 6)
        official = template_files.load_templates(official_templates, *folder)
        for template in official.values():
            assert not ours & runs_of(words(template.jinja), 6), (
                task.name,
                template.name,
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tasks", "cache"])
def test_gin_files_run_without_network_and_files(tmp_path, name):
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.create_connection = socket.socket.connect = refuse\n"
        "from elm_jax.cli import elm_tasks\n"
        "elm_tasks.main()"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, f"--gin_file=gin/own/{name}.gin"),
            f"--gin.MODEL_DIR={tmp_path}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    if name == "tasks":
        assert "47 tasks" in done.stdout
        page = (tmp_path / "tasks.html").read_text()
        assert all(task.name in page for task in own.TASKS)
    else:
        assert "caches: 47 of 47" in done.stdout
