"""Loss curves of two trainings lie over each other in the page of a report."""

import html.parser
import json

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.cli import gin_flags
from elm_jax.evaluation import results
from elm_jax.runs import report

COMPARED = "COMPARE_WORK_DIR = '{MODEL_DIR}/alone/work'"


class Paths(html.parser.HTMLParser):
    """Collects (class, d) of the paths of each curve, by its expert."""

    def __init__(self, text):
        super().__init__()
        self.found = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        if tag == "figcaption":
            self.name = own.get("title")
        if tag == "path":
            self.found.setdefault(self.name, []).append((own.get("class"), own["d"]))


def write_losses(work, expert, losses):
    (work / expert).mkdir(parents=True)
    rows = [{"step": 10 * n, "loss": loss} for n, loss in enumerate(losses, 1)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (work / expert / "metrics.jsonl").write_text(lines)


@pytest.fixture
def folder(tmp_path):
    """What an evaluation and a training left, and another of one of its experts."""
    cell = results.Cell(
        expert="base",
        base_fingerprint="0123",
        task="pocket_endings_what_next",
        dataset="pocket_endings",
        prompt="what_next",
        split="test",
        protocol="elm",
        seed=0,
        checkpoint_step=0,
    )
    results.ResultStore(tmp_path / "results.jsonl").record(
        cell,
        run_id="r",
        values={"accuracy": 50.0},
        num_examples=2,
        per_example={"example_ids": np.arange(2), "accuracy": np.array([0.0, 100.0])},
    )
    write_losses(tmp_path / "work", "reviews", [3.0, 1.0])
    write_losses(tmp_path / "work", "notes", [2.0, 1.0])
    write_losses(tmp_path / "alone" / "work", "reviews", [2.0, 2.0, 1.0])
    return tmp_path


def run(folder, *bindings):
    built, bound, operative = gin_flags.build_run(
        (report.Report,),
        gin_files=["gin/pocket/report.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", *bindings],
    )
    built.start(config=bound, operative_config=operative)
    return (folder / "report" / "index.html").read_text()


def test_the_losses_of_a_fleet_lie_over_those_of_experts_trained_alone(folder):
    text = run(folder, COMPARED)
    # One frame holds both: steps 10 to 30, losses 3 to 1, the greatest on top.
    assert Paths(text).found == {
        "reviews": [
            (None, "M0.0 0.0L50.0 100.0"),
            ("other", "M0.0 50.0L50.0 50.0L100.0 100.0"),
        ],
        "notes": [(None, "M0.0 0.0L100.0 100.0")],
    }
    assert "Dashed: the same expert trained in another way." in text


def test_without_another_training_each_frame_has_one_curve(folder):
    text = run(folder)
    assert Paths(text).found["reviews"] == [(None, "M0.0 0.0L100.0 100.0")]
    assert "Dashed" not in text


def test_a_folder_without_losses_to_compare_with_is_named(folder):
    with pytest.raises(errors.DataError, match="(?s)no metrics.*nowhere.*To do: "):
        run(folder, "COMPARE_WORK_DIR = '{MODEL_DIR}/nowhere'")
