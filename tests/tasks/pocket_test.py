"""The embedded suite is fixed, disjoint, balanced, and small enough for its lengths."""

import collections
import itertools
import pathlib
import re
import subprocess
import sys
import uuid

import pytest

from elm_jax.data import tasks, template_files, templates
from elm_jax.evaluation import metrics
from tasks import pocket
from tasks.pocket_world import prose, rows, train_vocabulary, words

SPLITS = ("train", "validation", "test")
TASKS = pocket.all_tasks()
RANKED = [task for task in TASKS if task.metrics == ("accuracy",)]
INPUTS_LENGTH, TARGETS_LENGTH = 48, 12


def by_name(task: tasks.Task) -> str:
    return task.name


def rendered(task: tasks.Task, split: str) -> list[templates.Rendered]:
    template = task.template.load("")
    texts = [
        template.render(row, seed=index)
        for index, row in enumerate(task.source.rows(split, data_dir=""))
    ]
    assert None not in texts
    return [item for item in texts if item is not None]


def label_of(item: templates.Rendered) -> int:
    return item.choices.index(item.targets)


def share_of(wins: list[float]) -> float:
    return sum(wins) / len(wins)


def chance_of(items: list[templates.Rendered]) -> float:
    return share_of([1 / len(item.choices) for item in items])


def test_roles_and_clusters_are_those_of_the_paper() -> None:
    count = collections.Counter(dataset.role for dataset in pocket.DATASETS)
    assert count["train"] >= 8
    assert count["unseen"] >= 4
    assert count["continual"] == count["composed"] == 1
    trained = {d.cluster for d in pocket.DATASETS if d.role == "train"}
    held_out = {d.cluster for d in pocket.DATASETS if d.role != "train"}
    assert len(trained) >= 4
    assert not trained & held_out
    assert all(len(set(dataset.prompts)) >= 2 for dataset in pocket.DATASETS)
    assert {dataset.name for dataset in pocket.DATASETS} == set(rows.DATASETS)


def test_mixtures_hold_the_tasks_of_a_dataset_or_a_role() -> None:
    registry = tasks.registry
    assert len(registry.expand("pocket_train")) == 20
    assert len(registry.expand("pocket_unseen")) == 10
    assert registry.expand("pocket_kinds") == [
        "pocket_kinds_which_is",
        "pocket_kinds_what_are",
    ]
    assert isinstance(registry.task("pocket_text"), tasks.TextTask)


def test_the_study_of_routers_has_all_held_in_tasks_with_choices() -> None:
    """Those are the ones that have an accuracy."""
    script = (
        pathlib.Path(__file__).parents[2] / "launch" / "routers_study.sh"
    ).read_text("utf-8")
    held_in = tuple(re.findall(r'"(pocket_\w+_\*)"', script))
    trained = [task for task in pocket.all_tasks() if task.role == "train"]
    names = {task.name for task in trained if "accuracy" in task.metrics}
    assert {*tasks.registry.expand(held_in)} == names
    assert len(names) == 14


def test_importing_the_suite_imports_no_tensorflow() -> None:
    code = (
        "import sys, tasks.pocket; "
        "print([m for m in ('seqio', 'tensorflow', 'jax') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("dataset", rows.DATASETS)
def test_splits_share_no_row(dataset: str) -> None:
    seen: set[str] = set()
    for split in SPLITS:
        keys = [rows.content_key(row) for row in rows.rows(dataset, split)]
        assert len(keys) == rows.SPLIT_SIZES[split]
        assert len(set(keys)) == len(keys)
        assert seen.isdisjoint(keys)
        seen.update(keys)


@pytest.mark.parametrize("dataset", rows.DATASETS)
def test_rows_do_not_depend_on_what_was_drawn_before(dataset: str) -> None:
    first = list(rows.rows(dataset, "test"))
    list(itertools.islice(rows.rows(dataset, "train"), 5))
    assert list(rows.rows(dataset, "test")) == first


def test_rows_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from tasks.pocket_world import rows, prose\n"
        "text = repr([list(rows.rows(d, 'test')) for d in rows.DATASETS])"
        " + repr(list(prose.rows('validation')))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
            cwd=pathlib.Path(__file__).parents[2],
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=by_name)
def test_every_row_renders_and_fits(task: tasks.Task) -> None:
    encode = pocket.VOCABULARY.encode
    for split in SPLITS:
        items = rendered(task, split)
        assert len(items) == rows.SPLIT_SIZES[split]
        assert max(len(encode(item.inputs)) + 1 for item in items) <= INPUTS_LENGTH
        for item in items:
            assert not item.choices or item.choices.count(item.targets) == 1
            for text in item.choices or (item.targets,):
                ids = encode(text)
                assert len(ids) < TARGETS_LENGTH
                assert pocket.VOCABULARY.decode(ids) == text


@pytest.mark.parametrize("task", TASKS, ids=by_name)
def test_metrics_are_known_and_those_of_the_template(task: tasks.Task) -> None:
    assert set(task.metrics) <= set(metrics.METRICS)
    named = {name.lower() for name in task.template.load("").metrics}
    assert named == set(task.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("task", RANKED, ids=by_name)
def test_no_position_length_or_fixed_answer_wins(task: tasks.Task) -> None:
    items = [item for split in SPLITS for item in rendered(task, split)]
    limit = chance_of(items) + 0.06
    for position in (0, -1):
        hits = [float(label_of(item) == position % len(item.choices)) for item in items]
        assert share_of(hits) < limit
    for pick in (min, max):
        hits = []
        for item in items:
            lengths = [len(choice) for choice in item.choices]
            best = [i for i, n in enumerate(lengths) if n == pick(lengths)]
            hits.append((label_of(item) in best) / len(best))
        assert share_of(hits) < limit + 0.04
    right = collections.Counter(item.targets for item in items)
    offered = collections.Counter(choice for item in items for choice in item.choices)
    # A text that stands in few rows is right in all of them by luck alone, and helps
    # nobody who answers by it.
    common = [text for text in offered if offered[text] >= len(items) // 50]
    for favourite in sorted(common, key=lambda t: right[t] / offered[t] ** 0.5)[-1:]:
        offering = [item for item in items if favourite in item.choices]
        hits = [float(item.targets == favourite) for item in offering]
        assert share_of(hits) < chance_of(items) + 0.2


def test_some_choices_differ_per_row_and_in_number() -> None:
    unseen = [task for task in RANKED if task.role == "unseen"]
    varied = [
        task
        for task in unseen
        if len({len(item.choices) for item in rendered(task, "validation")}) > 1
    ]
    assert varied
    per_row = [
        task
        for task in unseen
        if "choices" in str(task.template.load("").answer_choices)
    ]
    assert {task.dataset for task in per_row} > {task.dataset for task in varied}


@pytest.mark.slow
def test_prose_holds_no_row_of_a_task() -> None:
    text = "\n".join(row["text"] for row in prose.rows("train"))
    for task in TASKS:
        for split in SPLITS:
            assert not [
                i.inputs for i in rendered(task, split)[:50] if i.inputs in text
            ]


def test_prose_tells_what_the_tasks_ask_for() -> None:
    prose_words = set(
        re.findall(r"\w+", " ".join(row["text"] for row in prose.rows("train")))
    )
    kinds = {noun for nouns in words.KINDS.values() for noun in nouns}
    opposites = set(itertools.chain.from_iterable(words.OPPOSITES))
    things = {deed.thing for scene in words.SCENES for deed in scene.deeds}
    assert (
        kinds | opposites | things | set(words.HOMONYMS) | set(words.NAMES)
        <= prose_words
    )


def test_template_ids_are_made_from_their_names() -> None:
    for path in pathlib.Path(pocket.TEMPLATES_DIR).glob("*/templates.yaml"):
        dataset = path.parent.name
        for template in template_files.load_templates(
            pocket.TEMPLATES_DIR, dataset
        ).values():
            name = f"{dataset}/{template.name}"
            assert template.id == str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def test_every_template_is_registered() -> None:
    in_files = {
        (path.parent.name, name)
        for path in pathlib.Path(pocket.TEMPLATES_DIR).glob("*/templates.yaml")
        for name in template_files.load_templates(
            pocket.TEMPLATES_DIR, path.parent.name
        )
    }
    assert in_files == {(task.dataset, task.prompt) for task in TASKS}


def test_vocabulary_keeps_the_words_of_the_world_whole() -> None:
    text = " ".join(row["text"] for row in prose.rows("validation"))
    split = {
        word
        for word in re.findall(r"[A-Za-z]+", text)
        if len(pocket.VOCABULARY.encode(word)) > 1
    }
    assert len(split) <= 5
    assert pathlib.Path(pocket.VOCABULARY.path).stat().st_size < 100_000


@pytest.mark.slow
def test_training_the_vocabulary_again_gives_the_same_file() -> None:
    assert train_vocabulary.train() == pathlib.Path(pocket.VOCABULARY.path).read_bytes()
