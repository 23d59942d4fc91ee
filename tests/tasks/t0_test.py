"""The official table: counts, names, hashes, a rendered example of every task."""

import collections
import csv
import json
import pathlib
import subprocess
import sys

import jinja2
import pytest

from elm_jax import errors
from elm_jax.data import cache, rendering, serving, tasks, templates, vocabulary
from tasks import pocket, t0, table_rows
from tests.tasks.golden import write_official

GOLDEN = pathlib.Path(__file__).parent / "golden"
BY_NAME = {task.name: task for task in t0.TASKS}
MIXTURES = {mixture.name: mixture for mixture in t0.MIXTURES}


def members(mixture):
    return [BY_NAME[name] for name in MIXTURES[mixture].tasks]


def test_the_counts_are_the_papers_and_t0s():
    train, unseen = members("elm_train"), members("elm_unseen")
    assert (len(train), len({task.dataset for task in train})) == (296, 36)
    assert (len(unseen), len({task.dataset for task in unseen})) == (113, 11)
    assert len(MIXTURES["t0_train"].tasks) == 313
    assert len({task.dataset for task in members("t0_train")}) == 38
    assert len(MIXTURES["t0_eval"].tasks) == 116
    clusters = collections.Counter(task.cluster for task in train)
    assert clusters == {
        "Multiple-Choice QA": 96,
        "Extractive QA": 37,
        "Closed-Book QA": 17,
        "Sentiment": 41,
        "Topic Classification": 29,
        "Structure-To-Text": 10,
        "Summarization": 41,
        "Paraphrase Identification": 25,
    }
    for cluster, count in clusters.items():
        slug = cluster.lower().replace(" ", "_").replace("-", "_")
        assert len(MIXTURES[f"cluster_{slug}"].tasks) == count
    assert sum(task.num_choices != 0 for task in train) == 173
    assert all(task.num_choices != 0 for task in unseen)
    for number in "123":
        assert len(MIXTURES[f"anli_r{number}"].tasks) == 15


def test_t0s_eval_is_its_original_tasks_and_more_differs_from_the_paper_by_name():
    elm, t0_eval = (set(MIXTURES[n].tasks) for n in ("elm_unseen", "t0_eval"))
    assert elm - t0_eval == {"hellaswag_how_ends"}
    assert len(t0_eval - elm) == 4
    assert all(name.startswith("super_glue_copa_") for name in t0_eval - elm)
    original = {p.task for p in table_rows.prompts() if p.original_task}
    assert t0_eval <= original


def test_names_are_unique_and_stay():
    # A name may be added; one that is gone or changed breaks experts and results.
    names = [task.name for task in t0.TASKS] + list(MIXTURES)
    assert len(names) == len(set(names))
    assert sorted(names) == (GOLDEN / "t0_names.txt").read_text().splitlines()
    for prompt in table_rows.prompts():
        folder, subset = table_rows.datasets()[prompt.dataset].folder
        expected = templates.task_name(folder, subset, prompt.prompt)
        if folder == "anli":
            expected += prompt.dataset.removeprefix("anli")
        assert prompt.task == expected


def test_the_table_is_the_recorded_facts(facts_dir):
    recorded = {}
    facts = json.loads((facts_dir / "train_prompts.json").read_text())
    for dataset in facts["datasets"]:
        for prompt in dataset["prompts"]:
            name = prompt["t0_seqio_task_name"]
            cap = prompt["elm"]["max_train_samples"]
            recorded[name] = (prompt["promptsource"]["jinja_sha256"], cap)
    for dataset in json.loads((facts_dir / "eval_tasks.json").read_text())["unseen"]:
        for prompt in dataset["prompts"]:
            name = prompt["t0_seqio_task_name"].removesuffix("_score_eval")
            recorded[name] = (prompt["jinja_sha256"], None)
    ours = {
        p.task: (p.jinja_sha256, p.max_examples) for p in table_rows.prompts() if p.elm
    }
    assert ours == recorded


def test_seen_and_unseen_share_no_dataset_and_roles_say_so():
    seen, unseen = (
        {table_rows.datasets()[t.dataset].promptsource for t in members(name)}
        for name in ("elm_train", "elm_unseen")
    )
    seen |= {table_rows.datasets()[t.dataset].promptsource for t in members("t0_train")}
    assert not seen & unseen
    assert {t.role for t in members("elm_train") + members("t0_train")} == {"train"}
    assert {t.role for t in members("elm_unseen") + members("t0_eval")} == {"unseen"}


def test_caps_are_t0s_and_the_papers():
    caps = MIXTURES["t0_train"].caps
    assert set(caps) == set(MIXTURES["t0_train"].tasks)
    for dataset, cap in (
        ("amazon_polarity", 55_555),
        ("gigaword", 55_555),
        ("wiki_bio", 100_000),
        ("yelp_review_full", 71_428),
        ("dbpedia_14", 125_000),
        ("glue_qqp", 363_846),
    ):
        caps_of_prompts = [
            caps[t.name] for t in members("t0_train") if t.dataset == dataset
        ]
        assert set(caps_of_prompts) == {cap}
    elm = MIXTURES["elm_train"]
    assert elm.cap("cosmos_qa_no_prompt_id") == 50_000
    assert elm.cap("xsum_DOC_tldr") == 10_000
    assert elm.cap("trec_what_category_best_describe") is None
    assert tasks.registry.caps("elm_cosmos_qa")["cosmos_qa_no_prompt_id"] == 3_847
    assert not tasks.registry.caps("cosmos_qa")


def test_importing_is_fast_and_reads_no_network_and_no_tensorflow(tmp_path):
    code = (
        "import socket, sys, time\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket = socket.create_connection = refuse\n"
        "import elm_jax.data.tasks\n"
        "start = time.process_time()\n"
        "import tasks.t0\n"
        "print(time.process_time() - start)\n"
        "assert not {'tensorflow', 'seqio', 'pyarrow', 'datasets'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    # 0.03 s on one idle core; a table that needs parsing or a package shows at once.
    assert float(done.stdout) < 0.5


@pytest.fixture(scope="module")
def golden():
    with (GOLDEN / "official_examples.csv").open(newline="") as file:
        return {row["task"]: row for row in csv.DictReader(file)}


def plain_jinja(template, row):
    """What a prompt is by PromptSource's definition, without its random choices."""
    environment = jinja2.Environment()
    environment.globals["zip"] = zip
    row = {key.replace("-", "_"): value for key, value in row.items()}
    choices = None
    if template.answer_choices:
        # Some rows have the separator in their texts.
        jinja = template.answer_choices.replace("|||", "\0")
        text = environment.from_string(jinja).render(**row)
        choices = [choice.strip() for choice in text.split("\0")]
    jinja = template.jinja.replace("|||", "\0")
    text = environment.from_string(jinja).render(**row, answer_choices=choices)
    parts = tuple(part.strip() for part in text.split("\0"))
    return (*parts, tuple(choices or ())) if len(parts) == 2 and all(parts) else None


@pytest.mark.slow
def test_every_official_prompt_has_its_hash_and_renders_as_plain_jinja_does(
    official_templates, golden
):
    compared = 0
    for task in t0.TASKS:
        # Loading checks the text's hash.
        template = task.template.load(official_templates)
        rendered = write_official.render(task, official_templates)
        assert len(rendered) == int(golden[task.name]["num_examples"])
        # Change only with tests/tasks/golden/write_official.py.
        assert write_official.digest(rendered) == golden[task.name]["sha256"], task.name
        ranked = task.num_choices != 0
        assert all((label >= 0) == ranked for label in rendered.labels), task.name
        if task.num_choices > 0:
            assert {len(c) for c in rendered.choices} == {task.num_choices}
        if "| choice" in template.jinja or "|choice" in template.jinja:
            continue
        rows = table_rows.examples()[task.dataset]
        expected = [plain_jinja(template, row) for row in rows]
        texts = zip(rendered.inputs, rendered.targets, rendered.choices, strict=True)
        assert list(texts) == [text for text in expected if text], task.name
        compared += 1
    assert len(golden) == len(t0.TASKS) == 446
    assert compared == 380


def test_templates_read_no_other_fields_than_the_table_says(official_templates):
    for prompt in table_rows.prompts():
        rows = table_rows.examples()[prompt.dataset]
        for row in rows:
            assert set(prompt.fields) <= {key.replace("-", "_") for key in row}
        template = BY_NAME[prompt.task].template.load(official_templates)
        reduced = [
            {k: v for k, v in row.items() if k.replace("-", "_") in prompt.fields}
            for row in rows
        ]
        for number, (row, less) in enumerate(zip(rows, reduced, strict=True)):
            whole = template.render(row, seed=number)
            assert template.render(less, seed=number) == whole, prompt.task


def test_a_changed_template_is_refused(tmp_path, official_templates):
    folder = tmp_path / "dream"
    folder.mkdir()
    text = pathlib.Path(official_templates, "dream", "templates.yaml").read_text()
    (folder / "templates.yaml").write_text(text.replace("Dialogue:", "Talk:"))
    with pytest.raises(errors.TemplateError, match="as in PromptSource 0.2.3"):
        BY_NAME["dream_baseline"].template.load(str(tmp_path))


def test_targets_that_official_choices_lack_are_among_the_repaired_ones(
    official_templates,
):
    repaired = [p for p in table_rows.prompts() if p.choices]
    assert len(repaired) == 2
    for prompt in repaired:
        rendered = write_official.render(BY_NAME[prompt.task], official_templates)
        assert len(rendered) == len(table_rows.examples()[prompt.dataset])
        assert min(rendered.labels) >= 0


def parts(task, *splits):
    return [serving.Part.parse(task.splits[split]) for split in splits]


@pytest.mark.slow
def test_no_evaluation_row_is_in_a_training_or_index_split():
    # Keys of an index are training rows, so no part of one split may meet the other.
    for task in t0.TASKS:
        pairs = [
            ("train", "validation"),
            ("train", "test"),
            ("train", "validation_300"),
        ]
        pairs += [("train@elm", "validation@elm"), ("validation", "test")]
        pairs += [("train@elm", "validation_300@elm")]
        for first, second in pairs:
            if not {first, second} <= set(task.splits):
                continue
            first_part, second_part = parts(task, first, second)
            if first_part.split == second_part.split:
                rows = table_rows.datasets()[task.dataset].rows[first_part.split]
                numbers = []
                for part in (first_part, second_part):
                    order = range(rows)
                    if part.seed is not None:
                        order = serving.torch_permutation(rows, part.seed).tolist()
                    numbers.append(set(order[part.start : part.stop]))
                assert not numbers[0] & numbers[1], (task.name, first, second)


@pytest.mark.slow
def test_seen_tasks_have_the_originals_300_rows(data_dir, official_templates):
    data_options = tasks.DataOptions("", str(data_dir), official_templates)
    task = BY_NAME["cosmos_qa_no_prompt_text"]
    assert len(rendering.render_split(task, "validation", data_options)) == 2985
    seen = rendering.render_split(task, "validation_300", data_options)
    assert len(seen) == 300
    rows: list = list(task.source.rows("validation", data_dir=str(data_dir)))
    # The first numbers of torch's permutation of 2,985 with seed 42.
    for number in (147, 2892, 1362, 2017):
        assert any(rows[number]["question"] in text for text in seen.inputs)
    elm = tasks.DataOptions("", str(data_dir), official_templates, protocol="elm")
    again = rendering.render_split(task, "validation", elm)
    assert again.inputs == seen.inputs
    dream = BY_NAME["dream_baseline"]
    assert len(rendering.render_split(dream, "train", elm)) == 6116


def test_a_caches_manifest_says_which_source_served(tmp_path, official_templates):
    data = cache.open_cache(
        "imdb_Sentiment_with_choices_",
        "train",
        vocabulary=vocabulary.SentencePiece(pocket.VOCABULARY.path),
        features=tasks.Features(512, 64),
        data_options=tasks.DataOptions(
            str(tmp_path), templates_dir=official_templates, sources=("examples",)
        ),
    )
    assert data.manifest["key"]["served_by"] == "examples"
    assert len(data) == 2


def test_manual_datasets_say_where_to_get_them_and_where_to_put_them(tmp_path):
    task = BY_NAME["story_cloze_2016_Answer_Given_options"]
    with pytest.raises(errors.DataError) as raised:
        list(task.source.rows("validation", data_dir=str(tmp_path)))
    assert "cs.rochester.edu/nlp/rocstories" in str(raised.value)
    assert "story_cloze/" in str(raised.value)


def test_every_dataset_names_its_origin_and_some_place():
    for dataset in table_rows.datasets().values():
        assert dataset.origin
        sources = dataset.tfds or dataset.hub or dataset.p3 or dataset.manual
        assert sources, dataset.name
