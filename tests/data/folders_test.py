import os
import time

import pytest

from elm_jax import errors
from elm_jax.data import folders


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "a" / "b"
    with folders.new_folder(path) as temporary:
        (temporary / "file").write_text("text")
        assert not path.exists()
    assert (path / "file").read_text() == "text"
    assert [p.name for p in path.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_fails_inside_nothing_is_left(tmp_path, error):
    def fail():
        with folders.new_folder(tmp_path / "a") as temporary:
            (temporary / "file").write_text("text")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_the_first_to_finish_stays(tmp_path):
    path = tmp_path / "a"
    with folders.new_folder(path) as one:
        (one / "file").write_text("one")
        with folders.new_folder(path) as other:
            (other / "file").write_text("other")
    assert (path / "file").read_text() == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_cleared_after_an_hour(tmp_path):
    old, young = tmp_path / ".a.old", tmp_path / ".a.young"
    for leftover in (old, young):
        leftover.mkdir()
    os.utime(old, (0, time.time() - 7200))
    with folders.new_folder(tmp_path / "a"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.young", "a"]


def test_a_place_that_cannot_be_written_is_told_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DataError, match="permission"):
        folders.check_writable(tmp_path / "file" / "below")
    folders.check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
