import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from elm_jax import errors
from elm_jax.disk import files, folders, temporaries

ROOT = pathlib.Path(__file__).parents[2]
# Writes half of the folder and the file `a`, then does nothing more.
AT_WORK = """
import os, pathlib, sys, time
from elm_jax.disk import folders, temporaries
path = pathlib.Path(sys.argv[1])
with folders.new_folder(path) as made, temporaries.file(path) as (handle, _):
    (made / "half").write_text("half")
    os.write(handle, b"half")
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that is about to make the folder `a` of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", AT_WORK, tmp_path / "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        yield process
        process.kill()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def hidden_in(folder):
    return {name for name in names_in(folder) if name.startswith(".")}


def make(path, text="text"):
    with folders.new_folder(path) as partial:
        (partial / "file").write_text(text)


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "a" / "b"
    with folders.new_folder(path) as partial:
        (partial / "file").write_text("text")
        assert not path.exists()
    assert (path / "file").read_text() == "text"
    assert names_in(path) == ["file"]
    assert names_in(path.parent) == ["b"]


def test_it_has_the_permissions_of_any_folder(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "b").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_fails_inside_nothing_is_left(tmp_path, error):
    def fail():
        with folders.new_folder(tmp_path / "a") as partial:
            (partial / "file").write_text("text")
            raise error

    with pytest.raises(error):
        fail()
    assert names_in(tmp_path) == []


def test_of_two_writers_the_first_to_finish_stays_and_the_other_is_told(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(errors.ExistsError, match="there already"):  # noqa: SIM117
        with folders.new_folder(path) as new:
            (new / "file").write_text("one")
            make(path, "other")
    assert (path / "file").read_text() == "other"
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_there_stays_as_it_is(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "file":
        path.write_text("old")
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        make(path, "old")
    before = path.lstat().st_ino
    with pytest.raises(errors.ExistsError):
        make(path)
    assert path.lstat().st_ino == before
    assert names_in(tmp_path) == ["a"]


@pytest.mark.slow
def test_many_writers_of_one_folder_leave_one_whole_folder(tmp_path):
    path, together = tmp_path / "a", threading.Barrier(8)

    def write(number):
        together.wait()
        try:
            with folders.new_folder(path) as partial:
                for name in range(20):
                    (partial / f"{name}").write_text(f"{number}")
        except errors.ExistsError:
            return 0
        return 1

    for _ in range(20):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(write, range(8))) == 1
        assert names_in(tmp_path) == ["a"]
        assert len({file.read_text() for file in path.iterdir()}) == 1
        assert len(list(path.iterdir())) == 20
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def test_what_a_living_process_is_at_is_spared(tmp_path, writer):
    at_work = hidden_in(tmp_path)
    assert len(at_work) == 2
    make(tmp_path / "a")
    files.write_text(tmp_path / "b", "text")
    assert hidden_in(tmp_path) == at_work
    writer.stdin.close()
    writer.wait()
    assert writer.returncode == 1  # the folder is there
    assert names_in(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_what_a_killed_process_left_is_removed_by_the_next(
    tmp_path, writer, is_stopped
):
    if is_stopped:
        writer.send_signal(signal.SIGSTOP)
        make(tmp_path / "b")
        assert len(hidden_in(tmp_path)) == 2
    writer.kill()
    writer.wait()
    make(tmp_path / "other")
    assert hidden_in(tmp_path) == set()


def test_a_file_that_is_written_removes_it_as_well(tmp_path, writer):
    writer.kill()
    writer.wait()
    files.write_text(tmp_path / "b", "text")
    assert names_in(tmp_path) == ["b"]


@pytest.mark.parametrize("kind", ["other host", "no locks", "no lock yet"])
def test_where_locks_tell_nothing_an_hour_does(tmp_path, writer, monkeypatch, kind):
    writer.kill()
    writer.wait()
    left = [tmp_path / name for name in hidden_in(tmp_path)]
    if kind == "other host":
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    elif kind == "no locks":

        def no_locks(handle):
            raise NotImplementedError

        monkeypatch.setattr("elm_jax.disk.locks.try_take", no_locks)
    else:
        left = [path for path in left if path.is_dir()]
        for path in left:
            (path / "lock").unlink()
    temporaries.remove_left(tmp_path)
    assert all(path.exists() for path in left)
    for path in left:
        for file in (path, *path.rglob("*")):
            os.utime(file, (0, 0))
    temporaries.remove_left(tmp_path)
    assert not any(path.exists() for path in left)


def test_other_hidden_files_are_none_of_ours(tmp_path):
    for name in (".lock", ".a.new", ".git", ".a.0123abcd.new"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    before = names_in(tmp_path)
    temporaries.remove_left(tmp_path)
    assert names_in(tmp_path) == before


@pytest.mark.parametrize("letter", ["n", "é", "語"])
def test_the_longest_names_work(tmp_path, letter):
    name = letter * (255 // len(letter.encode()))
    make(tmp_path / name)
    files.write_text(tmp_path / name / name, "text")
    assert names_in(tmp_path) == [name]
    assert names_in(tmp_path / name) == sorted(["file", name])


def test_a_place_that_cannot_be_written_is_told_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DataError, match="permission"):
        folders.check_writable(tmp_path / "file" / "below")
    folders.check_writable(tmp_path / "new")
    assert names_in(tmp_path / "new") == []
