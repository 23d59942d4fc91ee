import shutil
import threading

import pytest

from elm_jax import errors
from elm_jax.checkpoints import bucket, experts
from elm_jax.runs.training import publishing
from tests.checkpoints import sample


def save(folder, *names):
    folders = {}
    for name in names:
        facts = sample.make_manifest(name=name)
        experts.save_expert(folder / name, sample.make_expert(), facts)
        folders[name] = folder / name
    return folders


def test_without_a_place_nothing_is_published(tmp_path):
    publisher = publishing.Publisher("")
    publisher.check(["any name"])
    publisher.put(save(tmp_path, "a"))
    assert (publisher.published(["a"]), publisher.finish()) == (frozenset(), {})
    assert publisher.describe(["a"]) == {}


def test_experts_are_in_the_bucket_when_it_has_finished(tmp_path, capsys):
    folders = save(tmp_path, "a", "b")
    publisher = publishing.Publisher(f"{tmp_path / 'bucket'}")
    publisher.check(folders)
    publisher.put({"a": folders["a"]})
    publisher.put(folders)  # a again
    assert publisher.finish() == {}
    assert publisher.published(folders) == {"a", "b"}
    assert capsys.readouterr().out.count("published: a") == 1
    description = publisher.describe(["a", "c"])["published to"]
    assert f"{description}".endswith("bucket/, 1 there already")


def test_what_is_in_the_bucket_is_not_uploaded_again(tmp_path, capsys):
    folders = save(tmp_path, "a", "b")
    place = bucket.Bucket(f"{tmp_path / 'bucket'}")
    place.publish("a", folders["a"])
    publisher = publishing.Publisher(f"{tmp_path / 'bucket'}")
    publisher.put(folders)
    assert publisher.finish() == {}
    assert "published: a" not in capsys.readouterr().out
    assert set(place.experts()) == {"a", "b"}


def test_an_upload_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    folders = save(tmp_path, "a", "b", "c")
    shutil.rmtree(folders["b"])
    publisher = publishing.Publisher(f"{tmp_path / 'bucket'}")
    publisher.put(folders)
    failures = publisher.finish()
    assert list(failures) == ["b"]
    assert isinstance(failures["b"], errors.CheckpointError)
    assert "b is finished, but not published: Found: " in capsys.readouterr().err
    assert publisher.published("abc") == {"a", "c"}


def test_a_fault_of_ours_in_the_thread_comes_out(tmp_path, monkeypatch):
    publisher = publishing.Publisher(f"{tmp_path / 'bucket'}")
    monkeypatch.setattr(bucket.Bucket, "publish", lambda *_: 1 / 0)
    publisher.put(save(tmp_path, "a"))
    with pytest.raises(ZeroDivisionError):
        publisher.finish()


def test_an_upload_holds_up_nobody(tmp_path, monkeypatch):
    slow, publish = threading.Event(), bucket.Bucket.publish
    monkeypatch.setattr(
        bucket.Bucket, "publish", lambda *args: slow.wait() and publish(*args)
    )
    publisher = publishing.Publisher(f"{tmp_path / 'bucket'}")
    publisher.put(save(tmp_path, "a", "b"))  # returns though none can be uploaded
    assert publisher.published("ab") == frozenset()
    slow.set()
    assert publisher.finish() == {}
    assert publisher.published("ab") == {"a", "b"}
