"""What JSON of files is read and what is refused, with the place."""

import json
import os

import pytest

from elm_jax.disk import json_files

DEEP = 100_000
REFUSED = {
    "": "no JSON",
    '{"a": ': r"no JSON: .*\(character 7\)",
    '{"a": 1}\n{': r"no JSON: .*\(line 2, character 1\)",
    '{"a": 1}\0\0': "no JSON",
    "[" * DEEP: "more than 64 lists or objects",
    "[" * DEEP + "]" * DEEP: "more than 64 lists or objects",
    '{"a":' * 200 + "1" + "}" * 200: "more than 64 lists or objects",
    '{"a": 1, "b": 2, "a": 3}': "the key 'a' 2 times",
    '{"a": NaN}': "the number NaN, which is not finite",
    '{"a": -Infinity}': "-Infinity, which is not finite",
    '{"a": 1e999}': "1e999, which is not finite",
    '{"a": 1' + "0" * 400 + "}": "a whole number of 401 digits",
    '{"a": 1' + "0" * 9_000 + "}": "a whole number of 9001 digits",
    '{"a": "\\ud800"}': "half a character",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=lambda v: v[:24])
def test_what_is_no_json_of_ours_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        json_files.parse(text)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="no UTF-8: byte 3"):
        json_files.parse(b'{"a\xff": 1}')


def test_a_byte_order_mark_and_bytes_of_a_path_are_read():
    content = {"a": [1, 2.5, "x"], "path": os.fsdecode(b"/tmp/\xff")}
    text = json.dumps(content)
    assert json_files.parse(b"\xef\xbb\xbf" + text.encode()) == content


def test_as_many_levels_as_are_allowed_are_read():
    text = "[" * json_files.MOST_DEPTH + "]" * json_files.MOST_DEPTH
    json_files.parse(text)
    with pytest.raises(ValueError, match="more than 64"):
        json_files.parse(f"[{text}]")
    json_files.parse(f"[{'[1],' * 1000}2]")


def test_data_of_others_may_have_nan_and_long_numbers_but_nothing_infinite():
    text = '{"a": NaN, "b": 1' + "0" * 30 + ', "c": "\\ud800"}'
    parsed = json_files.parse(text, is_untrusted=True)
    assert parsed["a"] != parsed["a"]
    assert parsed["b"] == 10**30
    for text, message in REFUSED.items():
        if message.endswith(("half a character", "digits")) or "NaN" in message:
            continue
        with pytest.raises(ValueError, match=message):
            json_files.parse(text, is_untrusted=True)


def test_what_is_no_file_or_too_large_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no file, but a pipe"):
        json_files.read(tmp_path / "pipe")  # would wait for ever
    with pytest.raises(IsADirectoryError):
        json_files.read(tmp_path)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(2**40)  # of holes
    with pytest.raises(ValueError, match="1,099,511,627,776 bytes, more than"):
        json_files.read(large)
    large.unlink()


WHOLE = b'{"step": 1}\n{"step": 2}\n'
TAILS = (b'{"step": 3', b"\0\0\0\0", b"\xff\xfe", b"garbage", b'{"step": "x"}')


def needs_step(value):
    return "" if isinstance(value, dict) and value.get("step") in (1, 2) else "no step"


@pytest.mark.parametrize("tail", TAILS)
def test_a_last_line_that_was_never_finished_is_left_out_and_told(
    tmp_path, capsys, tail
):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(WHOLE + tail)
    finished = list(json_files.lines(path, needs_step))
    assert [tuple(line) for line in finished] == [(1, {"step": 1}), (2, {"step": 2})]
    assert f"{path}: the last line is left out" in capsys.readouterr().err


@pytest.mark.parametrize("tail", TAILS)
def test_a_damaged_line_before_the_end_is_refused_by_its_number(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(WHOLE + tail + b"\n" + WHOLE)
    with pytest.raises(ValueError, match="line 3: "):
        list(json_files.lines(path, needs_step))


def test_a_last_line_without_an_end_counts_if_it_is_whole(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(WHOLE.rstrip())
    assert len(list(json_files.lines(path, needs_step))) == 2
    assert not capsys.readouterr().err
