"""The compositional tasks: five languages, rows in CrossSum's form, their metrics."""

import json

import pytest

from elm_jax.data import rendering, serving, tasks
from elm_jax.evaluation import metrics
from tasks import compositional, t0, written

SUITES = (t0,)  # imported for what it registers


def test_there_are_five_languages_and_nobody_trains_on_them():
    assert [task.dataset for task in compositional.TASKS] == [
        "xlsum_korean",
        "xlsum_spanish",
        "xlsum_chinese_simplified",
        "xlsum_japanese",
        "xlsum_french",
    ]
    assert len(compositional.MIXTURE.tasks) == 5
    for task in compositional.TASKS:
        assert task.role == "composed"
        assert "train" not in task.splits
        assert "validation_300" not in task.splits
        part = serving.Part.parse(task.splits["eval_300"])
        assert (part.stop, part.seed) == (300, 42)


def test_every_task_asks_for_both_skills_and_has_metrics_for_its_script():
    data_options = tasks.DataOptions("", sources=("examples",))
    entries = written.read("compositional")
    for task, language in zip(
        compositional.TASKS,
        ("Korean", "Spanish", "Chinese", "Japanese", "French"),
        strict=True,
    ):
        rendered = rendering.render_split(task, "eval_300", data_options)
        rows = entries[task.dataset].examples
        assert rendered.inputs == [
            f"{row['text']}\n\nSum up the article above in one sentence, and translate "
            f"the sentence into {language}."
            for row in rows
        ]
        assert rendered.targets == [row["summary"] for row in rows]
        for name in task.metrics:
            scores = metrics.get(name)(rendered.targets, rendered.targets)
            assert min(scores.values()) == pytest.approx(100.0)


def test_300_rows_are_drawn_from_crosssums_files(tmp_path):
    (tmp_path / "crosssum").mkdir()
    lines = [
        {"source_url": "s", "target_url": "t", "text": f"a {n}", "summary": f"b {n}"}
        for n in range(320)
    ]
    path = tmp_path / "crosssum/english-korean_train.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    data_options = tasks.DataOptions("", str(tmp_path))
    rendered = rendering.render_split(compositional.TASKS[0], "eval_300", data_options)
    expected = sorted(serving.torch_permutation(320, 42)[:300])
    assert [int(text.split()[1]) for text in rendered.targets] == expected


def test_the_skills_have_tasks_of_their_own():
    data_options = tasks.DataOptions("", sources=("examples",))
    assert len(compositional.TRANSLATIONS) == 5
    cap = compositional.TRANSLATION_MIXTURE.cap(compositional.TRANSLATIONS[0].name)
    assert cap == 100_000
    for task in compositional.TRANSLATIONS:
        assert task.role == "train"
        rendered = rendering.render_split(task, "validation_300", data_options)
        assert len(rendered) == 2
    summaries = tasks.registry.task("xsum_DOC_write_summary_of_above")
    assert isinstance(summaries, tasks.Task)
