import json

import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from tests.checkpoints import sample


def write(folder, **changes):
    manifest.write_manifest(folder, sample.make_manifest())
    path = folder / manifest.FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_manifest_comes_back_as_it_was(tmp_path):
    written = sample.make_manifest()
    manifest.write_manifest(tmp_path, written)
    assert manifest.read_manifest(tmp_path) == written


def test_a_base_without_adapters_comes_back_as_it_was(tmp_path):
    written = sample.make_manifest(kind="base", adapter=None, tasks=())
    manifest.write_manifest(tmp_path, written)
    assert manifest.read_manifest(tmp_path) == written


def test_a_missing_manifest_names_its_path(tmp_path):
    with pytest.raises(errors.CheckpointError, match=r"nobody/manifest\.json"):
        manifest.read_manifest(tmp_path / "nobody")


@pytest.mark.parametrize("content", [b"", b'{"name": ', b"\xff\xfe\x00", b"[1, 2]"])
def test_a_corrupt_manifest_is_an_error(tmp_path, content):
    (tmp_path / manifest.FILE_NAME).write_bytes(content)
    with pytest.raises(errors.CheckpointError, match=r"manifest\.json"):
        manifest.read_manifest(tmp_path)


def test_all_wrong_fields_are_named_at_once(tmp_path):
    write(tmp_path, steps="ten", tasks=[1], kind="wizard", colour="red")
    with pytest.raises(errors.CheckpointError) as caught:
        manifest.read_manifest(tmp_path)
    for text in ("steps is 'ten'", "tasks is [1]", "'wizard'", "colour is unknown"):
        assert text in str(caught.value)


def test_a_missing_field_is_named(tmp_path):
    (tmp_path / manifest.FILE_NAME).write_text('{"format_version": 1}')
    with pytest.raises(errors.CheckpointError, match="base_fingerprint is missing"):
        manifest.read_manifest(tmp_path)


def test_another_format_version_is_refused(tmp_path):
    write(tmp_path, format_version=99)
    with pytest.raises(errors.CheckpointError, match="format_version is 99"):
        manifest.read_manifest(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_what_is_no_json_is_refused_and_leaves_no_file(tmp_path, value):
    with pytest.raises(errors.CheckpointError, match="dream_answer"):
        manifest.write_manifest(tmp_path, sample.make_manifest(metrics={"x": value}))
    assert not list(tmp_path.iterdir())


def test_versions_name_what_shapes_a_training():
    assert {"jax", "optax", "elm_jax"} <= manifest.installed_versions().keys()
