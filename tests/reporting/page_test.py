import base64
import dataclasses
import hashlib
import json
import pathlib
import re

import pytest

from elm_jax.evaluation import results
from elm_jax.reporting import embedded, page, report
from tests.benchmarks import page_benchmark
from tests.reporting.parsed import Page

GOLDEN = pathlib.Path(__file__).parent / "golden" / "page.html"


def test_the_page_is_the_golden_one(example):
    assert page.render(example) == GOLDEN.read_text(), (
        "the page changed; if that is meant, look at it in a browser, light and dark,"
        " wide and narrow, then run tests/reporting/make_golden.py"
    )


def test_hostile_names_become_text_and_nothing_else(example, hostile):
    parsed = Page(page.render(example))
    own_script, *data = reversed(parsed.scripts)
    assert own_script == embedded.script(*page.SCRIPTS)
    for content in data:  # names are in it, and no element or comment
        assert "alert" in json.dumps(json.loads(content))
        assert not set("<>&") & set(content)
    assert len(data) == len(example.heat_maps)
    assert parsed.texts.count(hostile) >= 5
    quiet = dataclasses.replace(example, notes=())
    names = {name for _, name, _ in parsed.attributes}
    assert names == {name for _, name, _ in Page(page.render(quiet)).attributes}
    assert not {name for name in names if name.startswith("on")}
    assert "49" not in "".join(t for t in parsed.texts if "alert" in t)  # {{ 7*7 }}


def test_the_page_asks_for_nothing(example):
    text = page.render(example)
    parsed = Page(text)
    linked = [
        value
        for _, name, value in parsed.attributes
        if name in ("src", "href", "action")
    ]
    first, *parts = linked
    assert first == "data:,"
    ids = {f"#{value}" for _, name, value in parsed.attributes if name == "id"}
    assert parts
    assert set(parts) <= ids  # places of the page itself
    assert not re.search(r"url\(|@import|https?:", text)
    policy = next(v for _, name, v in parsed.attributes if v and "default-src" in v)
    digest = hashlib.sha256(parsed.scripts[-1].encode()).digest()
    allowed = base64.b64encode(digest).decode()
    assert policy.startswith(
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}';"
        " img-src data:;"
    )


@pytest.mark.parametrize("character", ["\x1b", "\u202e", "\x00", "\x07"])
def test_characters_that_do_not_print_are_replaced(character):
    text = page.render(report.Report(title=f"a{character}b"))
    assert character not in text
    assert "a\ufffdb" in text


def test_an_empty_report_is_a_page_without_sections():
    parsed = Page(page.render(report.Report(title="Nothing")))
    assert "section" not in parsed.tags
    assert parsed.texts.count("Nothing") == 2


def test_every_part_alone_makes_a_page(example):
    for field in dataclasses.fields(report.Report):
        if field.name != "title":
            part = {field.name: getattr(example, field.name)}
            parsed = Page(page.render(report.Report(title="One part", **part)))
            assert parsed.texts.count("One part") == 2, field.name


def test_parts_without_numbers_are_drawn_as_dashes():
    empty = report.Report(
        title="Gaps",
        headline=report.Headline(("mean",), (report.HeadlineRow("base", (None,)),)),
        heat_maps=(
            report.HeatMap("map", (("d", "p"),), ("e",), ((None,),), (None,), ("",)),
        ),
        votes=(report.Votes("task", ()),),
        curves=(report.Curve("none", ()), report.Curve("one", ((0, 1.0),))),
    )
    assert Page(page.render(empty)).texts.count("–") >= 3


def test_one_constant_score_has_an_axis():
    row = report.HeadlineRow("base", (results.Interval(0.0),))
    headline = report.Headline(("mean",), (row,))
    assert "left:0.0%" in page.render(report.Report(title="x", headline=headline))


def test_many_votes_and_curves_wait_until_a_reader_asks_for_them(example):
    few = Page(page.render(example))
    assert "details" not in few.tags
    many = dataclasses.replace(
        example, votes=example.votes * 20, curves=example.curves * 5
    )
    parsed = Page(page.render(many))
    summaries = [t for t in parsed.texts if t.startswith("Show all")]
    assert summaries == [
        f"Show all {len(many.votes)} tasks",
        f"Show all {len(many.curves)} curves",
    ]
    assert ("details", "open", None) not in parsed.attributes


@pytest.mark.slow
def test_a_page_of_the_papers_size_has_less_than_four_megabytes():
    simulated = page_benchmark.simulated()
    assert len(simulated.heat_maps[0].experts) == 296
    assert len(simulated.heat_maps[0].columns) == 113
    assert len(page.render(simulated).encode()) < 4_000_000
