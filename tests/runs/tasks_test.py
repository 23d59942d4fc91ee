import dataclasses

import pytest

from elm_jax import errors
from elm_jax.data import sources
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
    told = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "tasks.html").read_text()
    found = run.render(name)
    assert "50+ rows; 0 % dropped; 0 % without a correct choice" in told
    assert found.targets[0] in told
    assert f"* {found.choices[0][found.labels[0]]}" in told
    for text in (name, found.choices[0][0], 'class="right"', "50+"):
        assert text in page


def test_a_task_that_cannot_be_read_is_told_beside_the_others(tmp_path, capsys):
    known = registry.registry.task(make(tmp_path).names()[0])
    assert isinstance(known, registry.Task)
    missing = sources.FileRows(sources.json_lines, {"train": ["no.jsonl"]}, origin="us")
    lost = dataclasses.replace(known, name="lost_task", source=missing)
    registry.registry.add(lost)
    both = (known.name, lost.name)
    make(tmp_path, tasks=both, data_dir=str(tmp_path)).run()
    assert "cannot be read" in capsys.readouterr().out
    with pytest.raises(errors.DataError, match=r"no\.jsonl"):
        make(tmp_path, tasks=lost.name, data_dir=str(tmp_path)).run()


def test_every_task_of_the_paper_can_be_listed_without_any_data(tmp_path, capsys):
    run = make(
        tmp_path,
        tasks=("elm_generative", "elm_compositional"),
        split="eval_300",
        sources=("examples",),
        html_path="",
    )
    run.run()
    told = " ".join(capsys.readouterr().out.split())
    assert "21 tasks, eval_300" in told
    assert "cannot be read" not in told
    assert "translate the sentence into Korean" in told
