"""The picture of the README shows the README's numbers."""

from xml.etree import ElementTree

import pytest

from tests.benchmarks import quickstart_picture

README = (quickstart_picture.REPOSITORY / "README.md").read_text()


def test_the_picture_is_what_the_readmes_table_draws():
    drawn = quickstart_picture.drawn(quickstart_picture.scores(README))
    assert quickstart_picture.PICTURE.read_text() == drawn, (
        "Run python tests/benchmarks/quickstart_picture.py"
    )


def test_every_row_of_the_table_is_in_the_picture():
    table = README[README.index("| mean of five unseen datasets |") :]
    table = table[: table.index("\n\n")].splitlines()[2:]
    rows = quickstart_picture.scores(README)
    assert [row.name for row in rows] == [line.split(" | ")[0][2:] for line in table]
    assert all(row.low <= row.mean <= row.high for row in rows)


def test_dots_lie_where_the_axis_has_their_numbers():
    rows = [
        quickstart_picture.Score("a < b", 40.0, 30.0, 50.0),
        quickstart_picture.Score("c", 80.0, 80.0, 80.0),
    ]
    picture = ElementTree.fromstring(quickstart_picture.drawn(rows))  # noqa: S314 - ours
    svg = "{http://www.w3.org/2000/svg}"
    dots = [float(dot.get("cx")) for dot in picture.iter(f"{svg}circle")]
    ticks = {
        float(text.text): float(text.get("x"))
        for text in picture.iter(f"{svg}text")
        if text.get("text-anchor") == "middle"
    }
    assert dots == pytest.approx([ticks[40.0], ticks[80.0]])
    assert "a < b" in [text.text for text in picture.iter(f"{svg}text")]
