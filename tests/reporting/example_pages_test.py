import dataclasses

import pytest

from elm_jax.reporting import example_pages
from tests.reporting import browser
from tests.reporting.parsed import Page


@pytest.fixture(name="shown")
def a_page(hostile):
    answers = (
        example_pages.Answer(100.0, 0, (-0.5, -2.25)),
        example_pages.Answer(0.0, 1, (-3.0, -1.0)),
    )
    return example_pages.Page(
        task="copa#1_p",
        dataset="copa",
        split="test",
        metric="accuracy",
        num_rows=40,
        ways=(
            example_pages.Way(hostile, 55.0, hostile),
            example_pages.Way("retrieved", 45.0),
        ),
        examples=(
            example_pages.Example(
                7,
                f"{hostile}\nsecond\tline\x1b",
                None,
                "yes",
                ("yes", hostile),
                0,
                answers,
            ),
            example_pages.Example(
                9, "?", 5, "no", ("yes", "no"), 1, (answers[0], None)
            ),
        ),
        siblings=("copa#1_p", "copa_q"),
        report="../index.html",
    )


def test_hostile_texts_become_text_and_nothing_else(shown, hostile):
    text = example_pages.render(shown)
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert [t.strip() for t in parsed.texts].count(hostile) >= 3
    assert "\x1b" not in text
    names = {name for _, name, _ in parsed.attributes}
    assert not {name for name in names if name.startswith("on")}


def test_a_page_asks_for_nothing_and_links_its_report_and_the_other_prompts(shown):
    parsed = Page(example_pages.render(shown))
    linked = [v for _, name, v in parsed.attributes if name in ("src", "href")]
    expected = ["data:,", "../index.html", "./copa_q.html", "#way-1", "#way-2"]
    assert linked == expected
    policy = next(v for _, name, v in parsed.attributes if v and "default-src" in v)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src")


def test_addresses_are_of_files_whatever_a_task_is_called():
    links = example_pages.links("examples", [("copa#1_p", ["base", "retrieved"])])
    assert links == {
        ("base", "copa#1_p"): "examples/copa%231_p.html#way-1",
        ("retrieved", "copa#1_p"): "examples/copa%231_p.html#way-2",
    }


def test_generated_answers_are_rows(shown):
    answer = example_pages.Answer(62.5, written="a dog", is_cut=True)
    written = dataclasses.replace(
        shown,
        examples=(
            example_pages.Example(1, "?", None, "the dog", (), -1, (answer, answer)),
        ),
    )
    parsed = Page(example_pages.render(written))
    assert parsed.texts.count("62.5") == 2
    assert [text.strip() for text in parsed.texts].count("a dog") == 2
    assert " the dog" in parsed.texts


@pytest.mark.slow
@browser.needed
def test_an_address_marks_the_answers_of_one_model(shown, tmp_path):
    path = tmp_path / example_pages.file_name("page")
    path.write_text(example_pages.render(shown))
    marked = """[...document.querySelectorAll("[class*=way-]")].filter((cell) =>
      getComputedStyle(cell).backgroundColor !== "rgba(0, 0, 0, 0)" &&
      cell.tagName === "TD").map((cell) => cell.className.trim())"""
    with browser.opened() as tab:
        tab.open(f"{path}#way-2")
        assert set(tab.run(marked)) == {"way-2", "way-2 chosen"}
        assert tab.problems == []
        assert len(tab.requests) == 1
        shown_text = tab.run("document.querySelector('pre').innerText")
        assert "second  line\ufffd" in shown_text  # to the next stop of four
