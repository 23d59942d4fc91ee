import dataclasses
import html.parser

from elm_jax.reporting import task_page

HOSTILE = "<script>alert(1)</script>\"'&" + chr(0) + chr(27) + "[31m"
CARD = task_page.TaskCard(
    name="made_ask",
    split="train",
    facts=(("dataset", "made"), ("note", HOSTILE)),
    num_rows=1000,
    num_examples=750,
    is_whole=False,
    dropped=(("bad: no correct choice", 200), ("skipped: why", 50)),
    no_choice_share=0.2,
    lengths=(
        task_page.Lengths("inputs", (3, 40, 90, 99, 600), 512, 0.0004),
        task_page.Lengths("targets", (2, 3, 4, 5, 6), 64, 0.0),
    ),
    examples=(
        task_page.TaskExample(HOSTILE, "b", ("a", "b", HOSTILE), 1, 17),
        task_page.TaskExample("free\ntext", "target", (), -1, 18),
    ),
)


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "srcset")]
        assert not [k for k, _ in attrs if k.startswith("on")]

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def words(text):
    return " ".join(" ".join(read(text).text).split())


def test_the_page_is_escaped_and_asks_for_nothing():
    cards = [CARD, dataclasses.replace(CARD, name=HOSTILE, problem=HOSTILE)]
    text = task_page.render(HOSTILE, cards)
    reader = read(text)
    assert not {"script", "iframe", "object", "img", "form"} & set(reader.tags)
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    for part in ("url(", "@import", chr(0), chr(27)):
        assert part not in text
    assert "alert(1)" in "".join(reader.text)  # shown as text


def test_the_page_shows_counts_shares_lengths_and_the_correct_choice():
    text = task_page.render("1 task", [CARD])
    shown = words(text)
    for part in ("1000+ 750 25.0 20.0 <0.1 0", "40 to 600", "row 17", "b ✓"):
        assert part in shown
    assert "200 of 1000 rows of train" in shown
    assert text.count('class="right"') == 1
    assert "<pre>free<br>text</pre>" in text


def test_a_problem_stands_in_the_place_of_numbers():
    card = task_page.TaskCard("a", "train", (), problem="p")
    assert "a cannot be read" in words(task_page.render("1 task", [card]))
    assert card.dropped_share == 0
