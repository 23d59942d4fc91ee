"""Parsers of the generative datasets' files, on small files of the authors' forms."""

import csv
import gzip
import json

import pytest

from elm_jax import errors
from elm_jax.data import serving, sources
from tasks import generative_files

FILES = generative_files.FILES
ALL = {**FILES, **generative_files.CROSSSUM, **generative_files.TATOEBA}


def rows_of(name, split, data_dir):
    return list(FILES[name].rows(split, data_dir=str(data_dir)))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def write_csv(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def test_wiki_auto_is_cut_at_its_end_and_parts_share_no_pair(tmp_path):
    count = 10_005
    for suffix in ("src", "dst"):
        lines = "".join(f"{suffix} {n}\n" for n in range(count))
        write(tmp_path / f"wiki_auto/train.{suffix}", lines)
    parts = {s: rows_of("wiki_auto", s, tmp_path) for s in FILES["wiki_auto"].splits}
    assert [len(part) for part in parts.values()] == [5, 6_000, 4_000]
    assert parts["train"][0]["normal_sentence"] == "src 0"
    assert parts["validation"][0]["normal_sentence"] == "src 5"
    last = {"normal_sentence": "src 10004", "simple_sentence": "dst 10004"}
    assert parts["test"][-1] == last
    texts = [row["normal_sentence"] for part in parts.values() for row in part]
    assert len(set(texts)) == count


def test_two_files_of_unequal_length_are_refused(tmp_path):
    write(tmp_path / "wiki_auto/train.src", "one\ntwo\n")
    write(tmp_path / "wiki_auto/train.dst", "one\n")
    with pytest.raises(errors.DataError, match="parallel_lines"):
        rows_of("wiki_auto", "test", tmp_path)


def test_asset_has_ten_references(tmp_path):
    write(tmp_path / "asset/asset.valid.orig", "A. \nB.\n")
    for number in range(10):
        write(tmp_path / f"asset/asset.valid.simp.{number}", f"a{number}\nb{number}\n")
    first, second = rows_of("asset", "validation", tmp_path)
    assert first["original"] == "A."
    assert second["simplifications"] == [f"b{number}" for number in range(10)]


def test_tatoeba_is_pairs_spread_evenly_over_a_training_file(tmp_path, monkeypatch):
    monkeypatch.setattr(generative_files, "NUM_TATOEBA_TRAIN", 4)
    source = generative_files.TATOEBA["tatoeba_eng_kor"]
    folder = tmp_path / "tatoeba/eng-kor"
    folder.mkdir(parents=True)
    for split, count in (("train", 10), ("dev", 6)):
        for side in ("src", "trg"):
            text = "".join(f"{side} {number}\n" for number in range(count))
            (folder / f"{split}.{side}.gz").write_bytes(gzip.compress(text.encode()))
    rows = list(source.rows("train", data_dir=str(tmp_path)))
    assert [row["source"] for row in rows] == ["src 0", "src 3", "src 5", "src 8"]
    assert rows[1] == {"source": "src 3", "target": "trg 3"}
    assert len(list(source.rows("dev", data_dir=str(tmp_path)))) == 6
    (folder / "dev.trg.gz").write_bytes(gzip.compress(b"one\n")[:-9])
    with pytest.raises(errors.DataError, match="dev.trg.gz"):
        list(source.rows("dev", data_dir=str(tmp_path)))


def test_haiku_and_covid_qa(tmp_path):
    pair = {"translation": {"en1": "Write a haiku", "en2": "a , b , c"}}
    write(tmp_path / "haiku/haikutest.json", json.dumps(pair) + "\n")
    assert rows_of("haiku", "test", tmp_path) == [
        {"request": "Write a haiku", "haiku": "a , b , c"}
    ]
    question = {"id": 7, "question": "Why?", "answers": [{"text": "So."}]}
    content = {"data": [{"paragraphs": [{"context": "c", "qas": [question]}]}]}
    write(tmp_path / "covid_qa/COVID-QA.json", json.dumps(content))
    (row,) = rows_of("covid_qa", "train", tmp_path)
    assert row["answers"] == {"text": ["So."]}
    assert row["is_impossible"] is False


def test_esnli_labels_are_tfds_and_rows_without_a_label_are_skipped(tmp_path):
    record = {"Sentence1": "p", "Sentence2": "h", "Explanation_1": "e"}
    labels = ("contradiction", "-")
    records = [{"gold_label": label, **record} for label in labels]
    write_csv(tmp_path / "esnli/esnli_test.csv", records)
    first, second = rows_of("esnli", "test", tmp_path)
    assert first == {
        "premise": "p",
        "hypothesis": "h",
        "label": 2,
        "explanation_1": "e",
    }
    assert second == sources.Skipped("no gold label")


def utterance(conversation, number, speaker, text, **changes):
    fields = {"conv_id": conversation, "utterance_idx": str(number)}
    said = {"speaker_idx": str(speaker), "utterance": text}
    situation = {"context": "glad", "prompt": "I won_comma_ twice."}
    return {**fields, **said, **situation, **changes}


def test_a_dialogue_gives_one_row_per_reply_with_all_before_it(tmp_path):
    records = [
        utterance("a", 1, 1, "I won_comma_ today!"),
        utterance("a", 2, 2, "Well done."),
        utterance("a", 3, 1, "Thank you."),
        utterance("b", 2, 2, "A dialogue without its beginning."),
        utterance("b", 3, 1, "It is left out."),
        utterance("c", 1, 1, "One speaks."),
        utterance("c", 2, 1, "And again: passed over."),
        utterance("c", 2, 2, "The other replies."),
    ]
    write_csv(tmp_path / "empatheticdialogues/valid.csv", records)
    replies = rows_of("emdg", "validation", tmp_path)
    assert [(row["dialogue"], row["reply"]) for row in replies] == [
        (["I won, today!"], "Well done."),
        (["I won, today!", "Well done."], "Thank you."),
        (["One speaks."], "The other replies."),
    ]
    assert replies[0]["situation"] == "I won, twice."
    assert replies[0]["emotion"] == "glad"


def test_utterances_are_parted_at_every_comma_and_quotes_are_text(tmp_path):
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
    lines = [
        'a,1,glad,I won.,1,"I won_comma_ today!,5|5|5_2|2|5,',
        'a,2,glad,I won.,2,"Well" done.,5|5|5_2|2|5,,one|two',
        "a,3,glad,I won.",
        "a,3,glad,I won.,1,Thank you.,,",
    ]
    write(tmp_path / "empatheticdialogues/valid.csv", "\n".join([header, *lines]))
    first, bad, second = rows_of("emdg", "validation", tmp_path)
    assert (first["dialogue"], first["reply"]) == (['"I won, today!'], '"Well" done.')
    assert second["reply"] == "Thank you."
    assert isinstance(bad, sources.Bad)
    assert "4 fields in line 4 of valid.csv" in bad.detail


def test_eli5_keeps_plain_questions_with_their_best_answer(tmp_path):
    answers = {"text": ["poor", "good"], "score": [1, 5]}
    titles = ("Why is it so?", "Is it so?", "What? Really?", "")
    lines = [json.dumps({"title": title, "answers": answers}) for title in titles]
    write(tmp_path / "eli5/test_asks.jsonl", "\n".join(lines))
    rows = rows_of("eli5", "test", tmp_path)
    assert rows[0] == {"question": "Why is it so?", "text": "good"}
    assert all(isinstance(row, sources.Skipped) for row in rows[1:])


def test_tweets_have_a_hashtag_and_no_tweet_is_in_two_splits(tmp_path):
    records = [
        {"author": f"a{n % 3}", "content": f"No {n} #tag{n} is here"}
        for n in range(600)
    ]
    records += records[:50]  # said again
    records += [{"author": "a", "content": "no tag"}]
    records += [{"author": "a", "content": "ends with #tag"}]
    write_csv(tmp_path / "twitter/tweets.csv", records)
    parts = {
        s: rows_of("twitter", s, tmp_path) for s in ("train", "validation", "test")
    }
    assert [len(part) for part in parts.values()] == [100, 250, 250]
    texts = [row["content"] for part in parts.values() for row in part]
    assert len(set(texts)) == 600
    row = parts["test"][0]
    assert row["hashtag_token"] in row["content"].split()


def test_continual_t0s_files_are_prompts_and_first_references(tmp_path):
    path = tmp_path / "explain_why.test.json"
    write(path, json.dumps({"src": ["p ", "q"], "tgt": [["t", "u"], " v"]}))
    assert list(generative_files.prompted([path], "test")) == [
        sources.Prompted("p", "t"),
        sources.Prompted("q", "v"),
    ]


def test_files_that_lack_are_named_with_their_place(tmp_path):
    for name, source in ALL.items():
        has = source.files if isinstance(source, sources.FileRows) else source.splits
        same = {split: split for split in has}
        any_of = serving.AnyOf(name, (serving.Option("files", source, same),))
        for split in has:
            with pytest.raises(errors.DataError, match=r"files: no \w+/.*; from "):
                serving.serve(any_of, split, data_dir=str(tmp_path))
