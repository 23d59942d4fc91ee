"""Everything that `tasks/` registers: names, counts, rows kept apart, and SeqIO's view.

Goes over the registry, so that a new module of tasks is tested by being there.
"""

import collections
import dataclasses
import functools
import itertools
import json
import pathlib
import subprocess
import sys

import pytest

from elm_jax import errors
from elm_jax.data import (
    rendering,
    seqio_tasks,
    serving,
    tasks,
    template_files,
)
from elm_jax.evaluation import metrics
from elm_jax.library import sampling
from tasks import own, pocket, table_rows
from tests.tasks import joined
from tests.tasks.golden import write_registry

ROOT = pathlib.Path(__file__).parents[2]
FEATURES = tasks.Features(inputs_length=64, targets_length=16)
LENGTHS = {"inputs": 64, "targets": 16}
# Tasks and mixtures of each module.
COUNTS = {
    "t0": (446, 99),
    "own": (47, 2),
    "pocket": (35, 21),
    "pocket_selection": (10, 1),
    "bigbench": (22, 15),
    "generative": (16, 11),
    "compositional": (10, 2),
    "original_text": (3, 1),
}
# The original code judges this one on rows that it trained on, and has no others.
ELM_TRAINS_ON = ("covid_qa_covid_qa_deepset",)
NUM_ROWS = 6
TRAINING = ("train",)
EVALUATION = ("validation", "test", "challenge", "validation_300", "eval_300")


@functools.cache
def names_by_module():
    # In a fresh process: tests add tasks of their own to this one's registry.
    code = (
        "import json; from tests.tasks.golden import write_registry as w;"
        "print(json.dumps(w.names_by_module()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    by_module = json.loads(done.stdout.splitlines()[-1])
    for module in by_module:
        __import__(f"tasks.{module}")
    return by_module


def items(kind):
    names = itertools.chain.from_iterable(names_by_module().values())
    entries = [tasks.registry.get(name) for name in names]
    return [item for item in entries if isinstance(item, kind)]


def test_names_are_unique_and_none_of_the_recorded_ones_is_gone():
    by_module = names_by_module()
    names = list(itertools.chain.from_iterable(by_module.values()))
    assert len(names) == len(set(names))
    recorded = [line.split() for line in write_registry.PATH.read_text().splitlines()]
    # Names may be added, with tests/tasks/golden/write_registry.py; none may go.
    assert {name for _, name in recorded} == set(names)
    assert {module for module, _ in recorded} == set(by_module)


def test_every_module_registers_as_many_as_it_should():
    counts = {}
    for module, names in names_by_module().items():
        kinds = [isinstance(tasks.registry.get(n), tasks.Mixture) for n in names]
        counts[module] = (kinds.count(False), kinds.count(True))
    assert counts == COUNTS


def test_mixtures_hold_registered_tasks_each_once():
    for mixture in items(tasks.Mixture):
        assert mixture.tasks, mixture.name
        assert len(set(mixture.tasks)) == len(mixture.tasks), mixture.name
        assert set(mixture.caps) <= set(mixture.tasks), mixture.name
        for name in mixture.tasks:
            assert not isinstance(tasks.registry.get(name), tasks.Mixture)


def test_every_task_has_known_metrics_and_choices_where_it_is_ranked():
    for task in items(tasks.Task):
        assert task.metrics, task.name
        for name in task.metrics:
            assert metrics.get(name).name == name


def promptsource_of(dataset):
    entry = table_rows.datasets().get(dataset)
    return entry.promptsource if entry else dataset


def test_licences_are_those_of_the_table_each_with_its_source():
    licences = {
        (task.dataset, task.licence) for task in items(tasks.Task) if task.licence
    }
    table = {name: licence for name, (licence, _) in table_rows.licences().items()}
    ours = {(name, licence) for name, licence in licences if licence == pocket.LICENCE}
    own_datasets = {
        name for name, _ in ours if name.startswith(("pocket_", "selection_"))
    }
    assert len(own_datasets) == len(pocket.DATASETS)
    assert {pair for pair in licences if pair[0] not in own_datasets} == {
        *table.items()
    }
    for licence, source in table_rows.licences().values():
        assert licence
        places = source.split("; ")
        assert all(place.startswith("github.com/") for place in places)
        # Each has a commit.
        assert all(len(place.split()[1].rstrip(",")) == 7 for place in places)
    of = table_rows.licence
    assert (of("dream"), of("imdb")) == ("academic research only", "")


def test_a_licence_is_a_name_and_no_text():
    task = items(tasks.Task)[0]
    for text in ("a\nb", "x" * 201):
        with pytest.raises(errors.ConfigError, match="licence"):
            dataclasses.replace(task, licence=text)


def test_no_dataset_is_trained_on_and_unseen():
    by_role = collections.defaultdict(set)
    for task in items(tasks.Task):
        by_role[task.role].add(promptsource_of(task.dataset))
    assert len(by_role["train"]) > 40
    assert len(by_role["unseen"]) > 10
    assert not by_role["train"] & by_role["unseen"]


def test_mixtures_to_train_on_hold_no_unseen_task():
    for mixture in items(tasks.Mixture):
        if "train" in mixture.name.split("_"):
            roles = {tasks.registry.task(name).role for name in mixture.tasks}
            assert roles in ({"train"}, {"continual"}), mixture.name


def numbers(part, dataset):
    """Row numbers of a part of a split, of as many rows as are published."""
    entry = table_rows.datasets().get(dataset)
    count = entry.rows[part.split] if entry else 100_000
    order = range(count)
    if part.seed is not None:
        order = _permutation(count, part.seed)
    return set(order[part.start : part.stop])


@functools.cache
def _permutation(count, seed):
    return serving.torch_permutation(count, seed).tolist()


def test_no_evaluation_row_is_in_a_split_that_an_index_may_be_built_from():
    compared = 0
    for task in items(tasks.Task):
        for protocol in ("",) if task.name in ELM_TRAINS_ON else ("", "@elm"):
            parts = {
                name: serving.Part.parse(
                    task.splits.get(f"{name}{protocol}", task.splits[name])
                )
                for name in (*TRAINING, *EVALUATION)
                if name in task.splits
            }
            for training, evaluation in itertools.product(TRAINING, EVALUATION):
                if training not in parts or evaluation not in parts:
                    continue
                compared += 1
                if parts[training].split == parts[evaluation].split:
                    rows = [
                        numbers(parts[name], task.dataset)
                        for name in (training, evaluation)
                    ]
                    assert not rows[0] & rows[1], (
                        task.name,
                        training,
                        evaluation,
                        protocol,
                    )
    assert compared > 800


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset", ["dream", "cos_e_v1.11", "commonsense_qa", "rotten_tomatoes"]
)
def test_keys_queries_and_evaluation_rows_of_real_files_are_other_rows(
    dataset, data_dir
):
    (task,) = (task for task in own.TASKS if task.dataset == dataset)
    data_options = tasks.DataOptions("", str(data_dir))
    train, judged = (
        rendering.render_split(task, split, data_options).inputs
        for split in ("train", "validation")
    )
    keys = sampling.divide_rows(len(train), seed=42, num_keys=sampling.NUM_KEYS).keys
    parts = sampling.divide_rows(len(judged), seed=42, num_queries=sampling.NUM_QUERIES)
    texts = [
        {train[row] for row in keys},
        {judged[row] for row in parts.queries},
        {judged[row] for row in parts.evaluation},
    ]
    assert [len(part) for part in texts] == [100, 32, len(judged) - 32]
    assert len(set.union(*texts)) == sum(map(len, texts))


def is_official(task):
    ref = task.template
    return isinstance(ref, template_files.TemplateRef) and ref.folder is None


def examples_of(task, data_options):
    """The first split of a task that has rows here, and its first texts."""
    split = next(s for s in ("validation", "test", "train") if s in task.splits)
    rows = rendering.served(task, split, data_options).rows()
    rendered = rendering.render_rows(
        itertools.islice(rows, NUM_ROWS),
        split=split,
        template=rendering.load_template(task, split, data_options),
    )
    assert len(rendered), task.name
    return split, rendered


def tokens(text, name):
    return [*pocket.VOCABULARY.encode(text)[: LENGTHS[name] - 1], 1]


def example(rendered, row, targets):
    texts = {"inputs": rendered.inputs[row], "targets": targets}
    return {
        "example_id": rendered.example_ids[row],
        **{f"{name}_pretokenized": text for name, text in texts.items()},
        **{name: tokens(text, name) for name, text in texts.items()},
    }


def check_with_seqio(chosen, data_options):
    """Compares tasks' SeqIO examples with texts and tokens made without SeqIO.

    To trace its functions takes SeqIO half a second for each task, and they are the
    same for all: after a check that they are, the rows of all go through once.
    """
    import tensorflow as tf

    dtypes = {"inputs": tf.int32, "targets": tf.int32, "inputs_pretokenized": tf.string}
    whole = joined.Joined(dtypes, LENGTHS)
    ranked = joined.Joined(dtypes | {"idx": tf.int32, "weight": tf.float32}, LENGTHS)
    for task in chosen:
        split, rendered = examples_of(task, data_options)
        options = {
            "vocabulary": pocket.VOCABULARY,
            "features": FEATURES,
            "data_options": data_options,
            "render_fn": lambda _, rendered=rendered: rendered,
        }
        exported = seqio_tasks.to_seqio(task, **options)
        assert (exported.name, split in exported.splits) == (task.name, True)
        rows = range(len(rendered))
        examples = [example(rendered, row, rendered.targets[row]) for row in rows]
        whole.add(exported, split, examples)
        if not any(rendered.choices):
            continue
        exported = seqio_tasks.to_seqio_score_eval(task, **options)
        assert exported.name == f"{task.name}_score_eval"
        examples = [
            example(rendered, row, choice)
            | {"idx": [row, number], "is_correct": number == label, "weight": 1.0}
            for row, (choices, label) in enumerate(
                zip(rendered.choices, rendered.labels, strict=True)
            )
            for number, choice in enumerate(choices)
        ]
        ranked.add(exported, split, examples)
    whole.check()
    ranked.check()


@pytest.mark.slow
def test_every_official_task_gives_seqio_its_examples(official_templates):
    data_options = tasks.DataOptions(
        "", templates_dir=official_templates, sources=("examples",)
    )
    official = [task for task in items(tasks.Task) if is_official(task)]
    assert len(official) >= 446
    check_with_seqio(official, data_options)


@pytest.mark.slow
def test_every_other_task_gives_seqio_its_examples():
    data_options = tasks.DataOptions("", sources=("examples",))
    check_with_seqio(
        [task for task in items(tasks.Task) if not is_official(task)], data_options
    )


@pytest.mark.slow
# An evaluator that its own thread was the last to hold cannot wait for that thread.
@pytest.mark.filterwarnings(
    "ignore:.*Evaluator.__del__:pytest.PytestUnraisableExceptionWarning"
)
def test_predicting_the_target_has_full_marks_in_seqios_evaluator():
    from seqio import TaskRegistry, test_utils

    data_options = tasks.DataOptions("", sources=("examples",))
    seen = set()
    for task in items(tasks.Task):
        # An evaluator takes a quarter of a second: one of each kind.
        if is_official(task) or (task.cluster, task.metrics) in seen:
            continue
        seen.add((task.cluster, task.metrics))
        _, rendered = examples_of(task, data_options)
        name = f"full_marks_{task.name}"
        fns = [metrics.get(metric).fn for metric in task.metrics]
        provider = seqio_tasks.to_seqio(
            dataclasses.replace(task, name=name),
            vocabulary=pocket.VOCABULARY,
            features=FEATURES,
            data_options=data_options,
            metric_fns=fns,
        )
        TaskRegistry.add_provider(name, provider)
        row = {
            "inputs": rendered.inputs[0],
            "targets": rendered.targets[0],
            "example_id": rendered.example_ids[0],
        }
        try:
            scores = test_utils.test_postprocessing(
                name, {"validation": row}, predict_output=[row["targets"]]
            )
        finally:
            TaskRegistry.remove(name)
        for metric in task.metrics:
            assert set(metrics.get(metric).keys) <= set(scores), task.name
        assert scores.get("accuracy", 100) == 100, task.name
        assert scores.get("f1", 100) == 100, task.name
