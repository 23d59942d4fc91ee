"""Values of examples lie in few files that others read; no kill or damage is missed."""

import dataclasses
import hashlib
import io
import multiprocessing
import shutil

import numpy as np
import pyarrow as pa
import pytest

from elm_jax import errors
from elm_jax.data import token_store
from elm_jax.evaluation import per_example_files, result_store, results
from tests.evaluation import made_rows

IDS = np.arange(4)


def cell(number=0, **changes):
    return made_rows.cell(**({"expert": f"e{number}"} | changes))


def ranked(number=0):
    values = np.array([0, 100, 50, 100.0], np.float32)[(IDS + number) % 4]
    return {
        "example_ids": IDS,
        "accuracy": values,
        "num_choices": np.full(4, 2, np.int32),
        "scores": np.arange(8, dtype=np.float32) - number,
    }


def written(texts=("a b", "", "猫")):
    ragged = token_store.Ragged.of_texts(texts)
    ids = np.arange(len(texts))
    return {
        "example_ids": ids,
        "texts.values": ragged.values,
        "texts.offsets": ragged.offsets,
        "rougeL": ids * 1.5,
        "answers_cut": ids > 1,
    }


def record(store, number=0, arrays=None, **changes):
    arrays = ranked(number) if arrays is None else arrays
    store.record(
        cell(number, **changes),
        run_id="r",
        values={"accuracy": 62.5, "chance": 50.0},
        num_examples=4,
        per_example=arrays,
    )


def content(folder):
    return {
        f"{path.relative_to(folder)}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_same(arrays, expected):
    assert [*arrays] == [*expected]
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(arrays[name], array, strict=True)


@pytest.mark.parametrize(
    "arrays",
    [
        ranked(),
        written(),
        written(()),
        {"example_ids": IDS, "f1": np.array([np.nan, -0.0, np.inf, 1e-300])},
        {"example_ids": IDS, "half": np.ones(4, np.float16), "b": IDS.astype(np.uint8)},
    ],
    ids=["ranked", "written", "none", "floats", "types"],
)
def test_arrays_come_back_in_their_types_and_order(tmp_path, arrays):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store, arrays=arrays)
    first, _ = result_store.ResultStore(store.path).rows()
    assert_same(store.per_example(first), arrays)
    name = [*arrays][-1]
    assert_same(store.per_example(first, only=(name,)), {name: arrays[name]})


def test_a_grid_is_one_file_for_each_kind_of_arrays(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    for number in range(20):
        record(store, number)
        record(store, number, arrays=written(), task="written")
    again = result_store.ResultStore(store.path)  # such as the next shard
    for number in range(20, 30):
        record(again, number)
    assert len([*(tmp_path / "per_example").iterdir()]) == 2
    for row in result_store.ResultStore(store.path).rows():
        expected = ranked(int(row.expert[1:])) if row.task == "quail_y" else written()
        assert_same(store.per_example(row), expected)


def test_others_read_the_file_as_a_stream_of_arrow(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    for number in range(3):
        record(store, number)
    (path,) = (tmp_path / "per_example").iterdir()
    table = pa.ipc.open_stream(path).read_all().to_pylist()
    assert [row["expert"] for row in table] == ["e0", "e1", "e2"]
    assert [row["accuracy"] for row in table] == [
        ranked(number)["accuracy"].tolist() for number in range(3)
    ]
    hashes = [row.per_example_sha256 for row in store.rows() if row.metric == "chance"]
    assert [row["values_sha256"] for row in table] == hashes


def test_texts_are_texts_for_others(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store, arrays=written())
    (path,) = (tmp_path / "per_example").iterdir()
    (row,) = pa.ipc.open_stream(path).read_all().to_pylist()
    assert row["texts"] == ["a b", "", "猫"]


def test_the_hash_of_values_is_that_of_earlier_versions(tmp_path):
    """So that scores of an old store and a new one can be compared."""
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store)
    buffer = io.BytesIO()
    np.savez(buffer, **ranked())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    assert {row.per_example_sha256 for row in store.rows()} == {digest}


def old_store(folder, numbers):
    """A store as earlier versions wrote it: a file for each cell."""
    store = result_store.ResultStore(folder / "rows.jsonl")
    for number in numbers:
        buffer = io.BytesIO()
        np.savez(buffer, **ranked(number))
        path = folder / f"per_example/0{number}/{cell(number).digest}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        fields = {name: getattr(cell(number), name) for name in results.CELL_FIELDS}
        store.append(
            results.ResultRow(
                **fields,
                run_id="old",
                metric="accuracy",
                value=62.5,
                num_examples=4,
                per_example_path=f"{path.relative_to(folder)}",
                per_example_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
            )
        )
    return store


def test_a_store_of_earlier_versions_is_read_and_continued(tmp_path):
    old_store(tmp_path, (0, 1))
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store, 2)
    for row in result_store.ResultStore(store.path).rows():
        assert_same(store.per_example(row), ranked(int(row.expert[1:])))
    old = store.rows()[0]
    path = tmp_path / old.per_example_path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.DataError, match="altered"):
        store.per_example(old)


def undisturbed(folder, count=4):
    store = result_store.ResultStore(folder / "rows.jsonl")
    for number in range(count):
        record(store, number)
    return content(folder)


@pytest.mark.parametrize("num_bytes", [0, 1, 300, 1500, -1])
def test_a_run_killed_within_a_record_ends_like_one_that_was_not(tmp_path, num_bytes):
    expected = undisturbed(tmp_path / "whole")
    undisturbed(tmp_path / "cut", 2)
    (path,) = (tmp_path / "cut/per_example").iterdir()
    store = result_store.ResultStore(tmp_path / "cut/rows.jsonl")
    start = store.rows()[-1].per_example_offset + store.rows()[-1].per_example_length
    whole = (tmp_path / "whole/per_example" / path.name).read_bytes()[start:]
    length = len(whole) // 2
    path.write_bytes(path.read_bytes() + whole[:length][:num_bytes])
    again = result_store.ResultStore(store.path)
    for number in range(4):
        record(again, number)
    assert content(tmp_path / "cut") == expected


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_killed_between_record_and_row_ends_like_one_that_was_not(
    tmp_path, count
):
    expected = undisturbed(tmp_path / "whole")
    undisturbed(tmp_path / "cut", count)
    path = tmp_path / "cut/rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    undisturbed(tmp_path / "cut")
    assert content(tmp_path / "cut") == expected


@pytest.mark.parametrize("num_bytes", [0, 1, 700])
def test_a_run_killed_while_it_made_its_file_ends_like_one_that_was_not(
    tmp_path, num_bytes
):
    expected = undisturbed(tmp_path / "whole")
    (name,) = [name for name in expected if name.startswith("per_example")]
    path = tmp_path / "cut" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(expected[name][:num_bytes])
    assert undisturbed(tmp_path / "cut") == expected


def test_values_that_rows_of_another_file_name_are_never_removed(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    for number in range(3):
        record(store, number)
    store.path.rename(tmp_path / "kept.jsonl")
    anew = result_store.ResultStore(store.path)
    record(anew, 0)
    record(anew, 5)
    first_store = result_store.ResultStore(tmp_path / "kept.jsonl")
    for row in (*first_store.rows(), *anew.rows()):
        assert_same(store.per_example(row), ranked(int(row.expert[1:])))


def test_another_file_is_begun_where_the_end_of_one_is_lost(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store, 0)
    record(store, 1)
    (path,) = (tmp_path / "per_example").iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    again = result_store.ResultStore(store.path)
    record(again, 2)
    first, *_, second, _, third, _ = again.rows()
    assert_same(again.per_example(third), ranked(2))
    assert_same(again.per_example(first), ranked(0))
    with pytest.raises(errors.DataError, match="altered"):
        again.per_example(second)


@pytest.mark.slow
def test_no_changed_byte_is_missed(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store)
    row, _ = store.rows()
    (path,) = (tmp_path / "per_example").iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]
        )
        with pytest.raises(errors.DataError, match="altered"):
            store.per_example(row)
    path.write_bytes(whole)
    assert_same(store.per_example(row), ranked())


@pytest.mark.parametrize(
    "changes",
    [
        {"per_example_offset": -8},
        {"per_example_offset": 2**62},
        {"per_example_length": 2**62},
        {"per_example_length": None},
        {"per_example_length": -1},
        {"per_example_record_sha256": None},
        {"per_example_sha256": "0" * 64},
        {"per_example_path": "per_example"},
        {"per_example_path": "per_example/\0"},
        {"per_example_path": "rows.jsonl"},
    ],
    ids=str,
)
def test_a_row_that_names_another_place_or_hash_is_refused(tmp_path, changes):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store)
    row = dataclasses.replace(store.rows()[0], **changes)
    with pytest.raises(errors.DataError, match="altered|missing|of other values"):
        store.per_example(row)


def test_a_row_never_makes_a_run_write_elsewhere(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store)
    (path,) = (tmp_path / "per_example").iterdir()
    shutil.copy(path, tmp_path / "mine.arrow")
    before = (tmp_path / "mine.arrow").read_bytes()
    for name in ("mine.arrow", "per_example/../mine.arrow"):
        row = dataclasses.replace(store.rows()[0], expert=name, per_example_path=name)
        store.append(row)
    again = result_store.ResultStore(store.path)
    record(again, 3)
    assert (tmp_path / "mine.arrow").read_bytes() == before
    assert again.rows()[-1].per_example_path == f"per_example/{path.name}"


@pytest.mark.slow
def test_processes_that_write_at_once_share_files(tmp_path):
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "rows.jsonl"
    writers = [context.Process(target=_record_many, args=(path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = result_store.ResultStore(path)
    assert len(store.rows()) == 2 * 20  # those of 20 are asked for by all three
    for row in store.rows():
        assert_same(store.per_example(row), ranked(int(row.expert[1:])))
    (file,) = (tmp_path / "per_example").iterdir()
    assert pa.ipc.open_stream(file).read_all().num_rows == 20


def _record_many(path, start):
    store = result_store.ResultStore(path)
    for number in range(20):
        record(store, (number + 7 * start) % 20)


def test_a_full_disk_leaves_the_old_records_only(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    record(store)
    before = content(tmp_path)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_record_with_little_space, args=(store.path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert content(tmp_path) == before


def _record_with_little_space(path):
    import resource
    import signal

    store = result_store.ResultStore(path)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails instead
    (file,) = (path.parent / "per_example").iterdir()
    limit = file.stat().st_size + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(errors.ConfigError, match="cannot be written"):
        record(store, 1)


def test_values_hash_tells_arrays_apart():
    assert per_example_files.values_hash(ranked(0)) != per_example_files.values_hash(
        ranked(1)
    )
