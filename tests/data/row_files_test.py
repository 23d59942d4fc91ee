"""The shapes in which real files are damaged, each with the right outcome."""

import gzip

import pytest

from elm_jax import errors
from elm_jax.data import rendering, row_files, sources, tasks, templates

PROMPT = templates.Template("t", "1", "{{text}} Good or bad? ||| {{label}}", "0 ||| 1")
MARK = b"\xef\xbb\xbf"
LINES = "".join(f'{{"text": "shoe {i}", "label": {i % 2}}}\n' for i in range(40))


@pytest.fixture
def render(tmp_path):
    """Renders a file of some bytes, as a task of one of the two readers."""

    def run(content, parse=sources.csv_rows, *, template=PROMPT, max_bad_share=0.5):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / "train.file").write_bytes(content)
        task = tasks.Task(
            *("made", "made", "t", "none"),
            sources.FileRows(parse, {"train": ["train.file"]}, origin="example.org"),
            *(template, ("accuracy",)),
            splits={"train": "train"},
            max_bad_share=max_bad_share,
        )
        data_options = tasks.DataOptions("", str(tmp_path))
        return rendering.render_split(task, "train", data_options)

    return run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nThe heel broke.,0\nThey fit, like gloves.,1\n", "3 instead of 2"),
        ("label,text\n0,The heel broke.\n1\n", "1 instead of 2 fields in line 3"),
    ],
)
def test_a_ragged_csv_row_is_counted_and_named(render, content, message):
    rendered = render(content)
    assert rendered.inputs == ["The heel broke. Good or bad?"]
    assert rendered.dropped == {f"bad: {row_files.RAGGED}": 1}
    (first,) = rendered.first_bad.values()
    assert first.startswith("row 1: ")
    assert message in first
    with pytest.raises(errors.DataError, match="1 of 2 rows .* train.file"):
        render(content, max_bad_share=0.05)


def test_lines_are_counted_over_fields_of_several_lines(render):
    rendered = render('text,label\n"one\ntwo\nthree",1\nshort\n')
    (first,) = rendered.first_bad.values()
    assert "line 5" in first


def test_a_csv_field_may_be_as_long_as_a_row(render):
    rendered = render("text,label\n" + "word " * 28_000 + ",1\n")
    assert len(rendered.inputs[0]) == 5 * 28_000 + len(" Good or bad?")
    with pytest.raises(errors.DataError, match="too long: more than 1,000,000"):
        render("text,label\n" + "word " * 280_000 + ",1\n")


def test_a_quote_that_is_never_closed_does_not_swallow_rows(render):
    rows = "".join(f"shoe {i},1\n" for i in range(50))
    with pytest.raises(
        errors.DataError, match=r"begins in line 52 of train\.file .* never closed"
    ):
        render(f'text,label\n{rows}"a shoe,1\n{rows}')


@pytest.mark.parametrize("field", ['"a shoe" of mine', '"a shoe', ' fine"'])
def test_a_stray_quote_does_not_swallow_rows_up_to_the_next(render, field):
    rows = "".join(f"shoe {i},1\n" for i in range(50))
    content = f'text,label\n{rows}{field},1\n{rows}"so, so",0\n"its ""sole""",1\n'
    if field.startswith('"'):
        with pytest.raises(errors.DataError, match=r"begins in line 52 of train\.file"):
            render(content)
    else:  # inside of a field a quote is a letter
        assert len(render(content).inputs) == 103


def test_columns_of_one_name_are_refused(render):
    with pytest.raises(errors.DataError, match="several columns named text"):
        render("text,label,text\na,1,b\n")


@pytest.mark.parametrize("parse", [sources.csv_rows, sources.json_lines])
def test_a_byte_order_mark_is_no_part_of_the_data(render, parse):
    rows = "text,label\nThey fit.,1\n"
    if parse is sources.json_lines:
        rows = '{"text": "They fit.", "label": 1}\n'
    assert render(MARK + rows.encode(), parse).inputs == ["They fit. Good or bad?"]
    assert render(MARK + rows.encode(), parse) == render(rows, parse)
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(errors.DataError, match="save it as UTF-8"):
            render(rows.encode(encoding), parse)


def test_the_line_that_is_no_json_is_named(render):
    lines = LINES.splitlines(keepends=True)
    lines[16] = '{"text": "shoe 16", "label": 0\n'
    message = r"line 17 of train\.file: no JSON: .*\(character 31\)"
    with pytest.raises(errors.DataError, match=message):
        render("".join(lines), sources.json_lines)


@pytest.mark.parametrize("parse", [sources.csv_rows, sources.json_lines])
def test_bytes_that_are_not_utf8_cost_their_row_alone(render, parse):
    rows = b"text,label\nplain,0\ncaf\xe9,1\n"
    if parse is sources.json_lines:
        rows = b'{"text": "plain", "label": 0}\n{"text": "caf\xe9", "label": 1}\n'
    rendered = render(rows, parse)
    assert rendered.inputs == ["plain Good or bad?"]
    assert rendered.dropped == {f"bad: {templates.NOT_UTF8}": 1}


@pytest.mark.parametrize("value", ["null", "NaN", '["a", null]', '{"b": [NaN]}'])
def test_a_null_that_would_be_printed_costs_its_row(render, value):
    rows = f'{{"text": "plain", "label": 0}}\n{{"text": {value}, "label": 1}}\n'
    rendered = render(rows, sources.json_lines)
    assert rendered.inputs == ["plain Good or bad?"]
    assert rendered.dropped == {f"bad: {templates.NULL_VALUE}": 1}
    (first,) = rendered.first_bad.values()
    assert first.startswith("row 1: ")
    tests = templates.Template(
        "t", "1", "{% if text %}{{text}}{% else %}Nothing{% endif %} ||| {{label}}"
    )
    assert render(rows, sources.json_lines, template=tests).dropped == (
        {} if value in ("null", "NaN") else rendered.dropped
    )


def test_json_files_and_lines_are_read_packed_or_not(tmp_path):
    for path, content in (
        (tmp_path / "a.json", MARK + b'{"a": [1]}'),
        (tmp_path / "a.json.gz", gzip.compress(MARK + b'{"a": [1]}')),
    ):
        path.write_bytes(content)
        assert row_files.read_json(path) == {"a": [1]}
    (tmp_path / "lines").write_bytes(MARK + "one\u2028more\r\ntwo\n\n".encode())
    assert row_files.read_lines(tmp_path / "lines") == ["one\u2028more", "two"]


def test_a_conversion_passes_on_what_is_no_row_and_names_the_row_it_fails_for():
    bad, skipped = sources.Bad("why"), sources.Skipped("so")
    rows = [bad, {"n": "1"}, skipped, {"n": "x"}]
    converted = row_files.converted(rows, lambda row: {"n": int(row["n"])})
    assert [next(converted) for _ in range(3)] == [bad, {"n": 1}, skipped]
    with pytest.raises(ValueError, match="row 3, from 0, does not fit: ValueError"):
        next(converted)


def test_a_comma_too_many_is_a_bad_row_and_no_traceback(render):
    rendered = render("text,label\ngood film,1\nbad, really,0\n")  # extracomma.csv
    assert rendered.inputs == ["good film Good or bad?"]
    assert rendered.dropped == {f"bad: {row_files.RAGGED}": 1}


ROW = '{"text": "shoe", "label": 1}\n'
DAMAGED_LINES = [
    ("[" * 100_000 + "\n", "line 2 of .*: more than 64 lists"),
    ('{"text": "a", "text": "b", "label": 1}\n', "line 2 of .*: the key 'text' 2"),
    ('{"text": "a", "label": Infinity}\n', "line 2 of .*: the number Infinity"),
    ('{"text": "a", "label": 1e999}\n', "line 2 of .*: the number 1e999"),
    ('{"text": "a", "label": 1' + "0" * 5_000 + "}\n", "line 2 of .*: .*digits"),
    ("\0\0\0\n", "line 2 of .*: no JSON"),
    ('{"text": "a", "la', "line 2 of .*: no JSON"),
]


@pytest.mark.parametrize(("line", "message"), DAMAGED_LINES, ids=lambda v: v[:30])
def test_a_damaged_line_of_rows_is_refused_by_its_number(render, line, message):
    with pytest.raises(errors.DataError, match=message):
        render(ROW + line, sources.json_lines)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(
    ("parse", "start"),
    [
        (sources.json_lines, ROW + '{"text": "'),
        (sources.csv_rows, "text,label\nshoe,"),
        (sources.csv_rows, 'text,label\nshoe,"'),
    ],
)
def test_a_line_or_record_without_end_is_refused_before_it_fills_the_memory(
    tmp_path, parse, start, is_packed
):
    """Also where the file is small: a line of zeros packs well."""
    path = tmp_path / ("rows.gz" if is_packed else "rows")
    with gzip.open(path, "wb", 1) if is_packed else path.open("wb") as file:
        file.write(start.encode())
        part = b"0" * 1023 + (b"\n" if start.endswith(',"') else b"0")
        for _ in range(33):
            file.write(part * 2**9)
    with pytest.raises(ValueError, match="goes on after|field larger"):
        list(parse([path]))


def test_a_packed_file_that_is_read_whole_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MOST_CHARS", 1_000)
    path = tmp_path / "x.json.gz"
    with gzip.open(path, "wt") as file:
        file.write('"' + "0" * 998 + '"')
    assert row_files.read_json(path) == "0" * 998
    with gzip.open(path, "wt") as file:
        file.write('"' + "0" * 999 + '"')
    with pytest.raises(ValueError, match="more than 1,000 characters"):
        row_files.read_json(path)
