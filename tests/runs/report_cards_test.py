"""Beside a report each expert has a card, with the scores that the report shows."""

import dataclasses
import html.parser
import pathlib

import numpy as np
import pytest

from elm_jax.checkpoints import manifest
from elm_jax.evaluation import estimates, result_store, results, statistics
from elm_jax.reporting import expert_cards
from elm_jax.runs import card_scores, report

UNSEEN, SEEN = ("plain_ask", "signs_ask"), ("alike_ask",)
NUM_ROWS = 60
INFO = manifest.Manifest(
    name="notes",
    kind="prompt",
    base_name="small",
    base_fingerprint="0123",
    model={},
    trainable_pattern="_adapter/",
)
OWN = "# notes\n\n| base | small |\n\n````jinja\n<b>{{x}}</b>\n````\n"


pytestmark = pytest.mark.usefixtures("toy_tasks")


def record(folder, expert, rate, *, kind="prompt", fingerprint="", seed=0, **facts):
    rng = np.random.default_rng(seed)
    for task in (*UNSEEN, *SEEN):
        values = 100.0 * (rng.random(NUM_ROWS) < rate)
        result_store.ResultStore(folder / "results.jsonl").record(
            results.Cell(
                expert=expert,
                base_fingerprint="0123",
                expert_fingerprint=fingerprint or f"{expert}{seed}",
                task=task,
                dataset=task.removesuffix("_ask"),
                prompt="ask",
                split="test",
                protocol="elm",
                seed=0,
                checkpoint_step=7,
                scoring="s",
            ),
            run_id="r",
            values={"accuracy": float(values.mean())},
            num_examples=NUM_ROWS,
            per_example={"example_ids": np.arange(NUM_ROWS), "accuracy": values},
            facts=results.Facts(kind=kind, training_seed=seed, **facts),
        )


def place(folder, name, info=INFO):
    """Lays an expert with a card of its own into a folder."""
    (folder / name).mkdir(parents=True)
    manifest.write_manifest(folder / name, info)
    (folder / name / "card.md").write_text(OWN)


@pytest.fixture
def folder(tmp_path):
    place(tmp_path / "experts", "notes")
    record(tmp_path, "base", 0.4, kind="base")
    record(tmp_path, "multitask", 0.7, kind="multitask")
    record(tmp_path, "retrieved", 0.5, kind="strategy")
    facts = {"fingerprint": INFO.fingerprint, "source": "experts/notes"}
    record(tmp_path, "notes", 0.6, **facts)
    for seed in range(3):
        record(tmp_path, "three", 0.6, seed=seed, recipe="same")
    return tmp_path


def run(folder, **fields):
    report_run = report.Report(
        model_dir=str(folder),
        title="t",
        unseen_tasks=UNSEEN,
        seen_tasks=SEEN,
        **fields,
    )
    report_run.start(config="", operative_config="")
    return folder / "report"


def lines(text, title):
    """Cells of the table below a title, by the first one."""
    part = text[text.index(f"**{title}") :].split("\n\n")[1]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines()]
    return {name: cells for name, *cells in rows}


def test_a_card_has_the_scores_and_intervals_of_the_tables(folder):
    where = run(folder)
    head = lines((where / "tables.md").read_text(), "Unseen tasks")
    unseen_lines = lines(
        (where / "cards" / "multitask.md").read_text(), "Unseen tasks: accur"
    )
    assert [
        unseen_lines["plain"][2],
        unseen_lines["signs"][2],
        unseen_lines["mean"][2],
    ] == [cell.replace("**", "") for cell in head["multitask"]]
    assert "–" in unseen_lines["mean"][2]
    assert [unseen_lines[name][3] for name in ("plain", "signs", "mean")] == [
        cell.split(" ")[0].replace("**", "") for cell in head["base"]
    ]
    seen_lines = lines(
        (where / "cards" / "notes.md").read_text(), "Seen tasks: accuracy"
    )
    assert seen_lines["alike"][:2] == ["1", "60"]
    assert "–" in seen_lines["alike"][2]


def test_experts_have_cards_and_the_base_and_strategies_have_none(folder):
    names = {path.stem for path in (run(folder) / "cards").iterdir()}
    assert names == {"multitask", "notes", "three"}


def test_trainings_of_an_expert_share_a_card(folder):
    text = (run(folder) / "cards" / "three.md").read_text()
    for seed in range(3):
        assert f"seed {seed}, 7 steps, fingerprint three{seed}" in text


class Links(html.parser.HTMLParser):
    """Collects (text, address) of links."""

    def __init__(self, text):
        super().__init__()
        self.links, self.address = set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.address = dict(attributes)["href"] if tag == "a" else ""

    def handle_data(self, data):
        if self.address:
            self.links.add((data, self.address))
        self.address = ""


def test_page_and_tables_link_cards(folder):
    where = run(folder)
    names = ("multitask", "notes", "three")
    links = Links((where / "index.html").read_text()).links
    cards = {link for link in links if link[1].startswith("cards/")}
    assert cards == {(name, f"cards/{name}.md") for name in names}
    for name in names:
        assert f"- [{name}](cards/{name}.md)" in (where / "tables.md").read_text()


def test_the_own_card_is_shown_as_text_and_experts_stay_as_they_are(folder):
    expert_dir = folder / "experts" / "notes"
    before = {path: path.read_bytes() for path in expert_dir.rglob("*")}
    card = run(folder) / "cards" / "notes.md"
    text = card.read_text()
    assert f"`````markdown\n{OWN}`````\n" in text
    address = "../../experts/notes/card.md"
    assert f"[own card]({address})" in text
    assert (card.parent / address).samefile(expert_dir / "card.md")
    assert before == {path: path.read_bytes() for path in expert_dir.rglob("*")}


def test_the_card_of_another_training_in_the_folder_is_not_shown(folder):
    again = dataclasses.replace(INFO, steps=INFO.steps + 1)
    manifest.write_manifest(folder / "experts" / "notes", again)
    text = (run(folder) / "cards" / "notes.md").read_text()
    assert "own card" not in text


def test_scores_without_answers_have_no_intervals(folder):
    card = run(folder) / "cards" / "three.md"
    before = lines(card.read_text(), "Seen tasks: accuracy")["alike"]
    path = folder / "results.jsonl"
    lost = dict.fromkeys(results.PLACE_FIELDS) | {"per_example_sha256": None}
    rows = [
        dataclasses.replace(row, **lost)
        if (row.task, row.expert) == ("alike_ask", "three")
        else row
        for row in result_store.ResultStore(path).rows()
    ]
    path.write_text("".join(f"{row.to_json()}\n" for row in rows))
    run(folder)
    after = lines(card.read_text(), "Seen tasks: accuracy")["alike"]
    assert "–" in before[2]
    assert after[2] == before[2].split(" (")[0]
    assert "Without intervals" in card.read_text()


def test_prompts_of_the_same_rows_have_the_interval_of_their_mean():
    rng = np.random.default_rng(0)
    ids = np.arange(40)
    wide = {
        ("d", prompt): statistics.Column(ids, 100.0 * (rng.random(40) < 0.6))
        for prompt in "abc"
    }
    column = statistics.Column(ids[1:], 100.0 * (rng.random(39) < 0.6))
    narrowed = card_scores.narrow(wide)
    assert len(narrowed) == 1
    both = [
        estimates.estimate([columns], estimates.Draws()).interval
        for columns in (wide, narrowed)
    ]
    assert both[0].low < both[0].mean < both[0].high
    np.testing.assert_allclose(
        *[(interval.mean, interval.low, interval.high) for interval in both], rtol=1e-12
    )
    assert card_scores.narrow(wide | {("d", "e"): column}).keys() == {
        *wide,
        ("d", "e"),
    }


def test_no_name_is_markup_or_a_path():
    card = expert_cards.Card(
        name="<b>x", facts=(("kind", "<script>"),), scores=(), folder_card="```\n<i>"
    )
    text = expert_cards.render(card)
    assert text.startswith("# \\<b\\>x\n\n- kind: \\<script\\>\n")
    assert text.endswith("````markdown\n```\n<i>\n````\n")
    files = expert_cards.file_names(["../x", "Dream", "dream", "a" * 300])
    assert len({name.lower() for name in files.values()}) == 4
    for name in files.values():
        assert pathlib.Path(name).name == name
        assert not name.startswith(".")
        assert len(name) < 200


def test_cards_of_experts_that_a_report_no_longer_has_are_removed(folder):
    where = run(folder) / "cards"
    (where / "my notes.md").write_text("# mine\n\n- not a card\n")
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(x for x in lines if '"expert": "notes"' not in x))
    names = {path.name for path in (run(folder) / "cards").iterdir()}
    assert names == {"multitask.md", "three.md", "my notes.md"}
