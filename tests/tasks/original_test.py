"""The real datasets: counts, golden texts and leaks, on the authors' own files."""

import json

import jinja2
import numpy as np
import pytest
import sentencepiece

from elm_jax import errors
from elm_jax.data import cache, rendering, tasks, template_files, vocabulary
from tasks import author_files, original

COUNTS = {
    "dream": {"train": 6116, "validation": 2040, "test": 2041},
    "cos_e_v1.11": {"train": 7191, "validation": 901},
    "commonsense_qa": {"train": 7610, "validation": 950},
    "cosmos_qa": {"validation": 2985},
    "quail": {"validation": 2164, "challenge": 556},
    "rotten_tomatoes": {"train": 8530, "validation": 1066, "test": 1066},
}


@pytest.fixture(scope="session")
def data_options(data_dir, official_templates, tmp_path_factory):
    return tasks.DataOptions(
        cache_dir=str(tmp_path_factory.mktemp("caches")),
        data_dir=str(data_dir),
        templates_dir=official_templates,
    )


def render(name, split, data_options):
    return rendering.render_split(tasks.registry.task(name), split, data_options)


def test_names_prompts_and_metrics_are_t0s(facts_dir):
    facts = json.loads((facts_dir / "train_prompts.json").read_text())
    recorded = {
        prompt["t0_seqio_task_name"]: (
            prompt["template_name"],
            dataset["task_cluster"],
            {metric.lower() for metric in prompt["promptsource"]["metrics"]},
        )
        for dataset in facts["datasets"]
        if dataset["hf_name"] in {name.removesuffix("_v1.11") for name in COUNTS}
        for prompt in dataset["prompts"]
    }
    ours = {
        task.name: (task.prompt, task.cluster, set(task.metrics))
        for prompts in original.TASKS.values()
        for task in prompts
    }
    assert len(ours) == 57
    assert ours == recorded


@pytest.mark.slow
@pytest.mark.parametrize("dataset", COUNTS)
def test_every_prompt_renders_every_row(dataset, data_options):
    for task in original.TASKS[dataset]:
        for split, count in COUNTS[dataset].items():
            rendered = render(task.name, split, data_options)
            assert len(rendered) == count, (task.name, split)
            assert not [r for r in rendered.dropped if not r.startswith("skipped")]
            ranked = "accuracy" in task.metrics
            assert all((label >= 0) == ranked for label in rendered.labels)


def test_explanations_without_a_question_are_counted(data_options):
    rendered = render("cos_e_v1.11_i_think", "train", data_options)
    assert rendered.num_rows == 9741
    assert rendered.dropped == {
        "skipped: its question is not in the CommonsenseQA file": 2550
    }


@pytest.mark.slow
def test_texts_are_what_plain_jinja_makes_of_the_official_templates(data_options):
    plain = jinja2.Environment()
    plain.globals["zip"] = zip
    for prompts in original.TASKS.values():
        for task in prompts:
            template = task.template.load(data_options.templates_dir)
            source_rows = task.source.rows("validation", data_dir=data_options.data_dir)
            for i, row in zip(range(40), source_rows, strict=False):
                if not isinstance(row, dict):
                    continue
                choices = None
                if template.answer_choices:
                    text = plain.from_string(template.answer_choices).render(**row)
                    choices = [choice.strip() for choice in text.split("|||")]
                text = plain.from_string(template.jinja).render(
                    **row, answer_choices=choices
                )
                inputs, targets = (part.strip() for part in text.split("|||"))
                expected = (inputs, targets, tuple(choices or ()))
                assert template.render(row, seed=i) == expected


@pytest.mark.parametrize(
    ("name", "split", "number", "inputs", "targets", "label"),
    [
        (
            "dream_baseline",
            "validation",
            1,
            "Dialogue:\n\nM: Did you watch TV yesterday evening?\n\nF: No, I saw a "
            "film instead.\n\nQuestion: What did the man probably do yesterday "
            "evening? \n\n- Saw a film.\n\n- Read a book.\n\n- Watch TV.",
            "Watch TV.",
            2,
        ),
        (
            "cos_e_v1.11_rationale",
            "validation",
            0,
            "Question: A beaver is know for building prowess, their supplies come from "
            "where?\n\nChoices: \n- body of water\n- wooded area\n- british columbia"
            '\n\nThe rationale to choose "wooded area" as the answer is that:',
            "Wooden area is only the place for the beaver supplies.",
            -1,
        ),
        (
            "commonsense_qa_question_to_answer_index",
            "validation",
            0,
            "Given the following options, what do you think is the correct answer to "
            "the question below:\n\nWhy do people who are dying receive social "
            "security payments?\n\nOptions:\n\n- A: born again\n\n- B: unable "
            "to work\n\n- C: no longer exist",
            "B",
            1,
        ),
        (
            "cosmos_qa_only_question_answer",
            "validation",
            0,
            "Why is this person asking about divorce ?",
            "He wants to get married to a different person .",
            1,
        ),
        (
            "rotten_tomatoes_Sentiment_with_choices_",
            "test",
            0,
            "lovingly photographed in the manner of a golden book sprung to life , "
            "stuart little 2 manages sweetness largely without stickiness . \n"
            "Is this review positive or negative?",
            "positive",
            1,
        ),
    ],
)
def test_golden_rows(data_options, name, split, number, inputs, targets, label):
    # Change these only if the official template or the authors' file has changed.
    rendered = render(name, split, data_options)
    assert rendered.inputs[number] == inputs
    assert rendered.targets[number] == targets
    assert rendered.labels[number] == label


def test_quail_reads_alike_from_xml_and_json_lines(data_options):
    dev = render("quail_no_prompt_text", "validation", data_options)
    challenge = render("quail_no_prompt_text", "challenge", data_options)
    assert dev.inputs[0].startswith("Candy watched the bearded man drive")
    assert "- not enough information" in dev.inputs[0].splitlines()
    assert dev.targets[0] == "As he got out of the car"
    assert challenge.targets[1] == "After Cathy got divorced"
    assert {len(choices) for choices in dev.choices + challenge.choices} == {4}


def test_no_place_of_an_answer_tells_that_it_is_right(data_options):
    """The authors' ordered file, which this is, has right answers first, or last."""
    dev = render("quail_no_prompt_id", "validation", data_options)
    shares = np.bincount(dev.labels, minlength=4) / len(dev.labels)
    # Four standard errors of a quarter of 2,164 rows.
    np.testing.assert_allclose(shares, 0.25, atol=0.04)


def quail_file(folder, answers, num_questions=40):
    """Returns the rows of a QuAIL file whose questions have these answers."""
    questions = "".join(
        f'<q id="{number}">Q{number}?'
        + "".join(
            f'<a correct="{is_right}">{text}</a>' for text, is_right in answers(number)
        )
        + "</q>"
        for number in range(num_questions)
    )
    text = f"<text id='t'><text_body>Body.</text_body>{questions}</text>"
    folder.mkdir()
    (folder / "dev.xml").write_text(f"<data>{text}</data>")
    return list(author_files.quail([folder / "dev.xml"], "validation"))


def test_answers_of_a_randomized_file_stay_as_they_are(tmp_path):
    def answers(number):
        return [(text, text == "abcd"[number % 4]) for text in "abcd"]

    rows = quail_file(tmp_path / "randomized", answers)
    assert [row["answers"] for row in rows] == [list("abcd")] * 40
    assert [row["correct_answer_id"] for row in rows] == [n % 4 for n in range(40)]


@pytest.mark.parametrize("num_odd", [0, 4])
def test_answers_of_an_ordered_file_are_put_into_an_order_of_their_questions(
    tmp_path, num_odd
):
    """Also if a tenth of its questions are not in that order."""

    def right(number):
        return "b" if number < num_odd else "d" if number % 9 == 0 else "a"

    def answers(number):
        return [(text, text == right(number)) for text in "abcd"]

    rows = quail_file(tmp_path / "ordered", answers)
    assert rows == quail_file(tmp_path / "again", answers)
    assert {row["correct_answer_id"] for row in rows} == {0, 1, 2, 3}
    for number, row in enumerate(rows):
        assert sorted(row["answers"]) == list("abcd")
        assert row["answers"][row["correct_answer_id"]] == right(number)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "dream_baseline",
        "cos_e_v1.11_question_description_option_text",
        "commonsense_qa_question_answering",
        "quail_no_prompt_text",
        "rotten_tomatoes_Reviewer_Enjoyment",
    ],
)
def test_no_row_is_in_two_splits(data_options, name):
    dataset = next(d for d, prompts in original.TASKS.items() if name.startswith(d))
    texts = [set(render(name, split, data_options).inputs) for split in COUNTS[dataset]]
    assert len(set.union(*texts)) == sum(map(len, texts))


def test_no_dialogue_is_in_two_splits(data_options):
    ids = [
        {
            row["dialogue_id"]
            for row in author_files.DREAM.rows(s, data_dir=data_options.data_dir)
        }
        for s in COUNTS["dream"]
    ]
    assert [len(of_split) for of_split in ids] == [3869, 1288, 1287]
    assert len(set.union(*ids)) == sum(map(len, ids))


def test_sentiments_are_balanced_in_every_split(data_options):
    for split, count in COUNTS["rotten_tomatoes"].items():
        rendered = render("rotten_tomatoes_Reviewer_Enjoyment", split, data_options)
        assert sum(rendered.labels) * 2 == count


def test_real_tokens_are_whole_when_lengths_allow(data_options, tmp_path):
    texts = render(
        "rotten_tomatoes_Reviewer_Enjoyment", "validation", data_options
    ).inputs
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(tmp_path / "small"),
        vocab_size=500,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    vocab = vocabulary.SentencePiece(str(tmp_path / "small.model"))
    data = cache.open_cache(
        "rotten_tomatoes_Reviewer_Enjoyment",
        "validation",
        vocabulary=vocab,
        features=tasks.Features(512, 64),
        data_options=data_options,
    )
    assert data.manifest["cut"] == {"inputs": 0, "targets": 0, "choices": 0}
    for example in data:
        assert example.inputs.tolist() == [*vocab.encode(example.inputs_text), 1]
        assert (example.choices[example.label] == example.targets).all()


def test_files_that_are_not_there_are_named_with_their_origin(data_options):
    for name, origin in (
        ("cosmos_qa_no_prompt_id", "wilburOne/cosmosqa"),
        ("quail_no_prompt_id", "text-machine-lab/quail"),
    ):
        with pytest.raises(errors.DataError, match=origin):
            render(name, "train", data_options)


def test_an_unknown_prompt_is_told_with_the_nearest(data_options):
    ref = template_files.TemplateRef("dream", "base-line")
    with pytest.raises(errors.TemplateError, match="Did you mean: baseline"):
        ref.load(data_options.templates_dir)


def write(folder, name, lines):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines))


def test_with_five_choices_the_letter_prompt_drops_the_fifth(
    tmp_path, official_templates
):
    records = [
        {
            "id": str(i),
            "answerKey": "ABCDE"[i % 5],
            "question": {
                "stem": f"Which is number {i}?",
                "choices": [{"label": c, "text": f"{c.lower()}{i}"} for c in "ABCDE"],
            },
        }
        for i in range(10)
    ]
    lines = [json.dumps(record) for record in records]
    write(tmp_path, "commonsense_qa/train_rand_split.jsonl", lines)
    write(tmp_path, "cos_e/v1.0_train_rand_split.jsonl", lines[:1])
    options = tasks.DataOptions("", str(tmp_path), official_templates)
    named = render("commonsense_qa_question_answering", "train", options)
    assert len(named) == 10
    letters = render("commonsense_qa_question_to_answer_index", "train", options)
    assert len(letters) == 8
    assert letters.dropped == {"bad: no correct choice": 2}


def test_records_without_a_correct_answer_are_skipped_and_counted(
    tmp_path, official_templates
):
    header = "id,context,question,answer0,answer1,answer2,answer3,label"
    write(
        tmp_path, "cosmos_qa/valid.csv", [header, "1,c,q,a,b,c,d,2", "2,c,q,a,b,c,d,-1"]
    )
    quail = (
        '<data><text id="t"><text_body>Body.</text_body><questions>'
        '<q id="1">Q?<a correct="True">yes</a><a correct="False">no</a></q>'
        '<q id="2">Q?<a correct="False">yes</a><a correct="False">no</a></q>'
        "</questions></text></data>"
    )
    write(tmp_path, "quail/dev.xml", [quail])
    options = tasks.DataOptions("", str(tmp_path), official_templates)
    for name in ("cosmos_qa_no_prompt_text", "quail_no_prompt_text"):
        rendered = render(name, "validation", options)
        assert len(rendered) == 1
        assert rendered.dropped == {"skipped: no correct choice": 1}
