"""A reader sorts, filters, folds and saves a map of experts, in a real browser."""

import csv
import dataclasses
import io

import pytest

from elm_jax.reporting import csv_tables, heat_maps, page, report
from tests.reporting import browser

pytestmark = browser.needed

# What a map shows: titles of columns, then rows, all as texts; only what has a place.
SHOWN = """(() => {
  const isShown = (cell) => cell.getClientRects().length > 0;
  const line = (row) => [...row.cells].filter(isShown).map((c) => c.innerText.trim());
  const table = document.querySelector("table.heat");
  return [...table.rows].filter(isShown).map(line);
})()"""


@pytest.fixture(scope="module", name="tab")
def one_tab():
    with browser.opened() as tab:
        yield tab


@pytest.fixture(name="shown")
def small_map(row):
    scores = {
        ("a", "p"): (50.0, 61.0, 40.0, 70.0),
        ("a", "q"): (50.0, 41.0, 80.0, 10.123456),
        ("b", "r"): (30.0, 20.0, 90.0, 30.0),
    }
    names = ("base", "reviews_two", "=topics", "Reviews")
    rows = [
        row(name, *key, value)
        for key, values in scores.items()
        for name, value in zip(names, values, strict=True)
    ]
    return report.heat_map(rows, title="Small map", chosen={"a_p": "Reviews"})


@pytest.fixture(name="opened")
def opened_page(tab, shown, tmp_path):
    tab.requests, tab.problems = [], []
    write(tmp_path / "page.html", shown)
    tab.open(tmp_path / "page.html")
    yield tab
    assert tab.problems == []
    assert tab.requests == [f"file://{tmp_path / 'page.html'}"]


def write(path, *maps):
    path.write_text(page.render(report.Report(title="t", heat_maps=maps)))


@pytest.mark.slow
def test_a_map_of_too_many_cells_shows_the_best_experts_and_those_retrieved(
    shown, tab, tmp_path, monkeypatch
):
    monkeypatch.setattr(heat_maps, "MOST_CELLS", 12)  # of two rows, five columns each
    write(tmp_path / "page.html", dataclasses.replace(shown, chosen=("", "", "")))
    tab.open(tmp_path / "page.html")
    best = [*shown.experts[:2]]
    assert names(tab) == best
    note = "1 of 3 experts are left out here, those with the lowest means"
    text = (tmp_path / "page.html").read_text()
    assert note in text
    assert "<code>small_map.csv</code>" in text
    last = shown.experts[2]
    write(tmp_path / "page.html", dataclasses.replace(shown, chosen=("", "", last)))
    tab.open(tmp_path / "page.html")
    assert names(tab) == [*best, last]
    assert note not in (tmp_path / "page.html").read_text()


def names(tab):
    return [line[0] for line in tab.run(SHOWN)[3:]]


def press_heading(tab, text):
    buttons = "[...document.querySelectorAll('table.heat thead button')]"
    tab.run(f"{buttons}.find((b) => b.innerText.trim() === '{text}').focus()")
    tab.press("Enter")


def test_a_map_shows_means_of_datasets_before_their_prompts(opened):
    assert opened.run(SHOWN) == [
        ["", "", "a", "b"],
        ["expert", "mean", "mean", "p", "q", "r"],
        ["base", "40.0", "50.0", "50.0", "50.0", "30.0"],
        ["=topics", "75.0", "60.0", "40.0", "80.0", "90.0"],
        ["reviews_two", "35.5", "51.0", "61.0", "41.0", "20.0"],
        ["Reviews", "35.0", "40.1", "70.0\n◆", "10.1", "30.0"],
    ]


def test_enter_on_a_heading_sorts_and_again_turns_the_order_round(opened):
    press_heading(opened, "p")
    assert names(opened) == ["Reviews", "reviews_two", "=topics"]
    sorted_by = "document.querySelector('[aria-sort]')"
    assert opened.run(f"{sorted_by}.ariaSort") == "descending"
    press_heading(opened, "p")
    assert names(opened) == ["=topics", "reviews_two", "Reviews"]
    assert opened.run(f"{sorted_by}.ariaSort") == "ascending"
    assert opened.run("document.querySelectorAll('[aria-sort]').length") == 1
    press_heading(opened, "expert")
    assert names(opened) == ["=topics", "Reviews", "reviews_two"]


def test_what_is_missing_is_last_in_either_order(opened):
    column = "[3, null, 5, null, 4]"
    for is_descending, in_order in ((True, [5, 4, 3]), (False, [3, 4, 5])):
        order = f"(a, b) => compareValues(a, b, {str(is_descending).lower()})"
        assert opened.run(f"{column}.sort({order})") == [*in_order, None, None]


def test_a_part_of_a_name_leaves_the_experts_that_have_it(opened):
    opened.run("document.querySelector('.by-name').focus()")
    opened.write("review")
    assert names(opened) == ["reviews_two", "Reviews"]
    assert opened.run("document.querySelector('output').innerText") == "2 of 3 experts"
    opened.write(" two")  # every word counts
    assert names(opened) == ["reviews_two"]


def test_a_part_of_a_datasets_name_leaves_its_columns_and_the_mean(opened):
    opened.run("document.querySelector('.by-dataset').focus()")
    opened.write("B")
    heads, columns, *rows = opened.run(SHOWN)
    assert (heads, columns) == (["", "", "b"], ["expert", "mean", "r"])
    assert rows[1] == ["=topics", "75.0", "90.0"]


def test_a_dataset_folds_to_its_mean(opened):
    press_heading(opened, "a")
    heads, columns, base, *_ = opened.run(SHOWN)
    assert (heads, columns) == (["", "", "a", "b"], ["expert", "mean", "mean", "r"])
    assert base == ["base", "40.0", "50.0", "30.0"]
    spans = "[...document.querySelectorAll('.groups th')].map((head) => head.colSpan)"
    assert opened.run(spans) == [1, 1, 1, 1]
    assert opened.run("document.querySelector('[aria-expanded]').ariaExpanded") == (
        "false"
    )
    opened.run("document.querySelector('.fold-all').click()")
    assert opened.run(SHOWN)[1] == ["expert", "mean", "mean", "p", "q", "r"]
    opened.run("document.querySelector('.fold-all').click()")
    assert opened.run(SHOWN)[1] == ["expert", "mean", "mean", "r"]


def test_names_and_headings_stay_in_sight_while_a_map_scrolls(opened):
    where = """(() => {
      const box = document.querySelector(".scroll");
      box.style.width = "200px"; box.style.minWidth = "0"; box.style.height = "120px";
      const at = (one) => one.getBoundingClientRect();
      const cells = [document.querySelector("tbody.experts th"),
                     document.querySelector(".prompts th:nth-child(3)")];
      const before = cells.map(at);
      box.scrollTo(40, 30);
      const after = cells.map(at);
      return [box.scrollLeft, box.scrollTop, before[0].left - after[0].left,
              before[1].top - after[1].top];
    })()"""
    assert opened.run(where) == pytest.approx([40, 30, 0, 0], abs=0.5)


def test_what_is_shown_is_saved_as_csv_without_formulas(opened):
    press_heading(opened, "a")
    opened.run("document.querySelector('.by-name').focus()")
    opened.write("o")
    text = opened.run("expertMaps[0].csv()")
    assert list(csv.reader(io.StringIO(text))) == [
        ["expert", "mean", "a: mean", "b: r"],
        ["base", "40", "50", "30"],
        ["'=topics", "75", "60", "90"],
        ["reviews_two", "35.5", "51", "20"],
    ]
    quoted = opened.run("""toCsv([['a"b', "c,d", null, "+1", -1.5]])""")
    assert next(csv.reader(io.StringIO(quoted))) == ['a"b', "c,d", "", "'+1", "-1.5"]


def test_a_press_on_the_button_saves_a_file(opened, tmp_path):
    folder = tmp_path / "saved"
    opened.send("Page.setDownloadBehavior", behavior="allow", downloadPath=f"{folder}")
    opened.run("document.querySelector('.csv').click()")
    opened.wait_for("Page.downloadProgress", state="completed")
    saved = (folder / "small_map.csv").read_bytes().decode()
    assert saved == opened.run("expertMaps[0].csv()")


def test_the_file_beside_the_page_has_whole_numbers(shown):
    lines = list(csv.reader(io.StringIO(csv_tables.heat_map(shown))))
    assert lines[0] == ["expert", "mean", "a: p", "a: q", "b: r"]
    assert lines[2] == ["'=topics", "75.0", "40.0", "80.0", "90.0"]
    assert lines[4][2:] == ["70.0", "10.123456", "30.0"]


def test_many_columns_are_folded_when_the_page_opens(tab, row, tmp_path):
    rows = [row("e", f"d{j % 3}", f"p{j}", float(j)) for j in range(30)]
    write(tmp_path / "page.html", report.heat_map(rows, title="t"))
    tab.open(tmp_path / "page.html")
    assert tab.run(SHOWN)[1] == ["expert", "mean", "mean", "mean", "mean"]
    tab.run("document.querySelector('.fold-all').click()")
    assert len(tab.run(SHOWN)[1]) == 35


def test_hostile_names_are_sorted_filtered_and_saved_as_text(
    tab, example, hostile, tmp_path
):
    tab.problems = []
    (tmp_path / "page.html").write_text(page.render(example))
    tab.open(tmp_path / "page.html")
    tab.run("document.querySelector('.by-name').focus()")
    tab.write("<script>")
    assert names(tab) == [hostile]
    assert tab.problems == []
    assert tab.run("document.querySelectorAll('script').length") == 2


def test_a_script_that_somebody_puts_in_does_not_run(tab, shown, tmp_path):
    write(tmp_path / "page.html", shown)
    text = (tmp_path / "page.html").read_text()
    changed = text.replace("</main>", "</main><script>var ran = 1</script>")
    (tmp_path / "page.html").write_text(changed)
    tab.problems = []
    tab.open(tmp_path / "page.html")
    assert tab.run("typeof ran") == "undefined"
    assert "violates" in tab.problems[0]


def test_all_columns_are_shown_without_scripts(tab, row, tmp_path):
    rows = [row("e", f"d{j % 3}", f"p{j}", float(j)) for j in range(30)]
    write(tmp_path / "page.html", report.heat_map(rows, title="t"))
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(tmp_path / "page.html")
        assert len(tab.run(SHOWN)[1]) == 35
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.slow
def test_the_same_numbers_are_there_without_scripts(tab, shown, tmp_path):
    write(tmp_path / "page.html", shown)
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(tmp_path / "page.html")
    tab.send("Emulation.setScriptExecutionDisabled", value=False)
    cells = tab.run(SHOWN)
    assert cells[1] == ["expert", "mean", "mean", "p", "q", "r"]
    assert len(cells) == 6
    assert tab.run("document.querySelector('.tools').getClientRects().length") == 0
