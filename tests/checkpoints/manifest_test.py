import json
import os

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


# What is a path, hidden, a flag, markup, more than one line, too long or no text.
NO_NAMES = (
    *("", ".", "..", "../../ESCAPED", "a/b", "/etc", "a\\b", ".x", "-rf"),
    *("[/]x", "[bold]x[/bold]", "a\nb", "a\n", "\x1b[31m", "a b", "é", "x" * 201),
)


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("field", ["name", "base_name", "tasks"])
def test_a_name_that_is_none_is_neither_read_nor_written(tmp_path, field, name):
    odd = (name,) if field == "tasks" else name
    write(tmp_path, **{field: odd})
    with pytest.raises(errors.CheckpointError, match=r"manifest\.json: .* is "):
        manifest.read_manifest(tmp_path)
    (tmp_path / manifest.FILE_NAME).unlink()
    with pytest.raises(errors.CheckpointError, match="1 to 200"):
        manifest.write_manifest(tmp_path, sample.make_manifest(**{field: odd}))
    assert not list(tmp_path.iterdir())


def make_link(path):
    path.symlink_to("/etc/hostname")


def make_folder_link(path):
    path.symlink_to("/etc")


@pytest.mark.parametrize("make", [make_link, make_folder_link, os.mkfifo])
@pytest.mark.parametrize("name", [manifest.FILE_NAME, "vocabulary.model", "params/d/x"])
def test_nothing_is_followed_out_of_a_folder_nor_waited_for(tmp_path, make, name):
    write(tmp_path)
    (tmp_path / "params" / "d").mkdir(parents=True)
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(
        errors.CheckpointError, match=f"{name}', which is (a link|no f)"
    ):
        manifest.read_manifest(tmp_path)


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "big disk" / "x").mkdir(parents=True)
    write(tmp_path / "big disk" / "x")
    (tmp_path / "experts").symlink_to(tmp_path / "big disk")
    (tmp_path / "y").symlink_to(tmp_path / "experts" / "x")
    for folder in ("experts/x", "y"):
        assert manifest.read_manifest(tmp_path / folder) == sample.make_manifest()


def searched(weights, **options):
    """A manifest of a merge whose coefficients were searched."""
    merge = {
        **{"method": "task_arithmetic", "experts": ["a", "b"], "recipes": ["1", "2"]},
        **{"seeds": [3, 3], "fingerprints": [str(weights)] * 2, "weights": weights},
        "search": {
            "asked": {"search": "lorahub"} | options,
            "rows": {"dream_answer": {"tokens": "ff"}},
            "chosen": weights,
            "tried": [[weights, 0.5]],
        },
    }
    rank = sum(weight != 0 for weight in weights)
    adapter = {"kind": "lora", "rank": rank}
    return sample.make_manifest(kind="merged", data={"merge": merge}, adapter=adapter)


def test_trainings_of_a_searched_merge_have_one_recipe_whatever_was_found():
    assert searched([1.0, 0.5]).recipe == searched([0.25, 0.0]).recipe != ""
    assert searched([1.0, 0.5]).recipe != searched([1.0, 0.5], bound=2.0).recipe
    assert searched([1.0, 0.5]).fingerprint != searched([0.25, 0.0]).fingerprint
