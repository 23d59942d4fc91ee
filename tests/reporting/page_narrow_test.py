"""What a reader sees on a narrow screen, in a real browser."""

import pytest

from elm_jax.reporting import page
from tests.reporting import browser

pytestmark = browser.needed

# Names of rows that are wider than their cells, by pixels; those of maps are cut.
TOO_WIDE = """[...document.querySelectorAll(".headline th[scope=row]")]
  .filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
  .map((cell) => [cell.innerText, cell.scrollWidth - cell.clientWidth])"""
# Else, names would be broken after each letter.
NARROWEST = """Math.min(...[...document.querySelectorAll(".headline th[scope=row]")]
  .map((cell) => cell.clientWidth))"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1400])
def test_names_of_ways_stay_in_their_cells(example, tmp_path, width):
    path = tmp_path / "page.html"
    path.write_text(page.render(example))
    with browser.opened() as tab:
        tab.open(path, width=width)
        assert tab.run(TOO_WIDE) == []
        assert tab.run(NARROWEST) > 100
        assert tab.run("document.documentElement.scrollWidth") <= width
