import pytest

from elm_jax import errors
from elm_jax.runs import cache_tasks, task_data
from tasks import pocket

TASKS = ("pocket_moods_*", "pocket_notes_*")


@pytest.fixture
def make(tmp_path):
    def run(**changes):
        data = task_data.TaskData(
            vocabulary_path=pocket.VOCABULARY.path,
            feature_lengths={"inputs": 128, "targets": 32},
        )
        fields = {"model_dir": str(tmp_path), "tasks": TASKS, "data": data}
        return cache_tasks.CacheTasks(**{**fields, "num_workers": 1, **changes})

    return run


@pytest.mark.slow
def test_every_split_of_every_task_is_cached_once(make, tmp_path, capsys):
    run = make(splits=("validation", "test"))
    assert run.plan()["files"] == tmp_path / "cache"
    run.run()
    printed = capsys.readouterr()
    manifests = {
        path.parent: path for path in (tmp_path / "cache").rglob("manifest.json")
    }
    assert str(run.plan()["caches"]).startswith(f"{len(manifests)}: pocket_moods_")
    assert {folder.name.split("-")[0] for folder in manifests} == {"validation", "test"}
    assert f"caches: {len(manifests)} of {len(manifests)}" in printed.out
    total = printed.err.split("cache: ")[-1].split(" ")[0]
    assert total.split("/")[0] == total.split("/")[1]
    times = {path: path.stat().st_mtime_ns for path in manifests.values()}
    run.run()
    assert times == {path: path.stat().st_mtime_ns for path in manifests.values()}
    # Runs that train find what it built.
    opened = run.data.opened(run.place)
    name = next(iter(manifests)).parent.name
    assert len(opened.open(name, "test"))
    assert len(list((tmp_path / "cache").rglob("manifest.json"))) == len(manifests)


@pytest.mark.slow
def test_caches_that_fail_are_named_at_the_end_and_the_others_kept(make, tmp_path):
    data = task_data.TaskData(
        vocabulary_path=pocket.VOCABULARY.path,
        feature_lengths={"inputs": 128, "targets": 2},
    )
    with pytest.raises(errors.DataError, match="caches failed") as raised:
        make(data=data, splits=("test",), tasks=("pocket_*",)).run()
    assert "TASK_FEATURE_LENGTHS" in str(raised.value)
    assert list((tmp_path / "cache").rglob("manifest.json"))


def test_wrong_values_are_told_before_anything_is_read(make):
    with pytest.raises(errors.ConfigError, match="num_workers = -1"):
        make(num_workers=-1)
    with pytest.raises(errors.ConfigError, match="no task with one of the splits tset"):
        make(splits=("tset",)).run()
