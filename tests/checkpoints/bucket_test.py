import concurrent.futures
import http.server
import pathlib
import shutil
import threading
import time

import pytest
import tensorstore as ts

from elm_jax import errors, trees
from elm_jax.checkpoints import bucket, experts, objects
from tests.checkpoints import sample

DIGEST = "0" * 32


def save(folder):
    facts = sample.make_manifest(name="x")
    experts.save_expert(folder, sample.make_expert(), facts)
    return folder


def contents(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def fetch(place, folder, name="x"):
    place.fetch(place.copies()[name][0], folder, lambda: None)
    return contents(folder)


@pytest.fixture(params=["file", "memory", "path"])
def place(request, tmp_path):
    folder = tmp_path / "a bucket"
    urls = {"file": folder.as_uri(), "path": f"{folder}"}
    memory = f"memory://{tmp_path.name}-{time.monotonic_ns()}/experts"
    return bucket.Bucket(urls.get(request.param, memory))


def test_what_was_published_is_fetched_bit_for_bit(place, tmp_path):
    written = contents(save(tmp_path / "x"))
    place.check(["x"])
    assert place.experts() == {}
    size = place.publish("x", tmp_path / "x")
    assert size == sum(len(content) for content in written.values())
    assert place.experts()["x"].num_files == len(written)
    assert fetch(place, tmp_path / "other" / "x") == written
    assert trees.fingerprint(experts.load_expert(tmp_path / "other" / "x")[0]) == (
        trees.fingerprint(sample.make_expert())
    )


def test_a_half_of_an_upload_is_no_expert_and_the_next_one_completes_it(tmp_path):
    save(tmp_path / "x")
    bucket.Bucket(f"{tmp_path / 'whole'}").publish("x", tmp_path / "x")
    files = contents(tmp_path / "whole")
    (record,) = [
        path for path in files if path.endswith(".json") and path.count("/") == 1
    ]
    del files[record]  # of the states of another bucket's objects
    *others, last = sorted(files, key=lambda path: path.endswith("/manifest.json"))
    for count in range(len(others) + 1):
        torn = tmp_path / f"torn-{count}"
        for path in others[:count]:
            (torn / path).parent.mkdir(parents=True, exist_ok=True)
            (torn / path).write_bytes(files[path])
        place = bucket.Bucket(f"{torn}")
        assert place.experts() == {}
        place.publish("x", tmp_path / "x")
        assert contents(torn).keys() == {*files, record}
        assert contents(torn).items() >= files.items()
    assert last.count("/") == 2  # name, digest, manifest.json


@pytest.mark.slow
def test_of_two_machines_that_publish_at_once_one_gets_through_whole(place, tmp_path):
    folders = [save(tmp_path / f"machine-{n}") for n in range(4)]
    wholes = [contents(folder) for folder in folders]
    # Orbax draws file names, so the folders differ though the tensors do not.
    assert len({frozenset(whole) for whole in wholes}) == len(folders)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(place.publish, "x", f) for f in folders * 2]:
            done.result()
    assert fetch(place, tmp_path / "x") in wholes
    assert fetch(place, tmp_path / "again") == contents(tmp_path / "x")


@pytest.mark.parametrize("name", ["..", ".x", "a b", "-rf", "a\\b", "x" * 201, "é"])
def test_odd_names_are_neither_published_nor_taken_for_experts(name, tmp_path):
    memory = f"memory://{tmp_path.name}-{time.monotonic_ns()}/"
    put(memory, f"{name}/{DIGEST}/manifest.json")
    place = bucket.Bucket(memory)
    assert place.experts() == {}
    with pytest.raises(errors.CheckpointError, match="names of experts"):
        place.check([name])
    with pytest.raises(errors.CheckpointError, match="names of experts"):
        place.publish(name, save(tmp_path / "x"))


@pytest.mark.parametrize(
    "path", ["../../evil", "/evil", "params//evil", "params/.evil", "a/../../evil"]
)
def test_no_file_of_a_bucket_leaves_the_expert_folder(path, tmp_path):
    memory = f"memory://{tmp_path.name}-{time.monotonic_ns()}/"
    for file in ("manifest.json", path):
        put(memory, f"x/{DIGEST}/{file}")
    with pytest.raises(errors.CheckpointError, match="evil"):
        fetch(bucket.Bucket(memory), tmp_path / "deep" / "x")
    assert list(tmp_path.rglob("*")) == []


def test_a_manifest_with_an_odd_name_is_neither_published_nor_fetched(tmp_path):
    sample.rename(save(tmp_path / "x"), "../evil")
    place = bucket.Bucket(f"{tmp_path / 'bucket'}")
    with pytest.raises(errors.CheckpointError, match="evil"):
        place.publish("x", tmp_path / "x")
    digests = {p: bucket._digest(c) for p, c in contents(tmp_path / "x").items()}
    digest = bucket._combine(digests)
    shutil.copytree(tmp_path / "x", tmp_path / "bucket" / "x" / digest)
    with pytest.raises(errors.CheckpointError, match="evil"):
        fetch(place, tmp_path / "new" / "x")
    assert list((tmp_path / "new").iterdir()) == []


def put(url, key):
    store = ts.KvStore.open(url, context=objects._context()).result()
    store.write(key, b"{}").result()


@pytest.mark.parametrize("change", ["altered", "lost", "added"])
def test_files_that_are_not_those_published_are_told_and_not_kept(change, tmp_path):
    place = bucket.Bucket(f"{tmp_path / 'bucket'}")
    place.publish("x", save(tmp_path / "x"))
    path = next((tmp_path / "bucket").rglob("_METADATA"))
    if change == "altered":
        path.write_bytes(path.read_bytes()[:-1] + b" ")
    elif change == "lost":
        path.unlink()
    else:
        shutil.copy(path, path.with_name("more"))
    with pytest.raises(errors.CheckpointError, match="not those published"):
        fetch(place, tmp_path / "new" / "x")
    assert list((tmp_path / "new").iterdir()) == []


def test_folders_that_a_mounted_bucket_marks_are_no_files(tmp_path):
    memory = f"memory://{tmp_path.name}-{time.monotonic_ns()}/"
    place = bucket.Bucket(memory)
    place.publish("x", save(tmp_path / "x"))
    digest = place.experts()["x"].digest
    put(memory, f"x/{digest}/params/")
    assert fetch(place, tmp_path / "new") == contents(tmp_path / "x")


def test_what_is_there_already_is_not_written_over(place, tmp_path):
    place.publish("x", save(tmp_path / "x"))
    with pytest.raises(errors.CheckpointError, match="is there already"):
        fetch(place, tmp_path / "x")


def test_a_folder_without_manifest_is_not_published(place, tmp_path):
    save(tmp_path / "x")
    (tmp_path / "x" / "manifest.json").unlink()
    with pytest.raises(errors.CheckpointError, match=r"manifest\.json cannot be read"):
        place.publish("x", tmp_path / "x")


@pytest.mark.parametrize(
    "url", ["file:///proc/no/such", "gs://", "foo://x/", "http://localhost/x/"]
)
def test_a_place_that_cannot_be_written_is_told_with_what_to_do(url):
    place = bucket.Bucket(url)
    with pytest.raises(errors.CheckpointError, match="(?s)Found: .*To do: Correct"):
        place.check(["x"])


class Refusing(http.server.BaseHTTPRequestHandler):
    """An S3 server that knows nobody."""

    requested_paths: list[str] = []  # noqa: RUF012 - of one test

    def do_PUT(self):  # noqa: N802
        self.requested_paths.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_error(403)

    do_HEAD = do_GET = do_PUT  # noqa: N815

    def log_message(self, *_):
        pass


def test_another_server_for_s3_is_asked_and_its_refusal_told(monkeypatch):
    with http.server.ThreadingHTTPServer(("localhost", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "who")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "knows")
        with pytest.raises(errors.CheckpointError, match="PERMISSION_DENIED"):
            bucket.Bucket("s3://some/place").check(["x"])
        server.shutdown()
    assert "/some/place/_elm_jax" in Refusing.requested_paths


def test_a_fetch_that_was_killed_leaves_nothing_that_looks_whole(tmp_path):
    place = bucket.Bucket(f"{tmp_path / 'bucket'}")
    place.publish("x", save(tmp_path / "x"))
    folder = tmp_path / "new" / "x"

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with pytest.raises(Killed):
        place.fetch(place.experts()["x"], folder, kill)
    assert not folder.exists()
    assert fetch(place, folder) == contents(tmp_path / "x")
    assert [p.name for p in pathlib.Path(tmp_path / "new").iterdir()] == ["x"]
