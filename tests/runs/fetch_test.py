import re

import pytest

from elm_jax import errors
from elm_jax.checkpoints import bucket, experts
from elm_jax.cli import gin_flags
from elm_jax.runs import fetch
from tests.checkpoints import sample

NAMES = ("dream_answer", "dream_read", "quail_choose")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for name in NAMES:
        facts = sample.make_manifest(name=name)
        experts.save_expert(folder / name, sample.make_expert(), facts)
        bucket.Bucket(f"{folder / 'bucket'}").publish(name, folder / name)
    return (folder / "bucket").as_uri()


def build(folder, url, *bindings):
    built, bound, operative = gin_flags.build_run(
        (fetch.FetchExperts,),
        gin_files=["gin/pocket/fetch.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", f"PUBLISH_URL = '{url}'", *bindings],
    )
    return built, lambda: built.start(config=bound, operative_config=operative)


def names(folder):
    return sorted(p.name for p in folder.glob("prompt_experts/[!.]*"))


def test_all_experts_come_and_come_once(url, tmp_path, capsys):
    run, start = build(tmp_path, url)
    assert run.plan()["there already"] == 0
    start()
    assert names(tmp_path) == list(NAMES)
    assert "experts: 3 fetched, 0 there already" in capsys.readouterr().out
    assert run.plan()["there already"] == 3
    start()
    assert "experts: 0 fetched, 3 there already" in capsys.readouterr().out
    for name in NAMES:
        assert experts.load_expert(tmp_path / "prompt_experts" / name)[1].name == name


def test_patterns_choose_experts(url, tmp_path):
    _, start = build(tmp_path, url, "EXPERTS = ('dream_*', 'dream_read')")
    start()
    assert names(tmp_path) == ["dream_answer", "dream_read"]


def test_progress_counts_files_with_rate_and_time(url, tmp_path, capsys):
    _, start = build(tmp_path, url, "EXPERTS = 'quail_choose'")
    start()
    *_, last = capsys.readouterr().err.splitlines()  # several on a slow machine
    # How many files Orbax writes differs by one, as its threads happen to finish.
    expert = tmp_path / "prompt_experts" / "quail_choose"
    count = sum(path.is_file() for path in expert.rglob("*"))
    assert re.fullmatch(rf"fetch: {count}/{count} files, .*/s, 0 s", last)


@pytest.mark.parametrize("pattern", ["dreem_answer", "../*", "/etc"])
def test_a_pattern_that_fits_nothing_is_an_error(pattern, url, tmp_path):
    _, start = build(tmp_path, url, f"EXPERTS = '{pattern}'")
    with pytest.raises(errors.LibraryError, match="Did you mean|Known names"):
        start()
    assert names(tmp_path) == []


def test_another_expert_of_a_name_in_the_folder_is_refused_by_name(url, tmp_path):
    info = sample.make_manifest(name="dream_read", seed=9)
    folder = tmp_path / "prompt_experts" / "dream_read"
    experts.save_expert(folder, sample.make_expert(), info)
    run, start = build(tmp_path, url)
    for act in (run.plan, start):
        with pytest.raises(errors.CheckpointError, match="dream_read.*fingerprint"):
            act()
    assert names(tmp_path) == ["dream_read"]


def test_two_experts_of_one_name_in_a_bucket_are_refused(tmp_path):
    place = bucket.Bucket(f"{tmp_path / 'bucket'}")
    for seed in (1, 2):
        facts = sample.make_manifest(name="dream_read", seed=seed)
        experts.save_expert(tmp_path / f"{seed}", sample.make_expert(), facts)
        place.publish("dream_read", tmp_path / f"{seed}")
    run, _ = build(tmp_path, place.url)
    with pytest.raises(errors.CheckpointError, match="2 experts 'dream_read'"):
        run.plan()
