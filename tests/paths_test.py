"""A folder is found by its name, whatever characters it has."""

import pathlib

import pytest

from elm_jax import errors, paths

ODD = ["run[v2]", "a*", "b?", "c d", "[", "]", "[!x]", "ü"]


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)


@pytest.mark.parametrize("name", ODD)
def test_a_substituted_folder_is_no_pattern(tmp_path, name):
    make(tmp_path, f"{name}/e/one", "run2/e/two", "ax/e/two", "bx/e/two")
    folders = {"{MODEL_DIR}": str(tmp_path / name)}
    assert paths.find("{MODEL_DIR}/e/*", folders) == [tmp_path / name / "e/one"]


def test_a_substituted_folder_that_is_missing_finds_nothing(tmp_path):
    make(tmp_path, "run2/e/one")
    folders = {"{MODEL_DIR}": str(tmp_path / "run[2]")}
    assert paths.find("{MODEL_DIR}/e/*", folders) == []


def test_the_current_and_the_home_folder_are_no_patterns(tmp_path, monkeypatch):
    make(tmp_path, "x[1]/one", "x1/two")
    monkeypatch.chdir(tmp_path / "x[1]")
    monkeypatch.setenv("HOME", str(tmp_path / "x[1]"))
    assert paths.find("o*", {}) == [tmp_path / "x[1]/one"]
    assert paths.find("~/*", {}) == [tmp_path / "x[1]/one"]


def test_what_is_there_by_the_very_name_is_meant(tmp_path):
    make(tmp_path, "e[1]/one", "e1/two")
    assert paths.find(f"{tmp_path}/e[1]", {}) == [tmp_path / "e[1]"]
    assert paths.find(f"{tmp_path}/e[1]/*", {}) == [tmp_path / "e[1]/one"]


def test_else_a_pattern_is_a_pattern(tmp_path):
    make(tmp_path, "e1/b", "e2/a", "f/c")
    matches = paths.find(f"{tmp_path}/e[12]/*", {})
    assert matches == [tmp_path / "e1/b", tmp_path / "e2/a"]


@pytest.mark.parametrize("text", ["", " ", "a\nb", "a\x00", "~no_such_user_here/x"])
def test_a_text_that_names_nothing_is_no_path(text):
    with pytest.raises(errors.ConfigError) as caught:
        paths.absolute(text)
    assert f"{text!r}" in str(caught.value)


def test_a_path_of_a_path_is_itself():
    path = pathlib.Path("/a/[x] {MODEL_DIR}")
    assert paths.absolute(path) == path


def test_a_name_has_room_for_endings(tmp_path):
    longest = "x" * paths.NAME_BYTES
    assert paths.is_name(longest)
    assert not paths.is_name(f"{longest}x")
    (tmp_path / f".{longest}.{'y' * 40}.parts").mkdir()


@pytest.mark.parametrize(
    "name", ["glue_mnli_v002", "mc4.en", "wmt:de_en", "x#2", "7-b"]
)
def test_seqio_and_t0_names_are_names(name):
    assert paths.check_name(name, of="a task") == name


@pytest.mark.parametrize("value", [None, 3, "", "..", "a\n", "ａ", "x/y"])
def test_what_is_no_name_is_refused_with_the_rule(value):
    with pytest.raises(errors.ConfigError, match="1 to 200"):
        paths.check_name(value, of="an expert")


@pytest.mark.parametrize(
    "text", ["n" * 256, f"é{'é' * 127}", "{MODEL_DIR}/" + "n" * 256]
)
def test_a_name_that_no_file_system_takes_is_refused(text):
    with pytest.raises(errors.ConfigError, match="256 bytes.*\n.*at most 255"):
        paths.absolute(f"/{text}/x")
    with pytest.raises(errors.ConfigError, match="at most 255"):
        paths.find(text, {})


def test_a_path_that_no_file_system_takes_is_refused():
    with pytest.raises(errors.ConfigError, match="4,0.. bytes in all"):
        paths.absolute("/" + "/".join(["n" * 100] * 40))


def test_the_longest_names_are_taken_and_looked_for(tmp_path):
    path = tmp_path / ("[" * 255)
    path.mkdir()
    assert paths.absolute(path) == path
    assert paths.find("{MODEL_DIR}/*", {"{MODEL_DIR}": str(path)}) == []
    assert paths.find("{MODEL_DIR}", {"{MODEL_DIR}": str(path)}) == [path]
