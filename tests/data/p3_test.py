"""P3's folders: a SeqIO cache, written by SeqIO's own writer, and Parquet files."""

import json
import shutil

import pyarrow
import pytest
from pyarrow import parquet

from elm_jax import errors
from elm_jax.data import (
    p3,
    rendering,
    serving,
    sources,
    tasks,
    template_files,
    tensorflow_imports,
)

EXAMPLES = [
    ("Which one? ", " yes", ["yes", "no "]),
    ("é?", "no", ["yes", "no"]),
    ("", "no", ["yes", "no"]),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):

    tf = tensorflow_imports.import_tensorflow()
    root = tmp_path_factory.mktemp("data")
    folder = root / "p3" / "some_task"
    folder.mkdir(parents=True)

    def text(*values):
        items = [value.encode() for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=items))

    def ids(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    path = folder / "train.tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for inputs, targets, choices in EXAMPLES:
            feature = {
                "inputs": ids(3, 4),
                "inputs_pretokenized": text(inputs),
                "targets": ids(5),
                "targets_pretokenized": text(targets),
                "answer_choices": text(*choices),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    described = {
        name: {"shape": shape, "dtype": dtype}
        for name, shape, dtype in (
            ("inputs", [None], "int32"),
            ("inputs_pretokenized", [], "string"),
            ("targets", [None], "int32"),
            ("targets_pretokenized", [], "string"),
            ("answer_choices", [None], "string"),
        )
    }
    info = {"num_shards": 1, "seqio_version": "0.0.20", "features": described}
    (folder / "info.train.json").write_text(json.dumps(info))
    return root


def test_prompts_targets_and_choices_come_as_they_were_cached(data_dir):
    rows = list(p3.P3Rows("some_task").rows("train", data_dir=str(data_dir)))
    assert rows == [
        sources.Prompted("Which one?", "yes", ("yes", "no")),
        sources.Prompted("é?", "no", ("yes", "no")),
        sources.Skipped("an empty prompt or target"),
    ]


@pytest.mark.parametrize("file", ["train-00000-of-00001.parquet", "train/0000.parquet"])
def test_parquet_files_give_the_same_rows_as_the_cache(data_dir, tmp_path, file):
    rows = [
        {
            "answer_choices": choices,
            "inputs": [3, 4],
            "inputs_pretokenized": inputs,
            "targets": [5],
            "targets_pretokenized": targets,
        }
        for inputs, targets, choices in EXAMPLES
    ]
    path = tmp_path / "p3" / "some_task" / file
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    source = p3.P3Rows("some_task")
    assert source.missing("train", data_dir=str(tmp_path)) == ""
    read = list(source.rows("train", data_dir=str(tmp_path)))
    assert read == list(source.rows("train", data_dir=str(data_dir)))
    prints = {
        source.fingerprint("train", data_dir=str(d)) for d in (data_dir, tmp_path)
    }
    assert len(prints) == 2
    with pytest.raises(errors.DataError, match="no test: some_task with train"):
        list(source.rows("test", data_dir=str(tmp_path)))
    # Tasks without choices lack the column, others may not.
    whole = pyarrow.Table.from_pylist(rows)
    parquet.write_table(whole.drop_columns("answer_choices"), path)
    assert next(source.rows("train", data_dir=str(tmp_path))).choices == ()
    parquet.write_table(whole.drop_columns("inputs_pretokenized"), path)
    with pytest.raises(errors.DataError, match="without inputs_pretokenized"):
        list(source.rows("train", data_dir=str(tmp_path)))


@pytest.fixture
def copied(data_dir, tmp_path):
    """A folder of its own, which may be damaged."""
    shutil.copytree(data_dir / "p3/some_task", tmp_path / "p3/some_task")
    return tmp_path


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_flipped_bit_in_a_record_is_told(copied, place):
    path = copied / "p3/some_task/train.tfrecord-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match="train in .* cannot be read"):
        list(p3.P3Rows("some_task").rows("train", data_dir=str(copied)))


def test_bytes_after_the_last_record_are_told(copied):
    path = copied / "p3/some_task/train.tfrecord-00000-of-00001"
    path.write_bytes(path.read_bytes() + b"\0\0\0")
    with pytest.raises(errors.DataError, match="files that end after a record"):
        list(p3.P3Rows("some_task").rows("train", data_dir=str(copied)))


def test_choices_are_those_of_the_records_whatever_the_description_lists(copied):
    path = copied / "p3/some_task/info.train.json"
    described = json.loads(path.read_text())
    described["features"]["choices"] = described["features"].pop("answer_choices")
    path.write_text(json.dumps(described))
    first = next(p3.P3Rows("some_task").rows("train", data_dir=str(copied)))
    assert first.choices == ("yes", "no")
    described["features"]["targets_pretokenized"] = {"shape": [None], "dtype": "string"}
    path.write_text(json.dumps(described))
    with pytest.raises(errors.DataError, match="targets_pretokenized is no text"):
        list(p3.P3Rows("some_task").rows("train", data_dir=str(copied)))


def test_a_task_is_served_by_p3_without_its_template(data_dir):
    source = serving.AnyOf(
        "some",
        (serving.Option("p3", p3.P3Rows("some_task"), {"train": "train"}),),
        fields=("field of the rows",),
    )
    task = tasks.Task(
        "some_task", "some", "task", "", source,
        template_files.TemplateRef("no", "such"), ("accuracy",),
    )  # fmt: skip
    data_options = tasks.DataOptions("", str(data_dir))
    rendered = rendering.render_split(task, "train", data_options)
    assert rendered.labels == [0, 1]
    assert rendering.served(task, "train", data_options).name == "p3: some_task"


def test_a_copy_that_lacks_a_file_is_not_taken_for_the_whole(data_dir, tmp_path):
    source = data_dir / "p3/some_task/train.tfrecord-00000-of-00001"
    folder = tmp_path / "p3" / "some_task"
    folder.mkdir(parents=True)
    for name in ("train.tfrecord-00001-of-00003", "test-00000-of-00002.parquet"):
        (folder / name).write_bytes(source.read_bytes())
    for split, counts in (("train", "1 of 00003"), ("test", "1 of 00002")):
        with pytest.raises(errors.DataError, match=f"{counts} files of {split}"):
            list(p3.P3Rows("some_task").rows(split, data_dir=str(tmp_path)))


def test_a_folder_that_is_not_there_or_no_cache_is_told(data_dir):
    with pytest.raises(
        errors.DataError, match="other of the Hub dataset bigscience/P3"
    ):
        list(p3.P3Rows("other").rows("train", data_dir=str(data_dir)))
    folder = data_dir / "p3" / "bad"
    folder.mkdir()
    (folder / "train.tfrecord-00000-of-00001").write_bytes(b"")
    (folder / "info.train.json").write_text("{}")
    with pytest.raises(errors.DataError, match="not as SeqIO writes it"):
        list(p3.P3Rows("bad").rows("train", data_dir=str(data_dir)))
