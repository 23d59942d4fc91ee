"""The registered BIG-bench tasks: names, counts, a prompt by hand of every dataset."""

import json
import pathlib

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import cache, rendering, seqio_tasks, tasks, vocabulary
from elm_jax.evaluation import metrics
from tasks import bigbench, pocket, t0
from tests.data.t5_ranking import t5_rank_accuracy

BY_NAME = {task.name: task for task in (*bigbench.TASKS, *bigbench.MERGED)}
MIXTURES = {mixture.name: mixture for mixture in bigbench.MIXTURES}
VOCABULARY = vocabulary.SentencePiece(pocket.VOCABULARY.path)
SUBTASKS = {
    "conceptual_combinations": [
        *("contradictions", "emergent_properties", "fanciful_fictional_combinations"),
        *("homonyms", "invented_words", "surprising_uncommon_combinations"),
    ],
    "logical_deduction": ["five_objects", "seven_objects", "three_objects"],
}
# The first made example of every dataset, by hand: prompt, choices, the right one.
BY_HAND = {
    "code_line_description_zero_shot": (
        "Code:\ntotal = sum(prices)\n\n choice: counts the prices"
        "\n choice: adds up the prices\n choice: sorts the prices"
        "\n choice: prints the prices\n\nIn words:",
        "counts the prices|adds up the prices|sorts the prices|prints the prices",
        1,
    ),
    "conceptual_combinations_emergent_properties_zero_shot": (
        "Which sentence says something true of wet paper?"
        "\n option: Wet paper tears easily.\n option: Wet paper burns well."
        "\n option: Wet paper is good to write on.\n option: Wet paper is thirsty."
        "\nSentence:",
        "Wet paper tears easily.|Wet paper burns well."
        "|Wet paper is good to write on.|Wet paper is thirsty.",
        0,
    ),
    "formal_fallacies_syllogisms_negation_zero_shot": (
        'Q: "All geese are birds. No bird is a fish. So no goose is a fish." '
        "Does the end follow from the start?\nA:",
        "valid|invalid",
        0,
    ),
    "hindu_knowledge_zero_shot": (
        "Q: Who wields the bow Gandiva?\n choice: Arjuna\n choice: Bhima"
        "\n choice: Ravana\n choice: Hanuman\nA:",
        "Arjuna|Bhima|Ravana|Hanuman",
        0,
    ),
    "known_unknowns_zero_shot": (
        "Q: How many crumbs lay on my grandmother's table last Monday?"
        "\n choice: Two hundred\n choice: Unknown\nA:",
        "Two hundred|Unknown",
        1,
    ),
    "language_identification_zero_shot": (
        "Name the language.\n\nText: Der Hund schläft unter dem Tisch."
        "\n choice: Dutch\n choice: German\n choice: Danish\n choice: Frisian"
        "\n choice: Swedish\n choice: Polish\n choice: Czech\n choice: Finnish"
        "\n choice: Basque\n choice: Welsh\n choice: Breton\nIts language:",
        "Dutch|German|Danish|Frisian|Swedish|Polish|Czech|Finnish|Basque|Welsh|Breton",
        1,
    ),
    "logic_grid_puzzle_zero_shot": (
        "Q: Two houses stand in a row, 1 on the left and 2 on the right.\n\nClue:"
        "\n1. Who drinks tea lives left of who drinks milk.\n\nIn which house is the "
        "milk?\n choice: 1\n choice: 2\nA:",
        "1|2",
        1,
    ),
    "logical_deduction_three_objects_zero_shot": (
        "Each text orders three things.\n\nA pear, a plum and a fig hang on a branch. "
        "The fig is above the pear. The plum is above the fig.",
        "The pear is on top.|The plum is on top.|The fig is on top.",
        1,
    ),
    "misconceptions_zero_shot": (
        "Say T if the claim is true, else F.\nQ: Bulls hate the colour red.\nA:",
        "T|F",
        1,
    ),
    "movie_dialog_same_or_different_zero_shot": (
        "Q: Is the kettle on?\nYes.\nThen sit down.\n\nTake: Is the kettle on? Yes."
        "\nOne speaker or two?",
        "same|different",
        1,
    ),
    "strategyqa_zero_shot": (
        "Q: Could a letter by horse be faster than one by telegraph?\nA:",
        "Yes|No",
        1,
    ),
    "vitaminc_fact_verification_zero_shot": (
        "Judge the claim by the text.\n\nText: The bridge was opened in 1911."
        "\nClaim: The bridge was opened after 1900.\nYes, no, or not told?",
        "True|False|Neither",
        0,
    ),
    "winowhy_zero_shot": (
        "Judge why a word means what it means.\n\nThe box did not fit in the car as it "
        "was too big. 'It' is the box because big things do not fit.\nThis reason is",
        "correct|incorrect",
        0,
    ),
}


@pytest.fixture(scope="module")
def made_dir(tmp_path_factory):
    """A data folder with files of BIG-bench's schema, the texts ours."""
    folder = tmp_path_factory.mktemp("data")
    for name, content in bigbench.examples().items():
        path = folder / "bigbench" / name / "task.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    return folder


@pytest.fixture
def data_options(made_dir, tmp_path):
    return tasks.DataOptions(str(tmp_path / "caches"), str(made_dir))


def render(name, data_options):
    return rendering.render_split(BY_NAME[name], "validation", data_options)


def test_the_datasets_and_subtasks_are_the_papers(facts_dir):
    facts = json.loads((facts_dir / "eval_tasks.json").read_text())["bigbench"]
    assert len(bigbench.DATASETS) == facts["count"] == 13
    assert list(bigbench.DATASETS) == [task["name"] for task in facts["tasks"]]
    for task in facts["tasks"]:
        files = [f for f in bigbench.FILES if f.dataset == task["name"]]
        assert (task["subtasks"] or [""]) == [file.subtask for file in files]
        assert sum(file.rows for file in files) == task["num_examples_from_knowledge"]


def test_there_is_one_task_per_file_and_mixtures_of_them():
    assert len(bigbench.TASKS) == len(bigbench.FILES) == 20
    assert {task.role for task in BY_NAME.values()} == {"unseen"}
    assert {task.metrics for task in BY_NAME.values()} == {("accuracy",)}
    assert MIXTURES["bigbench"].tasks == tuple(task.name for task in bigbench.TASKS)
    for dataset, subtasks in SUBTASKS.items():
        assert list(MIXTURES[f"bigbench_{dataset}"].tasks) == [
            f"bigbench_{dataset}_{subtask}_zero_shot" for subtask in subtasks
        ]
    assert len(MIXTURES) == 2 + 13
    merged = MIXTURES["elm_bigbench"].tasks
    assert len({BY_NAME[name].dataset for name in merged}) == len(merged) == 13


def test_names_are_unique_and_stay():
    # A name may be added; one that is gone or changed breaks results.
    golden = pathlib.Path(__file__).parent / "golden" / "bigbench_names.txt"
    names = [*BY_NAME, *MIXTURES]
    assert len(names) == len(set(names))
    assert sorted(names) == golden.read_text().splitlines()


def test_no_dataset_is_one_that_is_trained_on_and_no_split_is_for_training():
    datasets = {task.dataset for task in BY_NAME.values()}
    assert not datasets & {task.dataset for task in t0.TASKS}
    splits = {split for task in BY_NAME.values() for split in task.splits}
    assert splits == {"validation", "validation@elm"}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_prompt_of_every_dataset_is_what_the_rule_says_by_hand(data_options, name):
    rendered = render(f"bigbench_{name}", data_options)
    prompt, choices, label = BY_HAND[name]
    assert rendered.inputs[0] == prompt
    assert "|".join(rendered.choices[0]) == choices
    assert rendered.labels[0] == label
    assert rendered.targets[0] == choices.split("|")[label]


def test_the_cases_by_hand_are_of_all_13_datasets():
    datasets = {BY_NAME[f"bigbench_{name}"].dataset for name in BY_HAND}
    assert datasets == {f"bigbench_{name}" for name in bigbench.DATASETS}


def test_every_task_renders_alike_from_files_a_clone_and_the_made_examples(
    data_options, made_dir, tmp_path
):
    clone = tmp_path / "BIG-bench" / "bigbench"
    clone.mkdir(parents=True)
    (clone / "benchmark_tasks").symlink_to(made_dir / "bigbench")
    examples = tasks.DataOptions("", sources=("examples",))
    for name in BY_NAME:
        rendered = render(name, data_options)
        assert len(rendered) >= 2
        assert not rendered.dropped
        assert rendered == render(name, tasks.DataOptions("", str(tmp_path)))
        assert rendered == render(name, examples)


def test_merged_datasets_hold_all_subtasks_and_for_elm_what_its_file_has(made_dir):
    name = "bigbench_conceptual_combinations_merged_zero_shot"
    ours, elm = (tasks.DataOptions("", str(made_dir), protocol=p) for p in ("", "elm"))
    by_subtask = [
        render(member, ours).inputs
        for member in MIXTURES["bigbench_conceptual_combinations"].tasks
    ]
    assert render(name, ours).inputs == sum(by_subtask, [])
    # Homonyms once more, after the invented words.
    twice = [*by_subtask[:5], by_subtask[3], by_subtask[5]]
    assert render(name, elm).inputs == sum(twice, [])
    merged = "bigbench_logical_deduction_merged_zero_shot"
    assert render(merged, elm) == render(merged, ours)


def test_a_missing_file_is_told_with_where_to_get_it_and_where_to_put_it(tmp_path):
    name = "bigbench_logical_deduction_five_objects_zero_shot"
    with pytest.raises(errors.DataError) as raised:
        render(name, tasks.DataOptions("", str(tmp_path)))
    for part in (
        "github.com/google/BIG-bench",
        "bigbench/benchmark_tasks",
        "bigbench/logical_deduction/five_objects/task.json",
        "git clone",
        str(tmp_path),
    ):
        assert part in str(raised.value)


def test_tokens_of_a_cache_have_the_right_choice(data_options):
    name = "bigbench_language_identification_zero_shot"
    data = cache.open_cache(
        name,
        "validation",
        vocabulary=VOCABULARY,
        features=tasks.Features(512, 64),
        data_options=data_options,
    )
    rendered = render(name, data_options)
    assert data.manifest["key"]["served_by"].startswith("files: github.com/google")
    for example, choices, label in zip(
        data, rendered.choices, rendered.labels, strict=True
    ):
        assert example.label == label
        assert len(example.choices) == len(choices) == 11
        assert (example.choices[label] == example.targets).all()


def registered(data_options, names):
    return seqio_tasks.register_with_seqio(
        names,
        vocabulary=VOCABULARY,
        features=tasks.Features(512, 64),
        data_options=data_options,
        metric_fns={name: metric.fn for name, metric in metrics.METRICS.items()},
    )


@pytest.fixture(scope="module")
def seqio_names(made_dir):
    return registered(tasks.DataOptions("", str(made_dir)), "*bigbench*")


def test_seqio_has_every_task_and_mixture_and_their_ranking_ones(seqio_names):
    for name in (*BY_NAME, *MIXTURES):
        assert {name, f"{name}_score_eval"} <= set(seqio_names)


@pytest.mark.slow
def test_seqios_helpers_see_each_task_as_rendered(seqio_names, data_options):
    from seqio import TaskRegistry, test_utils

    del seqio_names
    for name in BY_NAME:
        rendered = render(name, data_options)
        expected = [
            {"inputs": inputs, "targets": targets, "example_id": number}
            for inputs, targets, number in zip(
                rendered.inputs, rendered.targets, rendered.example_ids, strict=True
            )
        ]
        source = TaskRegistry.get(name).source
        test_utils.assert_dataset(
            source.get_dataset("validation", shuffle=False), expected
        )
        first = test_utils.test_preprocessing_single(name, {"train": expected[0]})
        assert first["inputs_pretokenized"].decode() == rendered.inputs[0]
        tokens = [*VOCABULARY.encode(rendered.targets[0]), 1]
        np.testing.assert_array_equal(first["targets"], tokens)


@pytest.mark.slow
def test_ranking_examples_are_one_per_choice_and_score_as_t5_ranks(
    seqio_names, data_options
):
    from seqio import TaskRegistry

    del seqio_names
    for name in BY_NAME:
        rendered = render(name, data_options)
        task = TaskRegistry.get(f"{name}_score_eval")
        dataset = task.get_dataset(None, "validation", shuffle=False)
        examples = list(dataset.as_numpy_iterator())
        assert [e["targets_pretokenized"].decode() for e in examples] == [
            choice for choices in rendered.choices for choice in choices
        ]
        assert [tuple(e["idx"]) for e in examples if e["is_correct"]] == list(
            enumerate(rendered.labels)
        )
        targets = [task.postprocess_fn("", example=e, is_target=True) for e in examples]
        scores = [float(e["is_correct"]) for e in examples]
        assert t5_rank_accuracy(targets, scores) == {"accuracy": 100.0}
        assert t5_rank_accuracy(targets, [-score for score in scores]) == {
            "accuracy": 0.0
        }


def test_the_authors_files_have_the_published_numbers_of_rows(data_dir):
    present = []
    for task, file in zip(bigbench.TASKS, bigbench.FILES, strict=True):
        if not (data_dir / "bigbench" / file.folder / "task.json").is_file():
            continue
        present.append(file)
        rendered = render(task.name, tasks.DataOptions("", str(data_dir)))
        assert len(rendered) == file.rows
        again = rendered.dropped.pop("skipped: an earlier example again", 0)
        assert file.repeated in (None, again)
        assert not rendered.dropped
    if not present:
        pytest.skip(f"real data: no BIG-bench files in {data_dir / 'bigbench'}")
