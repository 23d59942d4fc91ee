"""Datasets in TFDS and on the Hub, read as prompts.

`hub_files` says what its schema is made of; `tfds_mocks` what is real here: builders,
versions, features and names of splits are TFDS 4.9.10's for every dataset, rows are
ours, or TFDS's own random ones.
"""

import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from elm_jax.data import rendering, serving, sources, tasks
from tasks import (
    compositional,
    conversions,
    generative,
    own,
    places,
    t0,
    table_rows,
)
from tests.tasks import hub_files, tfds_mocks

NAMES = list(tfds_mocks.DATASETS)


def options(name, kind):
    if name in table_rows.datasets():
        source = places.source_of(table_rows.datasets()[name], ())
    else:
        among = (*generative.TASKS, *compositional.TASKS)
        source = next(t.source for t in among if t.dataset == name)
    return [option for option in source.options if option.kind == kind]


def judged_split(task):
    return "eval_300" if task.role in ("continual", "composed") else "validation"


def tfds_split(task):
    """The split of TFDS that a task's judged rows come from."""
    own_split = serving.Part.parse(task.splits[judged_split(task)]).split
    (option,) = options(task.dataset, "tfds")
    source = option.source
    stored_split = option.splits[own_split]
    return getattr(source, "splits", {}).get(stored_split, stored_split)


def tasks_of(name, among):
    return [
        task
        for task in among
        if task.dataset == name and any(o.kind == "tfds" for o in task.source.options)
    ]


def test_the_datasets_are_those_that_the_builders_package_has():
    assert len(NAMES) == 29
    assert {"cos_e_v1.11", "anli_r3", "super_glue_wic", "esnli", "wiki_auto"} <= set(
        NAMES
    )
    for name in NAMES:
        assert tfds_mocks.builder(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_real_builder_makes_the_splits_of_the_table(name, tmp_path):
    place = tfds_mocks.DATASETS[name].tfds
    splits = place.get("splits") or dict.fromkeys(
        places.own_splits(tfds_mocks.DATASETS[name])
    )
    stored_splits = set(place["splits"].values()) if "splits" in place else set(splits)
    assert stored_splits <= tfds_mocks.split_names(name, tmp_path)


def rendered(task, rows, templates_dir=""):
    template = task.template.load(templates_dir)
    split = judged_split(task)
    return rendering.render_rows(rows, split=split, template=template)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_prompts_read_a_prepared_dataset_as_they_read_its_rows(
    name, tmp_path, official_templates
):
    official = tasks_of(name, t0.TASKS)
    ours = tasks_of(name, (*own.TASKS, *generative.TASKS))
    assert official or ours
    assert ours or name == "hellaswag"  # our prompt for it reads what TFDS lacks
    first = (official or ours)[0]
    split = judged_split(first)
    tfds_mocks.prepare(name, tfds_split(first), tmp_path)
    stored = tasks.DataOptions("", str(tmp_path), sources=("tfds",))
    served = rendering.served(first, split, stored)
    assert served.name.startswith("tfds: ")
    rows = list(served.rows())
    assert len(rows) == len(tfds_mocks.made_rows(name))
    for task in (*official, *ours):
        stored_split = rendered(task, rows, official_templates)
        expected = rendered(task, tfds_mocks.made_rows(name), official_templates)
        assert len(stored_split) > 0
        assert (stored_split.inputs, stored_split.targets) == (
            expected.inputs,
            expected.targets,
        ), task.name
        assert (stored_split.choices, stored_split.labels) == (
            expected.choices,
            expected.labels,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tfdss_own_random_rows_have_every_field_that_prompts_read(name, tmp_path):
    import tensorflow_datasets as tfds

    among = t0.TASKS if name in table_rows.datasets() else generative.TASKS
    reading = tasks_of(name, among)
    split = tfds_split(reading[0])
    tfds_mocks.prepare(name, split, tmp_path)
    full = tfds_mocks.DATASETS[name].tfds["name"]
    with tfds.testing.mock_data(
        num_examples=3,
        num_sub_examples=2,
        policy=tfds.testing.MockPolicy.USE_FILES,
        data_dir=str(tmp_path / full),  # what a builder of a folder takes it for
    ):
        rows = list(sources.TfdsRows(full).rows(split, data_dir=str(tmp_path)))
    assert len(rows) == 3
    assert rows != tfds_mocks.tfds_rows(name)
    (option,) = options(name, "tfds")
    for row in map(option.convert or dict, rows):
        for task in reading:
            present = {key.replace("-", "_") for key in row}
            assert set(task.source.fields) <= present, task.name


def test_labels_that_we_number_are_in_tfdss_order():
    coarse, fine = (
        tfds_mocks.builder("trec").info.features[f"label-{kind}"].names
        for kind in ("coarse", "fine")
    )
    assert coarse == conversions.TREC_COARSE
    assert fine == conversions.TREC_FINE
    labels = tfds_mocks.builder("esnli").info.features["label"].names
    assert labels == ["entailment", "neutral", "contradiction"]


def test_a_place_that_lacks_a_field_is_left_out_for_the_prompts_that_read_it():
    with_fields = [t for t in t0.TASKS if t.dataset == "hellaswag"]
    kinds = {
        task.name: {option.kind for option in task.source.options}
        for task in with_fields
    }
    assert {"tfds" in places_of_task for places_of_task in kinds.values()} == {
        True,
        False,
    }
    for task in with_fields:
        lacks = {"ctx_a", "ctx_b"} & set(task.source.fields)
        assert ("tfds" in kinds[task.name]) == (not lacks)


# Where no Parquet files were seen, by the Hub's pages: scripts and archives, which
# nothing reads any more.
UNSEEN = {
    *("wiki_bio", "gigaword", "multi_news", "ct0_gigaword", "wiki_auto", "esnli"),
    *(name for name in hub_files.DATASETS if name.startswith("xlsum_")),
}
# Repositories with one configuration that has a name, as the Hub's pages show it. A
# null in the table would do for those that listing finds, and for no others.
NAMED = {
    "amazon_polarity": "amazon_polarity",
    "covid_qa": "covid_qa_deepset",
    "dbpedia_14": "dbpedia_14",
    "dream": "plain_text",
    "esnli": "plain_text",
    "imdb": "plain_text",
    "quail": "quail",
    "ropes": "plain_text",
    "yelp_review_full": "yelp_review_full",
}


def hub_entries():
    for name, dataset in hub_files.DATASETS.items():
        assert dataset.hub
        for entry in (dataset.hub, *dataset.hub.get("mirrors", ())):
            yield name, dataset, entry


def test_every_hub_place_tells_where_it_was_read_and_when_or_that_none_was_seen():
    seen = re.compile(r"[AB]: .+; read \d{4}-\d{2}")
    for name, _, entry in hub_entries():
        if entry["verified"] is False:
            assert name in UNSEEN
        else:
            assert seen.fullmatch(entry["verified"]), name
            assert name not in UNSEEN
    assert len(hub_files.DATASETS) == 62


def test_every_hub_place_has_the_configuration_and_splits_of_the_hubs_pages():
    for name, dataset, entry in hub_entries():
        splits = entry.get("splits", {})
        assert not splits or set(places.own_splits(dataset)) <= set(splits)
        if name in NAMED:
            assert entry["config"] == NAMED[name]


def test_rows_that_a_place_has_in_another_number_are_told_there():
    samsum = table_rows.datasets()["samsum"]
    assert samsum.hub
    assert (samsum.rows["train"], samsum.hub["rows"]["train"]) == (14732, 14731)


def test_a_mirror_serves_what_lies_there_and_is_named(tmp_path):
    first, mirror = options("social_i_qa", "hub")
    rows = pa.Table.from_pylist(hub_files.hub_rows("social_i_qa"))
    (tmp_path / "hub/lighteval/siqa/data").mkdir(parents=True)
    file = tmp_path / "hub/lighteval/siqa/data/train-00000-of-00001.parquet"
    parquet.write_table(rows, file)
    source = places.source_of(table_rows.datasets()["social_i_qa"], ())
    served = serving.serve(source, "train", data_dir=str(tmp_path), order=("hub",))
    if first.source.missing("train", data_dir=str(tmp_path)):  # else it is fetched
        assert served.name == "hub: lighteval/siqa@refs/convert/parquet"
    assert list(mirror.source.rows("train", data_dir=str(tmp_path))) == rows.to_pylist()


@pytest.mark.parametrize("name", hub_files.DATASETS)
def test_prompts_read_parquet_files_as_they_read_its_rows(
    name, tmp_path, official_templates
):
    option = options(name, "hub")[0]
    reading = [
        task
        for suite in (t0, own, generative)
        for task in suite.TASKS
        if task.dataset == name
    ] + [task for task in compositional.TASKS if task.dataset == name]
    first = reading[0]
    own_split = serving.Part.parse(first.splits[judged_split(first)]).split
    stored_split = option.splits[own_split]
    hub_files.write(
        name,
        getattr(option.source, "splits", {}).get(stored_split, stored_split),
        tmp_path,
    )
    stored = tasks.DataOptions("", str(tmp_path), sources=("hub",))
    rows = list(rendering.served(first, judged_split(first), stored).rows())
    mock_rows = hub_files.made_rows(name)
    # One of the made dialogues has two replies.
    whole = [
        row for row in rows if name != "emdg" or row["reply"] in replies(mock_rows)
    ]
    assert len(whole) == len(mock_rows)
    for task in reading:
        read = rendered(task, whole, official_templates)
        expected = rendered(task, mock_rows, official_templates)
        assert len(read) > 0
        assert (read.inputs, read.targets) == (expected.inputs, expected.targets)
        assert (read.choices, read.labels) == (expected.choices, expected.labels)


def replies(rows):
    return {row["reply"] for row in rows}
