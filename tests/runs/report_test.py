"""Loss curves of two trainings lie over each other in the page of a report."""

import html.parser
import json

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.cli import gin_flags
from elm_jax.evaluation import result_store, results
from elm_jax.runs import report

COMPARED = "COMPARE_WORK_DIR = '{MODEL_DIR}/alone/work'"


class Paths(html.parser.HTMLParser):
    """Collects (class, d) of the paths of each curve, by its expert."""

    def __init__(self, text):
        super().__init__()
        self.paths = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        by_name = dict(attributes)
        if tag == "figcaption":
            self.name = by_name.get("title")
        if tag == "path":
            self.paths.setdefault(self.name, []).append(
                (by_name.get("class"), by_name["d"])
            )


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
    result_store.ResultStore(tmp_path / "results.jsonl").record(
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
    assert Paths(text).paths == {
        "reviews": [
            (None, "M0.0 0.0L50.0 100.0"),
            ("other", "M0.0 50.0L50.0 50.0L100.0 100.0"),
        ],
        "notes": [(None, "M0.0 0.0L100.0 100.0")],
    }
    assert "Dashed: the same expert trained in another way." in text


def test_without_another_training_each_frame_has_one_curve(folder):
    text = run(folder)
    assert Paths(text).paths["reviews"] == [(None, "M0.0 0.0L100.0 100.0")]
    assert "Dashed" not in text


def test_a_folder_without_losses_to_compare_with_is_named(folder):
    with pytest.raises(errors.DataError, match="(?s)no metrics.*nowhere.*To do: "):
        run(folder, "COMPARE_WORK_DIR = '{MODEL_DIR}/nowhere'")


VOTES = [
    (b"garbage\n", "line 1: no JSON"),
    (b'{"task": "x"}\n', "line 1: votes is missing"),
    (b'{"task": "x", "votes": 5}\n', "line 1: votes is 5"),
    (b'{"task": "x", "votes": [["a"]]}\n', r"line 1: votes is \[\['a'\]\]"),
    (b'{"task": "x", "votes": [["a", "b"]]}\n', "line 1: votes is"),
    (b'{"task": null, "votes": [["a", 1]]}\n', "line 1: task is None"),
    (b"\xff\xfe\n", "line 1: no UTF-8"),
    (b"[" * 100_000 + b"\n", "line 1: more than 64 lists"),
    (b"\0" * 8 + b"\n", "line 1: no JSON"),
    (b'{"task": "x", "vo', None),
    (b"\0" * 8, None),
    (b"\xff\xfe", None),
]
METRICS = [
    (b"garbage\n", "line 3: no JSON"),
    (b"\0" * 8 + b"\n", "line 3: no JSON"),
    (b'{"step": 1}\n', "line 3: loss is missing"),
    (b'{"step": 1, "loss": "x"}\n', "line 3: loss is 'x'"),
    (b'{"step": 1, "loss": null}\n', "line 3: loss is None"),
    (b'{"step": 1, "loss": Infinity}\n', "line 3: the number Infinity"),
    (b"[1]\n", "line 3: a list instead of an object"),
    (b"\xff\xfe\n", "line 3: no UTF-8"),
    (b'{"step": 30, "lo', None),
    (b"\0" * 8, None),
    (b"\xff\xfe", None),
]
ROW = (
    '{"expert": "base", "base_fingerprint": "0123", "task": "t", "dataset": "t",'
    ' "prompt": "p", "split": "test", "protocol": "elm", "seed": 0, "run_id": "r",'
    ' "checkpoint_step": 0, "metric": "accuracy", "value": 50.0, "num_examples": 2}'
)
ROWS = [
    (ROW.replace('"base"', '["a"]'), r"line 2 .* expert is \['a'\]"),
    (ROW.replace('"base"', "{}"), "expert is {}"),
    (ROW.replace('"base"', "5"), "expert is 5"),
    (ROW.replace('"base"', "null"), "expert is None"),
    (ROW.replace('"task": "t"', '"task": ["a"]'), r"task is \['a'\]"),
    (ROW.replace('"accuracy"', "[]"), r"metric is \[\]"),
    (ROW.replace("50.0", "1" + "0" * 400), "a whole number of 401 digits"),
    (ROW.replace("50.0", "NaN"), "NaN, which is not finite"),
    (ROW.replace("50.0", "true"), "value is True"),
    (ROW.replace('"num_examples": 2', '"num_examples": 0'), "over 0 examples"),
    (ROW.replace('"num_examples": 2', '"num_examples": 2.0'), "num_examples is 2.0"),
    (ROW.replace('"seed": 0, ', ""), "seed is missing"),
    (ROW.replace("{", '{"\x1b": 1, ').replace("\x1b", "\\u001b"), r"\\x1b' is unknown"),
    (ROW.replace("{", '{"expert": "x", '), "the key 'expert' 2 times"),
    ("[" * 200_000, "more than 64 lists"),
    ("\0\0", "no JSON"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("votes.jsonl", *case) for case in VOTES]
    + [("work/reviews/metrics.jsonl", *case) for case in METRICS]
    + [("results.jsonl", f"{row}\n".encode(), message) for row, message in ROWS]
    + [("results.jsonl", row.encode(), None) for row, _ in ROWS],
    ids=lambda value: f"{value}"[:40],
)
def test_a_damaged_line_is_refused_and_an_unfinished_last_one_told_and_left_out(
    folder, capsys, name, content, message
):
    """The lines of the report on damaged inputs, and more of their kind."""
    path = folder / name
    with path.open("ab") as file:
        file.write(content)
    if message is None:
        run(folder)
        assert f"{path}: the last line is left out" in capsys.readouterr().err
        return
    with pytest.raises(errors.DataError, match=message) as caught:
        run(folder)
    assert str(path) in str(caught.value)
