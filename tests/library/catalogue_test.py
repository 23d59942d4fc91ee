"""A library lists its experts: one line each, one base, names of their own."""

import concurrent.futures
import dataclasses
import json
import os

import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.library import catalogue


@pytest.fixture
def make_expert(tmp_path):
    def make_expert(name, **changes):
        fields = {
            "name": name,
            "kind": "prompt",
            "base_name": "tiny",
            "base_fingerprint": "aaaa",
            "model": {},
            "trainable_pattern": ".*",
            "tasks": (f"{name}_task",),
            "steps": 7,
        }
        folder = tmp_path / "experts" / name
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write_manifest(folder, manifest.Manifest(**(fields | changes)))
        return folder

    return make_expert


@pytest.fixture
def library(tmp_path):
    return catalogue.Catalogue(tmp_path / "library")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "library" / "catalogue.jsonl"


def test_constructing_touches_no_disk(tmp_path):
    catalogue.Catalogue(tmp_path / "library")
    assert not list(tmp_path.iterdir())


def test_added_experts_are_listed_in_order_with_what_their_manifest_says(
    library, make_expert, tmp_path
):
    library.add(make_expert("zebra"))
    library.add(make_expert("ant", kind="dataset"))
    again = catalogue.Catalogue(tmp_path / "library")
    assert again.experts() == ("zebra", "ant")
    assert again.get("ant") == catalogue.Entry(
        name="ant",
        path="../experts/ant",
        kind="dataset",
        base_name="tiny",
        base_fingerprint="aaaa",
        tasks=("ant_task",),
        steps=7,
        fingerprint=manifest.read_manifest(tmp_path / "experts" / "ant").fingerprint,
    )
    assert again.expert_dir("ant") == tmp_path / "experts" / "ant"


def test_library_and_experts_can_move_together(library, make_expert, tmp_path):
    library.add(make_expert("ant"))
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("library", "experts"):
        os.rename(tmp_path / name, moved / name)
    folder = catalogue.Catalogue(moved / "library").expert_dir("ant")
    assert manifest.read_manifest(folder).name == "ant"


def test_each_line_is_json_with_the_documented_fields(library, make_expert, path):
    library.add(make_expert("ant"))
    bee = make_expert("bee")
    library.add(bee)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[1]) == {
        "name": "bee",
        "path": "../experts/bee",
        "kind": "prompt",
        "base_name": "tiny",
        "base_fingerprint": "aaaa",
        "tasks": ["bee_task"],
        "steps": 7,
        "status": "active",
        "fingerprint": manifest.read_manifest(bee).fingerprint,
    }


def test_lines_of_release_0_1_have_no_fingerprint_and_are_read(
    library, make_expert, path
):
    ant = make_expert("ant")
    library.add(ant)
    line = json.loads(path.read_text())
    del line["fingerprint"]
    path.write_text(json.dumps(line) + "\n")
    library.list_once(ant)
    library.check()
    assert [entry.fingerprint for entry in library.entries()] == [""]


def test_an_expert_that_was_trained_again_in_place_is_told(library, make_expert):
    library.add(make_expert("ant"))
    library.check()
    again = make_expert("ant", seed=7)
    with pytest.raises(errors.LibraryError, match="holds another expert"):
        library.check()
    with pytest.raises(errors.LibraryError, match="lists prompt expert 'ant'"):
        library.list_once(again)


def test_two_new_experts_of_one_name_are_refused_before_any_is_listed(
    library, make_expert, tmp_path
):
    first = make_expert("ant")
    second = tmp_path / "lora" / "ant"
    second.mkdir(parents=True)
    info = manifest.read_manifest(first)
    manifest.write_manifest(second, dataclasses.replace(info, adapter={"kind": "lora"}))
    with pytest.raises(errors.LibraryError, match=r"lora/ant.*experts/ant"):
        library.check_new([first, second])
    assert library.check_new([first]) == [first]


def test_adding_keeps_the_lines_before_byte_for_byte(library, make_expert, path):
    library.add(make_expert("ant"))
    before = path.read_bytes()
    library.add(make_expert("bee"))
    assert path.read_bytes().startswith(before)


def test_a_retired_expert_is_kept_but_not_active(library, make_expert):
    for name in ("ant", "bee"):
        library.add(make_expert(name))
    retired = library.retire("ant")
    assert library.experts() == ("bee",)
    assert library.get("ant") == retired
    assert [entry.status for entry in library.entries()] == ["retired", "active"]
    assert library.retire("ant") == retired
    with pytest.raises(errors.LibraryError, match="lists prompt expert 'ant'"):
        library.add(make_expert("ant"))


def test_an_expert_of_another_base_is_refused_and_changes_nothing(
    library, make_expert, path
):
    library.add(make_expert("ant"))
    before = path.read_bytes()
    of_another_base = make_expert("bee", base_name="big", base_fingerprint="bbbb")
    with pytest.raises(errors.FingerprintError, match=r"big \(bbbb\)(.|\n)*aaaa"):
        library.add(of_another_base)
    assert path.read_bytes() == before


def test_a_name_is_taken_once(library, make_expert):
    folder = make_expert("ant")
    library.add(folder)
    with pytest.raises(errors.LibraryError, match="lists prompt expert 'ant'"):
        library.add(folder)


def test_a_base_is_not_an_expert(library, make_expert, tmp_path):
    with pytest.raises(errors.LibraryError, match="of kind 'base'"):
        library.add(make_expert("tiny", kind="base"))
    assert not (tmp_path / "library" / "catalogue.jsonl").exists()


def test_a_folder_without_manifest_is_refused(library, tmp_path):
    with pytest.raises(errors.CheckpointError, match=r"manifest\.json"):
        library.add(tmp_path)


def test_an_unknown_expert_is_answered_with_the_nearest_name(library, make_expert):
    library.add(make_expert("ant_colony"))
    for verb in (library.get, library.retire, library.expert_dir):
        with pytest.raises(errors.LibraryError, match="Did you mean: ant_colony"):
            verb("ant_colny")


def test_a_missing_library_is_not_an_empty_one(library):
    with pytest.raises(errors.LibraryError, match="elm_library"):
        library.entries()


ENTRY = catalogue.Entry("a", "p", "prompt", "b", "f", ("t",), 1)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        '"text"',
        '{"name": "x"}',
        json.dumps(dataclasses.asdict(ENTRY) | {"extra": 1}),
        json.dumps(dataclasses.asdict(ENTRY) | {"tasks": None}),
        json.dumps(dataclasses.asdict(ENTRY) | {"tasks": "t"}),
        json.dumps(dataclasses.asdict(ENTRY) | {"name": 3}),
        json.dumps(dataclasses.asdict(ENTRY) | {"status": "asleep"}),
        json.dumps(dataclasses.asdict(ENTRY) | {"kind": "base"}),
        json.dumps(dataclasses.asdict(ENTRY) | {"name": "../x"}),
        json.dumps(dataclasses.asdict(ENTRY) | {"name": "[/]x"}),
        json.dumps(dataclasses.asdict(ENTRY) | {"base_name": ""}),
        json.dumps(dataclasses.asdict(ENTRY) | {"tasks": ["a\n"]}),
        json.dumps(dataclasses.asdict(ENTRY) | {"path": "a\x1b[2J"}),
    ],
)
def test_a_corrupt_line_is_named_by_its_number(library, make_expert, path, bad):
    library.add(make_expert("ant"))
    good = path.read_text()
    path.write_text(good + bad + "\n" + good)
    with pytest.raises(errors.LibraryError, match=r"line 2 of .*catalogue\.jsonl"):
        library.entries()
    with pytest.raises(errors.LibraryError, match="line 2"):
        library.add(make_expert("bee"))
    assert path.read_text() == good + bad + "\n" + good


def test_two_lines_of_one_name_are_refused_by_their_numbers(library, make_expert, path):
    for name in ("a", "b"):
        library.add(make_expert(name))
    first, second = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([first, second, first]), "utf-8")
    with pytest.raises(errors.LibraryError, match="lines 1 and 3 of .* list 'a'"):
        library.entries()


def test_writers_at_the_same_time_lose_no_expert(tmp_path, make_expert):
    folders = [make_expert(f"e{n}") for n in range(12)]

    def add(folder):
        catalogue.Catalogue(tmp_path / "library").add(folder)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(add, folders))
    names = catalogue.Catalogue(tmp_path / "library").experts()
    assert sorted(names) == sorted(folder.name for folder in folders)


def test_a_library_that_cannot_be_made_says_where(tmp_path, make_expert):
    (tmp_path / "file").write_text("")
    library = catalogue.Catalogue(tmp_path / "file" / "library")
    with pytest.raises(errors.LibraryError, match="file/library"):
        library.add(make_expert("ant"))


def test_listing_once_may_be_repeated_but_names_stay_unique(library, make_expert):
    ant = make_expert("ant")
    library.list_once(ant)
    library.list_once(ant)
    assert library.experts() == ("ant",)
    another = ant.with_name("other")
    ant.rename(another)
    with pytest.raises(errors.LibraryError, match="lists prompt expert"):
        library.list_once(another)


def test_of_several_that_list_an_expert_at_once_one_does(library, make_expert):
    folders = [make_expert(name) for name in ("ant", "bee")]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(library.list_once, folders * 20))
    assert sorted(library.experts()) == ["ant", "bee"]


INT8 = {"model": {"base_dtype": "int8"}}


def test_a_library_has_experts_of_one_form_of_a_base(library, make_expert, path):
    library.add(make_expert("ant"))
    before = path.read_bytes()
    assert b"base_dtype" not in before
    bee = make_expert("bee", **INT8)
    for act in (
        library.add,
        library.list_once,
        lambda folder: library.check_new([folder]),
    ):
        with pytest.raises(
            errors.FingerprintError, match=r"\(aaaa\), held as int8"
        ) as raised:
            act(bee)
        assert "base tiny (aaaa), as all of" in str(raised.value)
    assert path.read_bytes() == before


def test_a_library_of_a_base_in_int8_says_so_and_refuses_others(
    library, make_expert, path
):
    for name in ("ant", "bee"):
        library.add(make_expert(name, **INT8))
    library.retire("bee")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["base_dtype"] for line in lines] == ["int8", "int8"]
    library.check()
    with pytest.raises(errors.FingerprintError, match=r"base tiny \(aaaa\)\."):
        library.add(make_expert("cow"))
