"""Kept rows make a store open fast, and change nothing that it says."""

import dataclasses
import json
from unittest import mock

import pytest

from elm_jax import errors
from elm_jax.evaluation import result_store, row_cache, row_lines
from tests.evaluation import made_rows


def row(number, **changes):
    fields = {
        "expert": f"e{number}",
        "value": 100.0 / (number + 3),
        "experts": {"b": "1", "a": "2"} if number % 2 else {},
        "training_seed": None if number % 3 else 7,
        "inputs_cut": 0.1 * number,
        "source": 'ex\n"t猫',
    }
    return made_rows.row(**(fields | changes))


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A store of 20 rows that are kept."""
    monkeypatch.setattr(row_cache, "LEAST_BYTES", 1000)
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    store.append(*map(row, range(20)))
    store.finish()
    return store.path


def cache_file(path):
    return path.with_name(f".{path.name}.rows")


def rows_without_parsing(path):
    with mock.patch.object(row_lines, "_row", side_effect=AssertionError):
        return result_store.ResultStore(path).rows()


def rows_of_lines(path):
    return tuple(row_lines.read_rows(path))


def test_rows_that_are_kept_come_back_as_the_lines_say_without_parsing_them(path):
    rows = rows_without_parsing(path)
    assert rows == rows_of_lines(path)
    lines = "".join(f"{result.to_json()}\n" for result in rows)
    assert lines == path.read_text()
    assert [*map(hash, rows)] == [*map(hash, rows_of_lines(path))]
    assert dataclasses.replace(rows[0], value=1.0) == row(0, value=1.0)


def test_only_the_lines_that_came_later_are_parsed(path):
    with mock.patch.object(row_cache, "LEAST_BYTES", 2**30):
        result_store.ResultStore(path).append(row(20), row(21))
    parsed = []
    real = row_lines._row
    with mock.patch.object(
        row_lines, "_row", side_effect=lambda line: parsed.append(line) or real(line)
    ):
        rows = result_store.ResultStore(path).rows()
    assert len(parsed) == 2
    assert rows == tuple(map(row, range(22)))


def test_whoever_opens_many_lines_keeps_their_rows(path):
    cache_file(path).unlink()
    result_store.ResultStore(path)
    assert rows_without_parsing(path) == rows_of_lines(path)


def test_an_error_names_the_line_of_the_file(path):
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(errors.DataError, match="line 21 of"):
        result_store.ResultStore(path)


def test_lines_that_were_edited_count_and_not_the_rows_that_were_kept(path):
    text = path.read_text()
    first = json.loads(text.splitlines()[0])
    changed = text.replace(f'"value": {first["value"]}', '"value": 12.5', 1)
    path.write_text(changed)
    assert result_store.ResultStore(path).rows()[0].value == 12.5
    path.write_text("".join(changed.splitlines(keepends=True)[:3]))
    assert len(result_store.ResultStore(path).rows()) == 3


def test_a_line_that_was_edited_while_a_store_was_open_is_not_lost(path):
    cache_file(path).unlink()
    store = result_store.ResultStore(path)
    text = path.read_text().replace('"value": ', '"value":  ')
    path.write_text(text.replace(f'"value":  {row(3).value}', '"value":  12.5'))
    store.finish()
    assert result_store.ResultStore(path).rows()[3].value == 12.5


@pytest.mark.slow
def test_no_changed_byte_of_what_is_kept_changes_a_row(path):
    whole, expected = cache_file(path).read_bytes(), rows_of_lines(path)
    with mock.patch.object(row_cache, "save"):
        for place in range(0, len(whole), 23):
            cache_file(path).write_bytes(
                whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :]
            )
            assert result_store.ResultStore(path).rows() == expected
        cache_file(path).write_bytes(whole[: len(whole) // 2])
        assert result_store.ResultStore(path).rows() == expected
        cache_file(path).write_bytes(b"[]\n")
        assert result_store.ResultStore(path).rows() == expected


def test_rows_of_other_fields_are_parsed_again(path):
    head, _, content = cache_file(path).read_bytes().partition(b"\n")
    facts = json.loads(head)
    facts = {**facts, "fields": facts["fields"][::-1]}
    del facts["digest"]
    cache_file(path).write_bytes(json.dumps(facts).encode() + b"\n" + content)
    assert result_store.ResultStore(path).rows() == rows_of_lines(path)


def test_a_number_that_would_be_written_otherwise_is_not_kept(path):
    cache_file(path).unlink()
    lines = path.read_text().replace('"inputs_cut": 0.0', '"inputs_cut": 0')
    path.write_text(lines)
    rows = result_store.ResultStore(path).rows()
    assert not cache_file(path).exists()
    assert "".join(f"{result.to_json()}\n" for result in rows) == lines


def test_an_unfinished_last_line_is_not_kept(path, capsys):
    cache_file(path).unlink()
    path.write_bytes(path.read_bytes()[:-1])  # whole, but for its end
    assert len(result_store.ResultStore(path).rows()) == 20
    assert not cache_file(path).exists()
    path.write_bytes(path.read_bytes()[:-20])
    assert len(result_store.ResultStore(path).rows()) == 19
    assert "left out" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_read(path):
    cache_file(path).unlink()
    with mock.patch.object(
        row_cache.files,
        "write_bytes",
        side_effect=errors.ConfigError(found="a", expected="b", do="c"),
    ):
        assert len(result_store.ResultStore(path).rows()) == 20


def test_small_files_keep_nothing(tmp_path):
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    store.append(*map(row, range(20)))
    store.finish()
    assert [*tmp_path.iterdir()] == [store.path]
