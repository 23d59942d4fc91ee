"""Formats of tables: Parquet files, P3's folders of Parquet files and TFRecords."""

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow import parquet

from elm_jax.data import hub, p3, rendering, sources, tasks, tensorflow_imports
from tests.fuzz.contract import Format, Valid, same
from tests.fuzz.rows import TEMPLATE, judge_rendered, make_rows

_HUB = hub.HubRows("fuzzed/rows")
_FILE = "hub/fuzzed/rows/default/train/0000.parquet"
_P3 = p3.P3Rows("some_task")


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes pages with checksums, in two row groups."""
    path.parent.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(
        table, path, row_group_size=len(rows) // 2, write_page_checksum=True
    )


def _plain(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows by another way through pyarrow, without checksums."""
    with path.open("rb") as file:
        return parquet.read_table(file, use_threads=False).to_pylist()


def _make_parquet(folder: pathlib.Path, variant: int) -> None:
    _write(folder / _FILE, make_rows(variant))


def _read_parquet(folder: pathlib.Path) -> Any:
    task = tasks.Task(
        name="fuzzed",
        dataset="fuzzed",
        prompt="ask",
        cluster="QA",
        source=_HUB,
        template=TEMPLATE,
        metrics=("accuracy",),
        max_bad_share=1.0,
    )
    data_options = tasks.DataOptions(
        cache_dir=str(folder / "cache"), data_dir=str(folder)
    )
    return rendering.render_split(task, "train", data_options)


def _judge_parquet(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Pages have checksums: texts are those that were written, in some columns."""
    written = {text for split in valid.values for text in split.inputs}
    if not set(value.inputs) <= written:
        return f"{set(value.inputs) - written!r:.300} was never written"
    return judge_rendered(_plain(folder / _FILE), value)


_EXAMPLES = (
    ("Which one? {}", "yes", ["yes", "no {}"]),
    ("What is {}?", "no", ["yes", "no"]),
    ("Is it 猫 {}?", "{}", ["{}", "none"]),
    ("Say something of {}.", "a longer answer {}", []),
)


def _examples(variant: int) -> list[tuple[str, str, list[str]]]:
    word = ("a river", "a stone")[variant]
    return [
        (
            question.format(word),
            answer.format(word),
            [choice.format(word) for choice in choices],
        )
        for question, answer, choices in _EXAMPLES
    ]


def _make_p3_parquet(folder: pathlib.Path, variant: int) -> None:
    rows = [
        {
            "answer_choices": choices,
            "inputs": [3, 4],
            "inputs_pretokenized": question,
            "targets": [5],
            "targets_pretokenized": answer,
        }
        for question, answer, choices in _examples(variant)
    ]
    _write(folder / "p3/some_task/train-00000-of-00001.parquet", rows)


def _make_p3_records(folder: pathlib.Path, variant: int) -> None:
    tf = tensorflow_imports.import_tensorflow()
    place = folder / "p3/some_task"
    place.mkdir(parents=True)

    def texts(*values: str) -> Any:
        items = [value.encode() for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=items))

    path = place / "train.tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for question, answer, choices in _examples(variant):
            feature = {
                "inputs_pretokenized": texts(question),
                "targets_pretokenized": texts(answer),
                "answer_choices": texts(*choices),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    columns = {"answer_choices": [None], "targets_pretokenized": []}
    columns |= {"inputs_pretokenized": []}
    features = {n: {"shape": s, "dtype": "string"} for n, s in columns.items()}
    info = {"num_shards": 1, "seqio_version": "0.0.20", "features": features}
    (place / "info.train.json").write_text(json.dumps(info))


def _read_p3(folder: pathlib.Path) -> Any:
    return [
        row if isinstance(row, sources.Skipped) else (*row,)
        for row in _P3.rows("train", data_dir=str(folder))
    ]


def _judge_p3_parquet(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    written = {row[0] for rows in valid.values for row in rows}
    if any(row[0] not in written for row in value):
        return f"{value!r:.300} was never written"
    rows = _plain(folder / "p3/some_task/train-00000-of-00001.parquet")
    right = [
        (
            row["inputs_pretokenized"],
            row["targets_pretokenized"],
            tuple(row.get("answer_choices") or ()),
        )
        for row in rows
    ]
    return (
        "" if same(value, right) else f"read {value!r:.200} instead of {right!r:.200}"
    )


def _judge_p3_records(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Records have checksums: those that are there whole are as they were written."""
    written = {record for rows in valid.values for record in rows}
    if not set(value) <= written:
        return f"{set(value) - written!r:.300} was never written"
    path = folder / "p3/some_task/train.tfrecord-00000-of-00001"
    number = sum(1 for _ in _records(path.read_bytes()))
    return "" if len(value) == number else f"{len(value)} of {number} records"


def _records(data: bytes) -> Iterator[bytes]:
    """Yields the records of a TFRecord file: length, checksum, content, checksum."""
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 8], "little")
        record = data[place + 12 : place + 12 + size]
        sums = data[place + 8 : place + 12], data[place + 12 + size :][:4]
        for part, checksum in zip((data[place : place + 8], record), sums, strict=True):
            if _masked_crc(part).to_bytes(4, "little") != checksum:
                raise ValueError(f"a wrong checksum at {place}")
        yield record
        place += 16 + size


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = (number >> 1) ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


def _masked_crc(data: bytes) -> int:
    """Returns TFRecord's checksum: CRC-32C, rotated, with a constant added."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _crc_table()[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


FORMATS = {
    "parquet": Format(
        _make_parquet, _read_parquet, _judge_parquet, {"hub/**/*.parquet": ("bytes",)}
    ),
    "p3_parquet": Format(
        _make_p3_parquet, _read_p3, _judge_p3_parquet, {"p3/*/*.parquet": ("bytes",)}
    ),
    "p3_records": Format(
        _make_p3_records,
        _read_p3,
        _judge_p3_records,
        {"p3/*/*.json": ("json",), "p3/*/train.tfrecord*": ("bytes",)},
    ),
}
