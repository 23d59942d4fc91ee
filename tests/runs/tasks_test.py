import dataclasses

import pytest

from elm_jax import errors
from elm_jax.data import sources, templates
from elm_jax.data import tasks as registry
from elm_jax.runs import tasks
from tasks import compositional, generative, pocket

SUITES = (compositional, generative)  # imported for what they register


def make(tmp_path, **changes):
    options = {
        "model_dir": str(tmp_path),
        "tasks": "pocket_*",
        "vocabulary_path": pocket.VOCABULARY.path,
        "feature_lengths": {"inputs": 20, "targets": 32},
        "html_path": "{MODEL_DIR}/tasks.html",
    }
    return tasks.ListTasks(**{**options, **changes})


def test_filters_keep_what_matches_all_of_them(tmp_path):
    everything = make(tmp_path).names()
    some = make(tmp_path, role="unseen", metric="acc*").names()
    assert 0 < len(some) < len(everything)
    assert {registry.registry.task(name).role for name in some} == {"unseen"}
    moods = make(tmp_path, dataset="pocket_mood*").names()
    assert all(name.startswith("pocket_moods_") for name in moods)
    cluster = registry.registry.task(moods[0]).cluster
    assert set(moods) <= set(make(tmp_path, cluster=f"{cluster[:4]}*").names())
    with pytest.raises(errors.ConfigError, match="none of .* role = 'no'"):
        make(tmp_path, role="no").names()


def test_a_task_is_shown_with_counts_lengths_choices_and_target(tmp_path, capsys):
    (name, *_) = make(tmp_path, dataset="pocket_moods").names()
    run = make(tmp_path, tasks=name, num_rows=50)
    run.run()
    output = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "tasks.html").read_text()
    rendered = run.render(name)
    assert "50+ rows; 0 % dropped; 0 % without a correct choice" in output
    assert rendered.targets[0] in output
    assert f"* {rendered.choices[0][rendered.labels[0]]}" in output
    for text in (name, rendered.choices[0][0], 'class="right"', "50+"):
        assert text in page


def test_a_task_that_cannot_be_read_is_told_beside_the_others(tmp_path, capsys):
    toy_task = registry.registry.task(make(tmp_path).names()[0])
    assert isinstance(toy_task, registry.Task)
    missing = sources.FileRows(sources.json_lines, {"train": ["no.jsonl"]}, origin="us")
    lost = dataclasses.replace(toy_task, name="lost_task", source=missing)
    registry.registry.add(lost)
    both = (toy_task.name, lost.name)
    make(tmp_path, tasks=both, data_dir=str(tmp_path)).run()
    assert "cannot be read" in capsys.readouterr().out
    with pytest.raises(errors.DataError, match=r"no\.jsonl"):
        make(tmp_path, tasks=lost.name, data_dir=str(tmp_path)).run()


def rows_of(split):
    del split
    yield from ({"t": "cat " * 30, "l": i % 2, "c": ["no", "no"]} for i in range(3))
    yield {"t": "漢", "l": 0, "c": ["yes", "no"]}
    yield {"t": None, "l": 0, "c": ["yes", "no"]}
    yield {"t": "cat", "l": 5, "c": ["yes", "no"]}


def add_task(name, rows_fn):
    prompt = templates.Template(
        "t",
        "1",
        "{{t}} ||| {{answer_choices[l]}}",
        answer_choices="{{ c | join('|||') }}",
    )
    toy_task = registry.registry.task("pocket_moods_was")
    source = sources.GeneratedRows(rows_fn, version="1")
    added = dataclasses.replace(toy_task, name=name, source=source, template=prompt)
    registry.registry.add(added)


def test_the_terminal_tells_why_rows_are_dropped_and_what_is_not_to_be_told_apart(
    tmp_path, capsys
):
    add_task("odd_task", rows_of)
    make(tmp_path, tasks="odd_task").run()
    output = " ".join(capsys.readouterr().out.split())
    for part in (
        "6 rows; 33.3 % dropped",
        "dropped: 1 x bad: null or NaN in its text the first is row 4: null or NaN",
        "dropped: 1 x bad: missing item, such as a label outside the choices the first",
        "the first is row 5: missing item",
        "25.0 % with characters in inputs that the vocabulary lacks",
        "3 x choices of the same text",
        "75.0 % have choices that cannot be told apart.",
    ):
        assert part in output
    assert "Every input is cut" not in output
    page = (tmp_path / "tasks.html").read_text()
    for part in ("row 4: null", "choices of the same text", "75.0 % have choices"):
        assert part in page


def cut_rows(split):
    return list(rows_of(split))[:3]


def unfit_rows(split):
    return list(rows_of(split))[4:]


def test_a_task_without_examples_or_of_cut_inputs_is_shown_and_told(tmp_path, capsys):
    add_task("cut_task", cut_rows)
    add_task("unfit_task", unfit_rows)
    make(tmp_path, tasks=("cut_task", "unfit_task")).run()
    output = " ".join(capsys.readouterr().out.split())
    assert "Every input is cut." in output
    assert "No example is left: all 2 rows are dropped." in output


def test_every_task_of_the_paper_can_be_listed_without_any_data(tmp_path, capsys):
    run = make(
        tmp_path,
        tasks=("elm_generative", "elm_compositional"),
        split="eval_300",
        sources=("examples",),
        html_path="",
    )
    run.run()
    output = " ".join(capsys.readouterr().out.split())
    assert "21 tasks, eval_300" in output
    assert "cannot be read" not in output
    assert "translate the sentence into" in output  # lines are cut by width
