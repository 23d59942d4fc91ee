import dataclasses
import json
import multiprocessing

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import result_store, results, row_lines
from tests.evaluation.made_rows import cell, row


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = (row(100 / 3), row(25.0, expert='<script>"\n'), row(0.0, metric="f1"))
    result_store.ResultStore(tmp_path / "new" / "rows.jsonl").append(*rows)
    assert result_store.ResultStore(tmp_path / "new" / "rows.jsonl").rows() == rows


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        result_store.ResultStore(tmp_path / name).append(row(), row(1.5, task="t"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_grid_that_is_run_again_skips_what_it_has(tmp_path):
    cells = [cell(task=f"t{i}") for i in range(3)]
    first = result_store.ResultStore(tmp_path / "rows")
    for scored in cells[:2]:
        first.record(scored, run_id="1", values={"accuracy": 50.0}, num_examples=4)
    again = result_store.ResultStore(tmp_path / "rows")
    assert again.missing(cells, ["accuracy"]) == cells[2:]
    assert again.missing(cells, ["accuracy", "f1"]) == cells


def test_other_parameters_are_another_cell(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows")
    store.append(row(expert_fingerprint="aa"))
    assert store.has(cell(expert_fingerprint="aa"), "accuracy")
    assert not store.has(cell(expert_fingerprint="bb"), "accuracy")
    assert not store.has(cell(expert_fingerprint="aa", seed=1), "accuracy")


def test_a_row_that_is_there_is_not_written_twice(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows")
    store.append(row())
    store.append(row(run_id="later"))
    assert len((tmp_path / "rows").read_text().splitlines()) == 1


def test_a_row_that_another_process_has_just_written_is_not_written_twice(tmp_path):
    first, second = (result_store.ResultStore(tmp_path / "rows") for _ in range(2))
    first.append(row(), row(task="one"))
    second.append(row(run_id="other"), row(task="other"))
    first.append(row(task="other"), row(task="last"))
    lines = result_store.ResultStore(tmp_path / "rows").rows()
    assert [r.task for r in lines] == [row().task, "one", "other", "last"]
    assert len((tmp_path / "rows").read_text().splitlines()) == 4


def test_another_value_that_another_process_has_just_written_is_refused(tmp_path):
    first, second = (result_store.ResultStore(tmp_path / "rows") for _ in range(2))
    first.append(row(task="before"))
    first.append(row())
    with pytest.raises(errors.DataError, match=r"50\.5, and 50\.0"):
        second.append(row(50.5))
    assert len((tmp_path / "rows").read_text().splitlines()) == 2


def test_another_value_for_the_same_cell_is_refused(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows")
    store.append(row())
    with pytest.raises(errors.DataError, match=r"50\.5, and 50\.0"):
        store.append(row(50.5))
    assert store.rows() == (row(),)


@pytest.mark.parametrize("num_bytes", [1, 40, -2])
def test_the_open_last_line_of_a_killed_run_is_dropped(tmp_path, num_bytes):
    path = tmp_path / "rows"
    result_store.ResultStore(path).append(row(), row(task="lost"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:num_bytes])
    store = result_store.ResultStore(path)
    assert store.rows() == (row(),)
    store.append(row(task="next"))
    assert path.read_bytes().count(b"\n") == 2
    assert result_store.ResultStore(path).rows() == (row(), row(task="next"))


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "rows"
    path.write_text(row().to_json())
    store = result_store.ResultStore(path)
    store.append(row(task="next"))
    assert result_store.ResultStore(path).rows() == (row(), row(task="next"))


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"expert": 1}', "null"])
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "rows"
    path.write_text(f"{row().to_json()}\n{line}\n")
    with pytest.raises(errors.DataError, match="line 2 of"):
        result_store.ResultStore(path)


@pytest.mark.parametrize("changes", [{"value": np.nan}, {"num_examples": 0}])
def test_a_score_of_nothing_is_no_row(changes):
    with pytest.raises(errors.DataError, match="over"):
        row(**changes)


def test_per_example_arrays_come_back_and_are_checked(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows")
    arrays = {"example_ids": np.arange(4), "accuracy": np.array([0, 100, 0, 100.0])}
    store.record(
        cell(),
        run_id="r",
        values={"accuracy": 50.0},
        num_examples=4,
        per_example=arrays,
    )
    (written,) = result_store.ResultStore(tmp_path / "rows").rows()
    assert not written.per_example_path.startswith("/")
    read = store.per_example(written)
    assert {k: v.tolist() for k, v in read.items()} == {
        k: v.tolist() for k, v in arrays.items()
    }
    path = tmp_path / written.per_example_path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.DataError, match="altered"):
        store.per_example(written)
    path.unlink()
    with pytest.raises(errors.DataError, match="missing"):
        store.per_example(written)
    with pytest.raises(errors.DataError, match="no per-example file"):
        store.per_example(row())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    store = result_store.ResultStore(tmp_path / "file" / "rows")
    with pytest.raises(errors.ConfigError, match="cannot be written"):
        store.append(row())


def test_a_full_disk_leaves_the_old_rows_only(tmp_path):
    path = tmp_path / "rows"
    result_store.ResultStore(path).append(row())
    process = multiprocessing.get_context("spawn").Process(
        target=_append_with_little_space, args=(path,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert path.read_text() == f"{row().to_json()}\n"


def _append_with_little_space(path):
    import resource
    import signal

    store = result_store.ResultStore(path)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails instead
    limit = path.stat().st_size + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(errors.ConfigError):
        store.append(row(task="too much"))


@pytest.mark.slow
def test_rows_that_several_processes_write_at_once_are_all_there(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"cut')  # a killed process left it
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    tasks = {row.task for row in result_store.ResultStore(path).rows()}
    assert tasks == {f"task_{n}_{i}" for n in range(3) for i in range(40)}


def _append_many(path, number):
    store = result_store.ResultStore(path)
    for i in range(40):
        store.append(row(task=f"task_{number}_{i}"))


def test_a_line_holds_every_field_in_order():
    fields = [field.name for field in dataclasses.fields(results.ResultRow)]
    assert list(json.loads(row().to_json())) == fields


def test_facts_come_back_are_no_part_of_the_key_and_lack_in_older_lines(tmp_path):
    facts = results.Facts(
        data_fingerprint="ab",
        inputs_cut=12.5,
        undistinguished=25.0,
        undistinguished_reasons={"choices of the same text": 1},
        ties=0.0,
    )
    store = result_store.ResultStore(tmp_path / "rows")
    store.record(
        cell(), run_id="r", values={"accuracy": 50.0}, num_examples=4, facts=facts
    )
    (new,) = result_store.ResultStore(tmp_path / "rows").rows()
    assert new == row(**dataclasses.asdict(facts))
    old = json.loads(new.to_json())
    for name in dataclasses.asdict(facts):
        del old[name]
    (tmp_path / "old").write_text(f"{json.dumps(old)}\n")
    (read,) = row_lines.read_rows(tmp_path / "old")
    assert read == row()
    assert read.key("accuracy") == new.key("accuracy")
    assert (read.inputs_cut, read.ties) == (None, None)


@pytest.mark.parametrize("reopens", [True, False])
def test_a_strategys_newest_row_tells_what_it_chose_last_and_from_where(
    tmp_path, reopens
):
    """Its library grows, loses what it got, and is then of several seeds."""
    path = tmp_path / "results.jsonl"
    store = result_store.ResultStore(path)
    chosen = {"kind": "strategy", "expert": "retrieved", "training_seed": 7}
    old = row(50.0, **chosen, expert_fingerprint="aa", library="small")
    grown = row(40.0, **chosen, expert_fingerprint="bb", library="grown")
    mixed = dataclasses.replace(old, library="")
    same = dataclasses.replace(old, library="grown")
    other_seed = dataclasses.replace(old, training_seed=8)
    written = [old, grown, old, same, mixed, other_seed, old]
    for added in written:
        store.append(added)
        if reopens:
            store = result_store.ResultStore(path)
        store.append(added, dataclasses.replace(added, run_id="again"))
    assert [*store.rows()] == written
    with pytest.raises(errors.DataError, match="one value per cell"):
        store.append(dataclasses.replace(grown, value=51.0, library="c"))
    assert [*result_store.ResultStore(path).rows()] == written


def test_rows_of_one_call_are_all_added_and_compared_with_each_other(tmp_path):
    store = result_store.ResultStore(tmp_path / "results.jsonl")
    chosen = {"kind": "strategy", "expert": "retrieved"}
    rows = [row(50.0, **chosen, library=name) for name in ("a", "b")]
    store.append(*rows, rows[1])
    assert [*store.rows()] == rows
    with pytest.raises(errors.DataError, match="one value per cell"):
        store.append(row(1.0, task="new"), row(2.0, task="new"))
    assert [*store.rows()] == rows


def test_a_line_of_another_value_by_a_second_writer_is_left_out(tmp_path):
    path = tmp_path / "results.jsonl"
    chosen = {"kind": "strategy", "expert": "retrieved"}
    rows = [row(50.0, **chosen, library="a"), row(50.1, **chosen, library="b")]
    path.write_text("".join(f"{each.to_json()}\n" for each in rows))
    store = result_store.ResultStore(path)
    assert [*store.rows()] == rows[:1]
    store.append(row(50.0, **chosen, library="c"))
    assert len(store.rows()) == 2
