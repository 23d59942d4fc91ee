import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from elm_jax import errors
from elm_jax.data import cache, cache_build, cache_parts, tasks, token_store
from tests.data import killed_build

PAIRS = [("odd", "train"), ("odd", "test")]


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def make(registry, vocab, tmp_path):
    killed_build.add_tasks()

    def run(name, pairs=PAIRS):
        return killed_build.builds(vocab.path, str(tmp_path / name), pairs)

    return run


@pytest.fixture
def expected(make, tmp_path):
    """What an unbroken build in one process leaves."""
    for build in make("here"):
        cache_build.build_here(build)
    files = content(tmp_path / "here")
    assert len(files) == 4
    return files


def start(vocab, folder, num_workers=2):
    command = [sys.executable, "-m", "tests.data.killed_build"]
    command += [vocab.path, str(folder), str(num_workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(
    make, expected, vocab, tmp_path
):
    folder = tmp_path / "killed"
    process = start(vocab, folder)
    deadline = time.monotonic() + 60
    while (
        len(list(folder.glob("*/.*/*/index.json"))) < 3 and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # returns when its workers have ended too
    left = {path: path.stat().st_mtime_ns for path in folder.glob("*/.*/*/index.json")}
    assert 3 <= len(left) < killed_build.NUM_ROWS // cache_parts.PART_ROWS
    assert not list(folder.rglob("manifest.json"))
    # Finished parts are kept: the next build makes only the others.
    (build, _) = make("killed")
    jobs = [job for _, job, _ in build.parts()]
    assert jobs.count(None) >= len(left)
    again = start(vocab, folder)
    assert again.communicate(timeout=60)[0] == "failed:\n"
    assert content(folder) == expected


@pytest.mark.slow
def test_processes_do_not_change_the_bytes_and_report_every_row(
    make, expected, tmp_path
):
    done = []
    builds = make("spread")
    assert cache_build.build_all(builds, num_workers=2, progress=done.append) == {}
    assert content(tmp_path / "spread") == expected
    assert done == sorted(done)
    assert done[-1] == killed_build.NUM_ROWS + 100


def test_one_cache_that_fails_keeps_no_other_from_being_built(make, tmp_path):
    builds = make("some", [("wrong", "train"), ("odd", "test")])
    failed = cache_build.build_all(builds, num_workers=1)
    assert list(failed) == ["train of task 'wrong'"]
    assert "missing field" in str(failed["train of task 'wrong'"])
    names = {name.split("/")[0] for name in content(tmp_path / "some")}
    assert names == {"odd"}
    assert not (tmp_path / "some" / "wrong").exists()


def test_a_build_that_another_process_finished_first_is_taken(make, tmp_path):
    (build,) = make("twice", [("odd", "test")])
    cache_build.build_here(build)
    before = content(tmp_path / "twice")
    cache_build.build_here(build)
    assert content(tmp_path / "twice") == before


def test_shards_that_another_build_has_removed_are_told(make):
    (build,) = make("removed", [("odd", "test")])
    parts = []
    for folder, job, rows in build.parts():
        cache_parts.build(job, rows)
        parts.append(folder)
    shutil.rmtree(build.parts_dir)
    with pytest.raises(errors.DataError, match="another process has removed"):
        build.finish(parts)


@pytest.mark.slow
def test_shards_that_a_kill_left_beside_a_whole_cache_go_when_it_is_next_opened(
    make, expected, tmp_path
):
    builds = make("cut_off")
    for build in builds:
        cache_build.build_here(build)
        (build.parts_dir / "0000000000").mkdir(parents=True)
        (build.parts_dir / "0000000000" / "index.json").write_text("{}")
    assert all(build.is_built() for build in builds)
    assert content(tmp_path / "cut_off") == expected
    assert not any(build.parts_dir.exists() for build in builds)


@pytest.mark.slow
def test_a_build_overtaken_while_it_writes_takes_the_others_cache(
    make, expected, tmp_path, monkeypatch
):
    builds, write = make("overtaken"), token_store.write_arrays

    def overtake(path, arrays):
        monkeypatch.undo()
        for build in builds:  # by another process: the parts below `path` go
            cache_build.build_here(build)
        return write(path, arrays)

    monkeypatch.setattr(token_store, "write_arrays", overtake)
    cache_build.build_here(builds[0])
    assert content(tmp_path / "overtaken") == expected


@pytest.mark.slow
def test_builds_of_the_same_caches_at_once_all_succeed(expected, vocab, tmp_path):
    several = [start(vocab, tmp_path / "at_once") for _ in range(3)]
    for process in several:
        assert process.communicate(timeout=60)[0] == "failed:\n"
    assert content(tmp_path / "at_once") == expected


@pytest.mark.parametrize("split", ["../../up", "a/b", ".hidden", ""])
def test_no_name_leads_out_of_the_caches_folder(make, vocab, data_options, split):
    with pytest.raises(errors.ElmError):
        cache.planned(
            "odd",
            split,
            vocabulary=vocab,
            features=tasks.Features(),
            data_options=data_options,
        )
    for name in ("../up", "/up", "..", "a/b"):
        with pytest.raises(errors.ConfigError, match="the name"):
            tasks.registry.add(tasks.Mixture(name, ("odd",)))
