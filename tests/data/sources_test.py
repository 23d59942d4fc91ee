import functools
import importlib
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import rendering, sources, templates
from elm_jax.disk import files


def count_rows(split, stop=3):
    return ({"number": i, "split": split} for i in range(stop))


def broken(paths, split):
    for path in paths:
        yield {"value": json.loads(path.read_text())["absent"]}


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "train.jsonl").write_text('{"a": 1}\n\n{"a": "é"}\n')
    return sources.FileRows(
        sources.json_lines,
        {"train": ["old.jsonl|here/train.jsonl"]},
        origin="example.org",
    )


def test_generated_rows_are_repeatable_and_named_by_version():
    source = sources.GeneratedRows(count_rows, version="1")
    assert list(source.rows("train", data_dir="")) == list(
        source.rows("train", data_dir="")
    )
    prints = {
        source.fingerprint(split, data_dir="")
        for source in (
            source,
            sources.GeneratedRows(count_rows, version="2"),
            sources.GeneratedRows(functools.partial(count_rows, stop=4), version="1"),
            sources.GeneratedRows(functools.partial(count_rows, stop=5), version="1"),
        )
        for split in ("train", "test")
    }
    assert len(prints) == 8


def test_files_are_read_from_the_first_place_that_has_them(lines, tmp_path):
    rows = list(lines.rows("train", data_dir=str(tmp_path)))
    assert rows == [{"a": 1}, {"a": "é"}]


def test_fingerprint_follows_content_not_place(lines, tmp_path):
    before = lines.fingerprint("train", data_dir=str(tmp_path))
    moved = tmp_path / "other" / "here"
    moved.mkdir(parents=True)
    (moved / "train.jsonl").write_text('{"a": 1}\n\n{"a": "é"}\n')
    assert lines.fingerprint("train", data_dir=str(moved.parent)) == before
    (moved / "train.jsonl").write_text('{"a": 2}\n')
    assert lines.fingerprint("train", data_dir=str(moved.parent)) != before


def test_missing_data_says_what_is_missing_and_where_to_get_it(lines, tmp_path):
    for data_dir, message in (
        ("", "no data folder ''"),
        (str(tmp_path / "none"), "no data folder"),
        (str(tmp_path / "here"), "no file old.jsonl or here/train.jsonl"),
    ):
        with pytest.raises(errors.DataError, match=message) as raised:
            list(lines.rows("train", data_dir=data_dir))
        assert "example.org" in str(raised.value)
    with pytest.raises(errors.DataError, match="Did you mean: train"):
        list(lines.rows("trian", data_dir=str(tmp_path)))


def test_a_malformed_file_is_named(tmp_path):
    (tmp_path / "bad.json").write_text('{"present": 1}')
    source = sources.FileRows(broken, {"train": ["bad.json"]}, origin="example.org")
    with pytest.raises(errors.DataError, match=r"bad\.json.*KeyError: 'absent'"):
        list(source.rows("train", data_dir=str(tmp_path)))


@hypothesis.given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9))))
@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_csv_fields_survive_quotes_commas_and_newlines(tmp_path, records):
    import csv

    records = [
        tuple(t.replace("\r", "").replace("\0", "") for t in pair) for pair in records
    ]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["one", "two"])
        writer.writerows(records)
    rows = sources.csv_rows([tmp_path / "rows.csv"])
    assert [(row["one"], row["two"]) for row in rows] == records


def test_tfds_rows_are_plain_python_and_need_no_tensorflow_to_name(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tmp_path = tmp_path / "data [1]*"  # no pattern
    folder = tmp_path / "small" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "text": tfds.features.Text(),
            "label": tfds.features.Scalar(np.int64),
            "answers": tfds.features.Sequence(tfds.features.Text()),
        }
    )
    record = str(folder / "small-train.tfrecord-00000-of-00001")
    with tf.io.TFRecordWriter(record) as writer:
        for i in range(3):
            text = f"é{i}" if i < 2 else b"caf\xe9"
            row = {"text": text, "label": i, "answers": ["a", "b"]}
            writer.write(features.serialize_example(features.encode_example(row)))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[tfds.core.SplitInfo(name="train", shard_lengths=[3], num_bytes=0)],
    )
    source = sources.TfdsRows("small/1.0.0")
    rows = list(source.rows("train", data_dir=str(tmp_path)))
    assert rows[1] == {"text": "é1", "label": 1, "answers": ["a", "b"]}
    assert isinstance(rows[1]["label"], int)
    prompt = templates.Template("t", "1", "{{text}} ||| {{label}}")
    rendered = rendering.render_rows(rows, split="train", template=prompt)
    assert rendered.inputs == ["é0", "é1"]
    assert rendered.dropped == {"bad: not UTF-8": 1}
    assert len(source.fingerprint("train", data_dir=str(tmp_path))) == 16
    with pytest.raises(errors.DataError, match="tfds build small"):
        source.fingerprint("train", data_dir=str(tmp_path / "none"))


def test_what_a_parser_of_a_package_calls_is_part_of_its_code(tmp_path, monkeypatch):
    for name in ("my_package/__init__.py", "my_package/parts.py", "my_helper.py"):
        files.write_text(tmp_path / name, "")
    files.write_text(tmp_path / "my_package/parsers.py", "def parse(): ...\n")
    files.write_text(tmp_path / "my_parsers.py", "def parse(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    packaged = importlib.import_module("my_package.parsers").parse
    alone = importlib.import_module("my_parsers").parse
    before = [sources.code_of(fn) for fn in (packaged, alone)]
    files.write_text(tmp_path / "my_package/parts.py", "LIMIT = 3\n")
    files.write_text(tmp_path / "my_helper.py", "LIMIT = 3\n")
    after = [sources.code_of(fn) for fn in (packaged, alone)]
    assert before[0] != after[0]
    assert before[1] == after[1]
    files.write_text(tmp_path / "my_parsers.py", "def parse(): return 1\n")
    assert sources.code_of(alone) != after[1]
