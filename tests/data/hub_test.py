import importlib.util

import pyarrow
import pytest
from pyarrow import parquet

from elm_jax import errors
from elm_jax.data import hub, rendering, templates

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
    there = source.fingerprint("train_r1", data_dir=data_dir)
    (tmp_path / "hub/some/set/default/train_r1/0001.parquet").unlink()
    prints = {
        there,
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
    found = rendering.render_rows(rows, split="train", template=prompt)
    assert found.inputs == ["plain"]
    assert found.dropped == {"bad: not UTF-8": 1}


def test_a_damaged_file_is_named(data_dir, tmp_path):
    path = tmp_path / "hub/some/set/default/train_r1/0000.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(errors.DataError, match=r"0000\.parquet cannot be read"):
        list(hub.HubRows("some/set").rows("train_r1", data_dir=data_dir))


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="`datasets` is installed"
)
def test_without_files_the_package_that_is_missing_is_named(data_dir):
    source = hub.HubRows("allenai/cosmos_qa")
    assert "hub/allenai/cosmos_qa/default/train" in source.missing(
        "train", data_dir=data_dir
    )
    with pytest.raises(errors.MissingExtraError, match="pip install datasets"):
        list(source.rows("train", data_dir=data_dir))
