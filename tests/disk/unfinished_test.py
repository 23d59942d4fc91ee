"""A folder whose maker was killed is finished by the next one with the same recipe."""

import os
import subprocess
import sys

import pytest

from elm_jax import errors
from elm_jax.disk import temporaries, unfinished

KILLED = """
import os, pathlib, signal, sys
from elm_jax.disk import unfinished

with unfinished.folder(pathlib.Path(sys.argv[1]), sys.argv[2]) as made:
    (made / "first").write_text("kept")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_maker(path, recipe="one"):
    subprocess.run([sys.executable, "-c", KILLED, str(path), recipe], check=False)
    return [name for name in os.listdir(path.parent) if name.startswith(".")]


def test_what_a_killed_maker_wrote_is_there_for_the_same_recipe(tmp_path):
    path = tmp_path / "x"
    assert len(kill_a_maker(path)) == 1
    assert not path.exists()
    with unfinished.folder(path, "one") as partial:
        assert (partial / "first").read_text() == "kept"
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(path) == ["first"]


def test_another_recipe_begins_with_nothing_and_removes_what_was_left(tmp_path):
    path = tmp_path / "x"
    kill_a_maker(path)
    with unfinished.folder(path, "two") as partial:
        assert not os.listdir(partial)
    assert os.listdir(tmp_path) == ["x"]


def test_what_is_left_beside_a_finished_folder_can_be_removed(tmp_path):
    kill_a_maker(tmp_path / "x")
    kill_a_maker(tmp_path / "y")
    unfinished.remove_left(tmp_path / "x")
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".y.")
    unfinished.remove_left(tmp_path / "nowhere" / "x")


def test_a_living_maker_is_left_alone(tmp_path):
    with unfinished.folder(tmp_path / "x", "one") as partial:
        unfinished.remove_left(tmp_path / "x")
        assert partial.is_dir()


def test_an_error_leaves_nothing_and_a_signal_leaves_all(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(KeyError), unfinished.folder(path, "one") as partial:
        (partial / "first").write_text("gone")
        raise KeyError
    assert not os.listdir(tmp_path)
    with pytest.raises(SystemExit), unfinished.folder(path, "one") as partial:
        (partial / "first").write_text("kept")
        raise SystemExit(143)
    with unfinished.folder(path, "one") as partial:
        assert (partial / "first").read_text() == "kept"


def test_what_is_there_already_stays_as_it_is(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "own").write_text("mine")
    with pytest.raises(errors.ExistsError), unfinished.folder(tmp_path / "x", "one"):
        pass
    assert (tmp_path / "x" / "own").read_text() == "mine"
    assert os.listdir(tmp_path) == ["x"]


def as_of_another_machine(path):
    """Gives what a killed maker left the name that it has on another machine."""
    (left,) = kill_a_maker(path)
    moved = path.parent / left.replace(f".{temporaries.host()}.", ".0123abcd.")
    (path.parent / left).rename(moved)
    return moved


def test_what_another_machine_is_at_is_left_alone(tmp_path):
    """Locks may hold within a machine only, such as in mounted buckets."""
    left_folder = as_of_another_machine(tmp_path / "x")
    unfinished.remove_left(tmp_path / "x")
    with unfinished.folder(tmp_path / "x", "one") as partial:
        assert not os.listdir(partial)
    assert (left_folder / "content" / "first").read_text() == "kept"


def test_what_another_machine_left_an_hour_ago_is_gone_on_with(tmp_path):
    left_folder = as_of_another_machine(tmp_path / "x")
    for path in (*left_folder.rglob("*"), left_folder):
        os.utime(path, (0, 0))
    with unfinished.folder(tmp_path / "x", "one") as partial:
        assert (partial / "first").read_text() == "kept"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("way", ["remove_left", "folder"])
def test_what_is_removed_makes_room_before_it_is_gone(tmp_path, monkeypatch, way):
    """Else a maker that begins in that moment would lose what it writes."""
    (name,) = kill_a_maker(tmp_path / "x")
    remove = temporaries.remove

    def slowly(path):
        assert not (tmp_path / name).exists()
        (tmp_path / name / "content").mkdir(parents=True)
        remove(path)

    monkeypatch.setattr(temporaries, "remove", slowly)
    if way == "folder":
        with unfinished.folder(tmp_path / "x", "one"):
            pass
    else:
        unfinished.remove_left(tmp_path / "x")
    assert (tmp_path / name / "content").is_dir()
