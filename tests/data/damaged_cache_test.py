"""A damaged token cache is told, never read as other tokens, and made anew."""

import pathlib
import resource
import shutil

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import (
    cache_build,
    tasks,
)


def test_a_damaged_cache_is_told_with_the_folder_to_delete(
    open_cache, colours, data_options
):
    open_cache("colours_ask")
    (arrays,) = pathlib.Path(data_options.cache_dir).rglob("arrays.bin")
    arrays.write_bytes(arrays.read_bytes()[:1000])
    with pytest.raises(errors.DataError, match="Delete .*colours_ask/train-"):
        open_cache("colours_ask")
    (manifest,) = pathlib.Path(data_options.cache_dir).rglob("manifest.json")
    manifest.write_text("{")
    with pytest.raises(errors.DataError, match="damaged"):
        open_cache("colours_ask")


def test_no_random_damage_is_read_as_other_tokens(open_cache, colours, data_options):
    whole = open_cache("colours_ask")
    expected = [str(example) for example in whole]
    rng, refused = np.random.default_rng(0), 0
    files = [*whole_files(pathlib.Path(data_options.cache_dir))]
    for n in range(90):
        path, content = files[n % len(files)]
        damaged, place = bytearray(content), int(rng.integers(len(content)))
        if n % 3 == 0:
            damaged[place] ^= 1 << int(rng.integers(8))
        elif n % 3 == 1:
            part = damaged[place : place + 8]
            damaged[place : place + 8] = rng.bytes(len(part))
        else:
            del damaged[place:]
        path.write_bytes(damaged)
        try:
            read = open_cache("colours_ask")
        except errors.DataError:
            refused += 1
        else:
            assert [str(example) for example in read] == expected, (path, place)
            assert read.manifest == whole.manifest, (path, place)
        path.write_bytes(content)
    assert refused > 70
    assert [str(example) for example in open_cache("colours_ask")] == expected


def whole_files(folder):
    for name in ("arrays.bin", "manifest.json"):
        (path,) = folder.rglob(name)
        yield path, path.read_bytes()


def test_a_cache_of_other_settings_under_this_name_is_refused(
    open_cache, colours, data_options
):
    open_cache("colours_ask")
    (cached,) = pathlib.Path(data_options.cache_dir).rglob("train-*")
    features = tasks.Features(inputs_length=64, targets_length=9)
    open_cache("colours_ask", features=features)
    (shorter,) = set(pathlib.Path(data_options.cache_dir).rglob("train-*")) - {cached}
    shutil.rmtree(cached)
    shorter.rename(cached)
    with pytest.raises(errors.DataError, match="other rows or settings"):
        open_cache("colours_ask")


def test_a_damaged_shard_is_told_and_made_anew(open_cache, colours, monkeypatch):
    join = cache_build.CacheBuild._join

    def damage(build, parts):
        path = parts[0] / "arrays.bin"
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        join(build, parts)

    with monkeypatch.context() as patched:
        patched.setattr(cache_build.CacheBuild, "_join", damage)
        with pytest.raises(errors.DataError, match="part of train.*is damaged"):
            open_cache("colours_ask")
    assert len(open_cache("colours_ask"))


def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    open_cache, colours, data_options
):
    # A limit on file size fails in the middle of writing, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(errors.DataError, match="nothing half-written") as raised:
            open_cache("colours_ask")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written: File too large" in str(raised.value)
    assert not list(pathlib.Path(data_options.cache_dir).rglob("*.*"))
    assert len(open_cache("colours_ask")) == 60
