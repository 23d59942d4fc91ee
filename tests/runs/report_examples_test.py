"""From a number of a report to the answers behind it, where tokens are at hand."""

import dataclasses
import html.parser
import json
import shutil

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import cache
from elm_jax.evaluation import result_store, results
from elm_jax.runs import report
from tests.runs import scored

pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(name="folder")
def own_folder(scored_folder, tmp_path):
    for name in ("cache", "per_example"):
        shutil.copytree(scored_folder / name, tmp_path / name)
    shutil.copy(scored_folder / "results.jsonl", tmp_path)
    return tmp_path


class Cells(html.parser.HTMLParser):
    """Collects the rows of tables, the texts of `pre` and the addresses of links."""

    def __init__(self, path):
        super().__init__()
        self.rows, self.inputs, self.links, self.inside = [], [], [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "pre":
            self.inputs.append("")
        if tag == "a":
            self.links.append(dict(attributes)["href"])
        self.inside = tag if tag in ("th", "td", "pre") else self.inside

    def handle_endtag(self, tag):
        self.inside = "" if tag in ("th", "td", "pre") else self.inside

    def handle_data(self, data):
        if self.inside == "pre":
            self.inputs[-1] += data
        elif self.inside:
            self.rows[-1][-1] += data.strip()


def run(folder, *names, **fields):
    report_run = report.Report(
        model_dir=str(folder),
        title="t",
        unseen_tasks=tuple(f"{name}_ask" for name in names),
        **fields,
    )
    report_run.start(config="", operative_config="")
    return folder / "report"


def test_a_page_shows_inputs_choices_log_probabilities_and_verdicts(folder):
    page = Cells(run(folder, "plain", "signs") / "examples" / "signs_ask.html")
    rows = scored.ROWS["signs"]
    assert [text.strip() for text in page.inputs] == [prompt for prompt, *_ in rows]
    store = result_store.ResultStore(folder / "results.jsonl")
    row = next(r for r in store.rows() if r.task == "signs_ask")
    arrays = store.per_example(row)
    shown = [cells for cells in page.rows if len(cells) == 2][2:]  # after the models
    scores = iter(arrays["scores"].tolist())
    for place, (_, choices, answer) in enumerate(rows):
        assert shown.pop(0) == ["choice", "base"]
        for choice in choices:
            mark = "✓" if choice == answer else ""
            nats = f"{next(scores):.2f}".replace("-", "−")
            assert shown.pop(0) == [f"{mark}{choice}", nats]
        words = {100.0: "✓ right", 0.0: "✕ wrong"}
        score = float(arrays["accuracy"][place])
        assert shown.pop(0) == ["", words.get(score, f"{score:.1f}")]
    assert shown == []


def test_the_report_links_the_numbers_of_what_has_pages(folder):
    page = Cells(run(folder, "plain", "signs") / "index.html")
    expected = {f"examples/{name}_ask.html#way-1" for name in ("plain", "signs")}
    links = [link for link in page.links if not link.startswith("#")]
    assert set(links) == expected
    # In the main table; and in the map, where a dataset of one prompt has one column.
    assert len(links) == 4
    for link in expected:
        target = Cells(folder / "report" / link.partition("#")[0])
        assert "../index.html" in target.links


def test_the_first_rows_are_shown_and_their_number_told(folder):
    where = run(folder, "plain", max_examples=3)
    text = (where / "examples" / "plain_ask.html").read_text()
    assert len(Cells(where / "examples" / "plain_ask.html").inputs) == 3
    assert "The first 3 of 8 rows that were scored" in text
    assert "the first 3 rows of 1 tasks" in (where / "index.html").read_text()
    where = run(folder, "plain", max_examples=0)
    assert len(Cells(where / "examples" / "plain_ask.html").inputs) == 8
    assert "All 8 rows" in (where / "examples" / "plain_ask.html").read_text()


def test_a_cut_prompt_is_shown_whole_with_the_number_of_tokens_read(folder):
    text = (run(folder, "long") / "examples" / "long_ask.html").read_text()
    assert text.count("Cut: models read the first 24 tokens of this.") == 4
    assert text.count(scored.LONG) == 4


def test_written_answers_stand_beside_the_right_ones(folder):
    where = run(folder, "written", metric="rougeL")
    page = Cells(where / "examples" / "written_ask.html")
    answers = [cells for cells in page.rows if len(cells) == 3]
    assert answers[0] == ["model", "answer", "rougeL"]
    assert {cells[0] for cells in answers[1::2]} == {"base"}
    text = (where / "examples" / "written_ask.html").read_text()
    assert "<b>Right:</b> dog 3" in text


def test_without_tokens_a_report_has_no_pages_and_the_same_numbers(folder):
    before = run(folder, "plain", "signs")
    numbers = (before / "tables.md").read_text()
    shutil.rmtree(before)
    shutil.rmtree(folder / "cache" / "plain_ask")
    where = run(folder, "plain", "signs")
    assert [p.name for p in (where / "examples").iterdir()] == ["signs_ask.html"]
    assert "the tokens of 1 others are not in" in (where / "index.html").read_text()
    shutil.rmtree(folder / "cache")
    shutil.rmtree(where)
    where = run(folder, "plain", "signs")
    assert not (where / "examples").exists()
    assert "Underlined" not in (where / "index.html").read_text()
    assert (where / "tables.md").read_text() == numbers
    assert not (folder / "cache").exists()  # nothing was built


def test_pages_of_tasks_that_a_report_no_longer_has_are_removed(folder):
    where = run(folder, "plain", "signs") / "examples"
    assert {path.name for path in where.iterdir()} == {
        "plain_ask.html",
        "signs_ask.html",
    }
    (where / "notes.html").write_text("<title>mine</title>")
    run(folder, "signs")
    assert {path.name for path in where.iterdir()} == {"notes.html", "signs_ask.html"}
    run(folder, "signs", cache_dir="")
    assert [path.name for path in where.iterdir()] == ["notes.html"]


def test_no_pages_are_made_if_none_are_asked_for(folder):
    assert not (run(folder, "plain", cache_dir="") / "examples").exists()


def test_tokens_of_other_content_are_not_those_that_were_scored(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    changed = [json.loads(line) | {"data_fingerprint": "0" * 16} for line in lines]
    text = "".join(f"{json.dumps(row)}\n" for row in changed)
    (folder / "results.jsonl").write_text(text)
    assert not (run(folder, "plain") / "examples").exists()
    assert cache.find(folder / "cache", "plain_ask", "test", fingerprint="0") is None


def test_damaged_tokens_are_refused(folder):
    for arrays in (folder / "cache" / "plain_ask").glob("test-*/arrays.bin"):
        content = bytearray(arrays.read_bytes())
        content[100] ^= 1
        arrays.write_bytes(content)
    with pytest.raises(errors.DataError, match=r"token cache .* is damaged"):
        run(folder, "plain")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("example_ids", lambda a: a + 100),
        ("num_choices", lambda a: a * 0 + 1),
        ("predictions", lambda a: a + 9),
        ("scores", lambda a: a[:3]),
    ],
)
def test_answers_to_other_examples_are_refused(folder, name, change):
    store = result_store.ResultStore(folder / "results.jsonl")
    row = next(r for r in store.rows() if r.task == "plain_ask")
    arrays = store.per_example(row)
    (folder / "results.jsonl").unlink()
    result_store.ResultStore(folder / "results.jsonl").record(
        row,
        run_id="r",
        values={"accuracy": row.value},
        num_examples=row.num_examples,
        per_example=arrays | {name: np.asarray(change(arrays[name]))},
        facts=results.Facts(
            **{f.name: getattr(row, f.name) for f in dataclasses.fields(results.Facts)}
        ),
    )
    with pytest.raises(errors.DataError, match="answers of base to other examples"):
        run(folder, "plain")
