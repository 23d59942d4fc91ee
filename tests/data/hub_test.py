import dataclasses
import importlib.util
import pathlib

import pyarrow
import pytest
from pyarrow import parquet

from elm_jax import errors
from elm_jax.data import hub, rendering, serving, templates

ROWS = [
    {"q": "é?", "choices": {"label": ["A", "B"], "text": ["a", "b"]}, "label": i}
    for i in range(5)
]


@pytest.fixture
def data_dir(tmp_path):
    for subset in ("default", "two"):
        folder = tmp_path / "hub" / "some" / "set" / subset / "train_r1"
        folder.mkdir(parents=True)
        for number, rows in enumerate((ROWS[:3], ROWS[3:])):
            table = pyarrow.Table.from_pylist(rows)
            parquet.write_table(table, folder / f"000{number}.parquet")
    return str(tmp_path)


def test_parquet_files_are_read_in_order_as_plain_python(data_dir):
    for subset in (None, "two"):
        source = hub.HubRows("some/set", subset)
        assert source.missing("train_r1", data_dir=data_dir) == ""
        assert list(source.rows("train_r1", data_dir=data_dir)) == ROWS


def test_the_fingerprint_follows_the_files(data_dir, tmp_path):
    source = hub.HubRows("some/set")
    fingerprint = source.fingerprint("train_r1", data_dir=data_dir)
    (tmp_path / "hub/some/set/default/train_r1/0001.parquet").unlink()
    prints = {
        fingerprint,
        source.fingerprint("train_r1", data_dir=data_dir),
        source.fingerprint("train_r1", data_dir=""),
        hub.HubRows("some/set", "two").fingerprint("train_r1", data_dir=data_dir),
    }
    assert len(prints) == 4


def test_texts_that_are_not_utf8_are_read_for_rendering_to_refuse(data_dir, tmp_path):
    whole = pyarrow.array([b"plain", b"caf\xe9"], pyarrow.binary())
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 2, whole.buffers())
    lists = pyarrow.ListArray.from_arrays([0, 1, 2], texts)
    inner = pyarrow.StructArray.from_arrays([texts], ["t"])
    table = pyarrow.table({"q": texts, "l": lists, "s": inner, "n": [1, None]})
    folder = tmp_path / "hub/some/set/odd/train"
    folder.mkdir(parents=True)
    parquet.write_table(table, folder / "0000.parquet")
    rows = list(hub.HubRows("some/set", "odd").rows("train", data_dir=data_dir))
    assert rows[0] == {"q": "plain", "l": ["plain"], "s": {"t": "plain"}, "n": 1}
    prompt = templates.Template("t", "1", "{{q}} ||| a")
    rendered = rendering.render_rows(rows, split="train", template=prompt)
    assert rendered.inputs == ["plain"]
    assert rendered.dropped == {"bad: not UTF-8": 1}


def test_a_damaged_file_is_named(data_dir, tmp_path):
    path = tmp_path / "hub/some/set/default/train_r1/0000.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(errors.DataError, match=r"0000\.parquet cannot be read"):
        list(hub.HubRows("some/set").rows("train_r1", data_dir=data_dir))


@dataclasses.dataclass(frozen=True)
class Folders:
    """A small hub: repositories are folders, revisions are folders in them.

    It counts nothing and answers as the Hub does: by name, or not at all.
    """

    root: pathlib.Path
    is_silent: bool = False

    def list_files(self, repository, revision):
        folder = self.root / repository / revision
        if self.is_silent:
            raise TimeoutError("no answer")
        if not folder.is_dir():
            raise LookupError(f"404 {repository}")
        files = (path for path in folder.rglob("*") if path.is_file())
        return [path.relative_to(folder).as_posix() for path in files]

    def fetch(self, repository, revision, file):
        return str(self.root / repository / revision / file)


def publish(root, file, rows=ROWS, repository="some/set", revision=hub.PARQUET_BRANCH):
    path = root / repository / revision / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("a script")


def remote_rows(root, subset=None, **changes):
    source = hub.HubRows("some/set", subset, remote=Folders(root), **changes)
    assert source.missing("test", data_dir="") == ""
    return list(source.rows("test", data_dir=""))


@pytest.mark.parametrize("subset", [None, "plain_text"])
def test_the_only_configuration_is_found_whatever_its_name(tmp_path, subset):
    for number, rows in enumerate((ROWS[:3], ROWS[3:])):
        publish(tmp_path, f"plain_text/test/000{number}.parquet", rows)
    publish(tmp_path, "plain_text/train/0000.parquet", [])
    assert remote_rows(tmp_path, subset) == ROWS


def test_a_datasets_own_files_serve_where_it_has_lost_the_branch(tmp_path):
    on_main = {"revision": "main"}
    publish(tmp_path, "data/test-00000-of-00002.parquet", ROWS[:3], **on_main)
    publish(tmp_path, "data/test-00001-of-00002-0a1b.parquet", ROWS[3:], **on_main)
    publish(tmp_path, "README.md", **on_main)
    assert remote_rows(tmp_path) == ROWS
    assert remote_rows(tmp_path, "any_name") == ROWS


def test_the_branch_of_converted_files_is_preferred(tmp_path):
    publish(tmp_path, "default/test/0000.parquet", ROWS[:2])
    publish(tmp_path, "data/test-00000-of-00001.parquet", ROWS, revision="main")
    assert remote_rows(tmp_path) == ROWS[:2]


@pytest.mark.parametrize(
    ("files", "subset", "message"),
    [
        (["a/test/0000.parquet", "b/test/0000.parquet"], None, "a with test; b with"),
        (["a/test/0000.parquet", "b/test/0000.parquet"], "c", "no configuration c: a"),
        (["a/train/0000.parquet"], None, "no test: a with train"),
        (["a/partial-test/0000.parquet"], None, "first gigabytes: partial-test"),
        (["test-00001-of-00003.parquet"], None, "1 of 00003 files of test"),
        (["set.py", "data/x.zip"], None, "no Parquet files, but data/x.zip, set.py"),
    ],
)
def test_an_error_tells_what_was_listed(tmp_path, files, subset, message):
    for file in files:
        publish(tmp_path, file)
    with pytest.raises(errors.DataError) as caught:
        remote_rows(tmp_path, subset)
    assert "refs/convert/parquet of some/set has " in str(caught.value)
    assert message in str(caught.value)
    assert "there is no main of some/set" in str(caught.value)


def test_a_repository_with_mirrors_is_listed_before_it_is_said_to_have_rows(tmp_path):
    publish(tmp_path, "set.py")
    publish(tmp_path, "test.parquet", repository="a/mirror", revision="main")
    names = ("some/set", "a/mirror")
    first, mirror = (
        hub.HubRows(name, None, has_mirrors=True, remote=Folders(tmp_path))
        for name in names
    )
    assert "no Parquet files, but set.py" in first.missing("test", data_dir="")
    options = [
        serving.Option("hub", repository, {"test": "test"})
        for repository in (first, mirror)
    ]
    served = serving.serve(
        serving.AnyOf("set", tuple(options)), "test", data_dir="", order=("hub",)
    )
    assert served.name == "hub: a/mirror@refs/convert/parquet"
    assert list(served.rows()) == ROWS
    # Who does not answer may have them: that is seen when it is read.
    silent = dataclasses.replace(first, remote=Folders(tmp_path, is_silent=True))
    assert silent.missing("test", data_dir="") == ""
    with pytest.raises(errors.DataError, match="cannot be listed: no answer"):
        list(silent.rows("test", data_dir=""))


def test_a_copy_of_a_datasets_own_files_serves_too(tmp_path):
    copy = {"root": tmp_path / "hub", "revision": ""}
    publish(**copy, file="data/test-00000-of-00001.parquet")
    source = hub.HubRows("some/set", "plain_text")
    assert list(source.rows("test", data_dir=str(tmp_path))) == ROWS
    # A copy of both layouts has each row once.
    publish(**copy, file="plain_text/test/0000.parquet")
    assert list(source.rows("test", data_dir=str(tmp_path))) == ROWS


@pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is not None,
    reason="`huggingface_hub` is installed",
)
def test_without_files_the_package_that_is_missing_is_named(data_dir):
    source = hub.HubRows("allenai/cosmos_qa")
    missing = source.missing("train", data_dir=data_dir)
    assert "hub/allenai/cosmos_qa" in missing
    assert "huggingface_hub" in missing
    why = hub.HubRows("some/set", "three").missing("train_r1", data_dir=data_dir)
    assert "no configuration three: default with train_r1; two with train_r1" in why
    with pytest.raises(errors.MissingExtraError, match=r"pip install .elm_jax\[hub\]"):
        list(source.rows("train", data_dir=data_dir))
