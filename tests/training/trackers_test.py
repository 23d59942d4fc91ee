"""Trackers: what arrives there, and what a restart does not send twice."""

import importlib.util
import json
import sqlite3
import sys
import types

import pytest

from elm_jax import errors
from elm_jax.training import trackers, writers


class Recorder(types.ModuleType):
    """A package with the calls of a tracker; keeps what they get."""

    def __init__(self):
        super().__init__("recorder")
        self.runs = []

    def init(self, **settings):
        run = types.SimpleNamespace(settings=settings, points=[], is_finished=False)
        run.log = lambda scalars, step: run.points.append((step, scalars))
        run.finish = lambda: setattr(run, "is_finished", True)
        self.runs.append(run)
        return run


@pytest.fixture(params=trackers.NAMES)
def tracker(request, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, request.param, recorder)
    return request.param, recorder


def make_writer(name, folder, **settings):
    return trackers.TrackerWriter(
        name, folder, expert="dream", project="mine", **settings
    )


def test_each_expert_is_a_run_with_all_its_points(tracker, tmp_path):
    name, recorder = tracker
    writer = make_writer(name, tmp_path, config="a = 1")
    assert not recorder.runs  # nothing is begun before the first metrics
    writer.write(1, {"loss": 2.0})
    writer.write(2, {"loss": 1.0})
    writer.close()
    writer.close()
    (run,) = recorder.runs
    assert run.points == [(1, {"loss": 2.0}), (2, {"loss": 1.0})]
    assert run.is_finished
    assert run.settings["project"] == "mine"
    assert run.settings["name"].startswith("dream")
    assert run.settings["config"] == {"gin": "a = 1"}


def test_a_training_that_goes_on_has_the_same_run_and_sends_no_step_twice(
    tracker, tmp_path
):
    name, recorder = tracker
    make_writer(name, tmp_path).write(3, {"loss": 2.0})
    again = make_writer(name, tmp_path, start_step=2, sent_step=3)
    for step in (3, 4):
        again.write(step, {"loss": 2.0})
    first, second = recorder.runs
    assert [step for step, _ in second.points] == [4]
    for key in ("name", "id"):
        assert first.settings.get(key) == second.settings.get(key)
    assert second.settings["resume"] == "allow"


def test_a_training_from_the_beginning_is_another_run(tracker, tmp_path):
    name, recorder = tracker
    for _ in range(2):
        make_writer(name, tmp_path, sent_step=9).write(1, {"loss": 2.0})
    first, second = (
        (run.settings["name"], run.settings.get("id")) for run in recorder.runs
    )
    assert first != second


def test_a_tracker_that_cannot_begin_says_what_to_do(tracker, tmp_path):
    name, recorder = tracker

    def fail(**_):
        raise RuntimeError("no login")

    recorder.init = fail
    with pytest.raises(errors.ConfigError, match=f"(?s){name} .* no login.*Log in"):
        make_writer(name, tmp_path).write(1, {"loss": 2.0})


def test_the_last_step_that_was_sent_is_that_of_the_last_whole_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert trackers.last_sent_step(path) == 0
    writer = writers.JsonLinesWriter(path)
    for step in (10, 20):
        writer.write(step, {"loss": 1.0})
    writer.close()
    assert trackers.last_sent_step(path) == 20
    with path.open("a") as file:
        file.write('{"step": 3')
    assert trackers.last_sent_step(path) == 20


def test_an_unknown_tracker_is_refused_with_the_names_of_all():
    with pytest.raises(errors.ConfigError, match="(?s)'mlflow'.*trackio, wandb"):
        trackers.check(("mlflow",))


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(errors.MissingExtraError, match=r"elm_jax\[wandb\]"):
        trackers.check(("wandb",))


def test_trackio_itself_keeps_the_points_of_experts_side_by_side(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    side_by_side = [
        trackers.TrackerWriter("trackio", tmp_path / name, expert=name, project="mine")
        for name in ("dream", "wiki")
    ]
    for step in (1, 2):
        for writer in side_by_side:
            writer.write(step, {"loss": 1.0 / step})
    for writer in side_by_side:
        writer.close()
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        points_kept = connection.execute("SELECT run_name, step, metrics FROM metrics")
        points = {
            (name.split()[0], step, json.loads(scalars)["loss"])
            for name, step, scalars in points_kept
        }
    assert points == {
        (name, step, 1.0 / step) for name in ("dream", "wiki") for step in (1, 2)
    }


def test_weights_and_biases_itself_takes_experts_side_by_side_without_a_network(
    monkeypatch, tmp_path
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    side_by_side = [
        trackers.TrackerWriter("wandb", tmp_path / name, expert=name, project="mine")
        for name in ("dream", "wiki")
    ]
    for step in (1, 2):
        for writer in side_by_side:
            writer.write(step, {"loss": 1.0 / step})
    for writer in side_by_side:
        writer.close()
    for name in ("dream", "wiki"):
        (run_file,) = (tmp_path / name / "wandb").glob("offline-run-*/*.wandb")
        assert b"loss" in run_file.read_bytes()
