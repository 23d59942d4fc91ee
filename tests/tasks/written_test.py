"""Tables whose prompts are ours: Continual-T0's files first."""

import json

import pytest

from elm_jax import errors
from elm_jax.data import rendering, tasks
from tasks import generative, written


@pytest.mark.parametrize("outer", ["", "covid_qa/"])
def test_continual_t0s_files_come_first_in_both_layouts(tmp_path, outer):
    folder = tmp_path / f"ct0_data/{outer}covid_qa_deepset"
    folder.mkdir(parents=True)
    content = {"src": [f"p{n}" for n in range(301)], "tgt": ["t"] * 301}
    text = json.dumps(content)
    (folder / "covid_cloze_book_qa.train.json").write_text(text)
    task = task_named("covid_qa_covid_qa_deepset")
    data_options = tasks.DataOptions("", str(tmp_path))
    assert len(rendering.render_split(task, "train", data_options)) == 1
    assert "T0_continual_learning" in rendering.served(task, "train", data_options).name
    # The original code trains on all of them.
    elm = tasks.DataOptions("", str(tmp_path), protocol="elm")
    assert len(rendering.render_split(task, "train", elm)) == 301


def task_named(name):
    return next(task for task in generative.TASKS if task.name == name)


@pytest.mark.parametrize("table", ["generative", "compositional", "translation"])
def test_datasets_name_their_origin_and_whose_words_their_prompts_are(table):
    for entry in written.read(table).values():
        assert entry.dataset.origin
        assert len({prompt.id for prompt in entry.prompts}) == len(entry.prompts)
        assert "our own words" in entry.dataset.note or table == "generative"


def test_rows_without_a_prompts_fields_are_refused_by_name(tmp_path):
    task = task_named("twitter_tweet_as_about")
    (tmp_path / "twitter").mkdir()
    text = "writer,content\nx,go #on there\n"
    (tmp_path / "twitter/tweets.csv").write_text(text)
    with pytest.raises(errors.DataError, match="author"):
        rendering.render_split(task, "test", tasks.DataOptions("", str(tmp_path)))


def test_tweets_of_two_ways_to_split_them_do_not_mix(tmp_path):
    # Continual-T0 draws its test part otherwise: its test and our training would share.
    task = task_named("twitter_tweet_as_about")
    folder = tmp_path / "ct0_data/twitter_top20"
    folder.mkdir(parents=True)
    content = json.dumps({"src": ["p"], "tgt": ["t"]})
    data_options = tasks.DataOptions("", str(tmp_path))
    (folder / "tweet_as+about.test.json").write_text(content)
    with pytest.raises(errors.DataError, match="train.json"):
        rendering.render_split(task, "test", data_options)
    (folder / "tweet_as+about.train.json").write_text(content)
    for split in ("train", "test"):
        assert rendering.render_split(task, split, data_options).inputs == ["p"]
