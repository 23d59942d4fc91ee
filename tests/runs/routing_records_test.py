"""Records of experts on disk are read for the very expert and settings, or refused."""

import dataclasses
import shutil

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.runs import routing_records

SETTINGS = routing_records.Settings(num_examples=6, batch_size=4, gate_steps=3)
ROWS = {"lengths": {"inputs": 8}}
NAMES = "plain", "twice"


def info_of(name):
    return manifest.Manifest(
        name=name,
        kind="prompt",
        base_name="base",
        base_fingerprint="b",
        model={},
        trainable_pattern=".*",
        params_fingerprint=f"params of {name}",
    )


@pytest.fixture
def records(tmp_path):
    """Records of two experts with other gates."""
    for number, name in enumerate(NAMES):
        arrays = {"place": {"gate": np.full((1, 3), number, np.float32)}}
        routing_records.write(tmp_path, info_of(name), SETTINGS, arrays, ROWS)
    return tmp_path


def check_rows(records, info, settings):
    return routing_records.check_rows(records, info, settings, ROWS)


def folder_of(records, name):
    return routing_records.folder_of(records, info_of(name), SETTINGS)


def test_a_record_is_that_of_its_expert(records):
    for number, name in enumerate(NAMES):
        info = info_of(name)
        gate = routing_records.read(records, info, SETTINGS)["place"]["gate"]
        assert gate.tolist() == [[number] * 3]
        assert routing_records.check_rows(records, info, SETTINGS, ROWS)


@pytest.mark.parametrize(
    "used",
    [
        routing_records.read,
        routing_records.digest,
        check_rows,
    ],
)
def test_the_record_of_one_expert_is_not_used_for_another(records, used):
    shutil.rmtree(folder_of(records, "twice"))
    shutil.copytree(folder_of(records, "plain"), folder_of(records, "twice"))
    with pytest.raises(errors.LibraryError, match="it is of another expert"):
        used(records, info_of("twice"), SETTINGS)
    used(records, info_of("plain"), SETTINGS)


def test_the_record_of_other_settings_is_not_used(records):
    other = dataclasses.replace(SETTINGS, gate_steps=4)
    to = routing_records.folder_of(records, info_of("plain"), other)
    shutil.copytree(folder_of(records, "plain"), to)
    with pytest.raises(errors.LibraryError, match="base or settings"):
        routing_records.read(records, info_of("plain"), other)


def test_changed_arrays_are_not_observed_already(records):
    path = folder_of(records, "plain") / "arrays.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for check in (
        check_rows,
        routing_records.read,
    ):
        with pytest.raises(errors.LibraryError, match="changed after it was written"):
            check(records, info_of("plain"), SETTINGS)
    path.unlink()
    with pytest.raises(errors.LibraryError, match=r"Remove this folder"):
        routing_records.check_rows(records, info_of("plain"), SETTINGS, ROWS)


def test_a_record_that_is_not_there_tells_the_settings_of_those_that_are(records):
    info = info_of("plain")
    other = dataclasses.replace(SETTINGS, gate_steps=5, reads="sub_layer")
    routing_records.write(records, info, other, {}, ROWS)
    with pytest.raises(errors.LibraryError) as caught:
        routing_records.read(records, info, routing_records.Settings())
    first = "num_examples = 6, batch_size = 4, gate_steps = 3"
    second = "num_examples = 6, batch_size = 4, gate_steps = 5, reads = 'sub_layer'"
    problem, _, do = f"{caught.value}".splitlines()
    settings_texts = (
        problem.removesuffix(".").split(" but with ")[1].split(" and with ")
    )
    assert {*settings_texts} == {first, second}
    assert "record_settings" in do


def test_records_of_other_experts_of_the_name_and_damaged_ones_are_not_told(records):
    changed = dataclasses.replace(info_of("plain"), params_fingerprint="others")
    (folder_of(records, "twice") / "record.json").write_text("{")
    for info in (changed, info_of("twice")):
        with pytest.raises(errors.LibraryError, match="no record of expert") as caught:
            routing_records.read(records, info, routing_records.Settings())
        assert "but with" not in f"{caught.value}"
        assert "record_settings" not in f"{caught.value}"
