import pathlib

import pytest
import rich.console

from elm_jax.reporting import report, tables

GOLDEN = pathlib.Path(__file__).parent / "golden" / "tables.md"

TERMINAL = """\
Unseen tasks (percent, with
95 % interval)

               quail   mean
 ───────────────────────────
  chance        25.0   25.0
  base          31.0      –
           28.0–34.0
  oracle        60.0      –
"""

MARKDOWN = """\
# Small

- A holds: holds. 1.0 \\> 0.0.

**Unseen tasks (percent, with 95 % interval)**

|  | quail | mean |
|---|---:|---:|
| chance | 25.0 | 25.0 |
| base | **31.0** (28.0–34.0) | – |
| oracle | 60.0 | – |

**All (percent, means over prompts)**

|  | quail | mean |
|---|---:|---:|
| base | 30.0 | 30.0 |
| one\\|two | 40.0 | 40.0 |
| three | 20.0 | 20.0 |

**Retrieval votes**

|  | most votes | second | third | queries |
|---|---:|---:|---:|---:|
| quail_p | 20 three | 12 one\\|two |  | 32 |

- Read \\*this\\*.
"""


def shown(table, width=160):
    console = rich.console.Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(tables.to_rich(table, width=width))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def test_the_headline_in_the_terminal(small):
    assert shown(tables.headline(small.headline)) == TERMINAL


def test_a_small_report_as_markdown(small):
    assert tables.markdown(small) == MARKDOWN


def test_the_whole_example_as_markdown_is_the_golden_one(example):
    assert tables.markdown(example) == GOLDEN.read_text(), (
        "the tables changed; if that is meant, run tests/reporting/make_golden.py"
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_cut_in_a_narrow_terminal(width):
    names = [f"dataset_of_a_long_name_{n}" for n in range(9)]
    rows = tuple(
        (
            f"expert_of_a_very_long_name_indeed_{i}",
            *(f"{i}{j}.{j} (c, u)" for j in range(9)),
        )
        for i in range(3)
    )
    header = ("", *(f"{name}\n(c, {n})" for n, name in enumerate(names)))
    table = tables.TextTable("Experts", header, rows, notes=("c: cut.",))
    text = shown(table, width)
    for row in rows:
        for cell in row[1:]:
            assert text.count(cell) == 1
    assert all(f"(c, {n})" in text for n in range(9))
    assert "Experts, continued" in text
    assert max(map(len, text.splitlines())) <= width
    assert text.splitlines()[-1] == "c: cut."


def test_hostile_names_stay_text_in_the_terminal():
    markup = "[red]:smile:[/]"
    text = shown(tables.TextTable(markup, ("", markup), ((markup, "\x1b[31m1"),)))
    assert text.count(markup) == 3
    assert "\x1b" not in text


def test_hostile_names_stay_one_cell_in_markdown(hostile):
    table = tables.TextTable("T", ("", "x"), ((f"{hostile} |", "1"),))
    row = tables.to_markdown(table).splitlines()[-1]
    assert row.replace("\\|", "").count("|") == 3
    assert "\\<script\\>" in row


def test_votes_of_a_task_without_queries_are_a_row():
    table = tables.votes((report.Votes("task", ()),))
    assert table.rows == (("task", "", "", "", "0"),)


def test_claims_are_one_line_each(small):
    assert tables.claim_lines(small.claims) == ["A holds: holds. 1.0 > 0.0."]


def test_long_names_are_cut_unless_two_would_look_alike():
    alike = [f"an_expert_of_a_very_long_name ({kind})" for kind in ("prompt", "lora")]
    another = "another_expert_of_a_very_long_name"
    for names, is_whole in ((alike, True), ([alike[0], another], False)):
        rows = tuple((name, "1.0") for name in names)
        text = shown(tables.TextTable("Experts", ("", "mean"), rows), 80)
        assert all(name in text for name in names) == is_whole


def test_a_terminal_shows_the_first_and_last_rows_of_a_long_table():
    rows = tuple((f"row {i}", f"{i}") for i in range(297))
    strong = frozenset({(10, 1), (11, 1), (287, 1), (296, 1)})
    long = tables.TextTable("t", ("", "n"), rows, strong=strong, notes=("why",))
    short = tables.shortened(long, rest="here/tables.md")
    shown = [*range(11), *range(287, 297)]
    assert [row[0] for row in short.rows if row[1]] == [f"row {i}" for i in shown]
    assert short.rows[11] == ("… 276 more", "")
    assert {short.rows[i][0] for i, _ in short.strong} == {
        "row 10",
        "row 287",
        "row 296",
    }
    note = "276 of 297 rows are not shown; all are in here/tables.md."
    assert short.notes == (note, "why")
    for number in (1, 40):
        part = tables.TextTable("t", ("", "n"), rows[:number])
        assert tables.shortened(part, rest="x") == part
