"""P3's folders are SeqIO caches; one is written here by SeqIO's own writer."""

import json

import pytest

from elm_jax import errors
from elm_jax.data import p3, rendering, serving, sources, tasks, template_files

EXAMPLES = [
    ("Which one? ", " yes", ["yes", "no "]),
    ("é?", "no", ["yes", "no"]),
    ("", "no", ["yes", "no"]),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    from elm_jax.data import seqio_tasks

    tf = seqio_tasks.import_tensorflow()
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
    places = tasks.Places("", str(data_dir))
    found = rendering.render_split(task, "train", places)
    assert found.labels == [0, 1]
    assert rendering.served(task, "train", places).name == "p3: some_task"


def test_a_folder_that_is_not_there_or_no_cache_is_told(data_dir):
    with pytest.raises(errors.DataError, match="data/other of the Hub dataset"):
        list(p3.P3Rows("other").rows("train", data_dir=str(data_dir)))
    folder = data_dir / "p3" / "bad"
    folder.mkdir()
    (folder / "train.tfrecord-00000-of-00001").write_bytes(b"")
    (folder / "info.train.json").write_text("{}")
    with pytest.raises(errors.DataError, match="not as SeqIO writes it"):
        list(p3.P3Rows("bad").rows("train", data_dir=str(data_dir)))
