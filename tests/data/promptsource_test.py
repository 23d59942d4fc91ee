import hashlib
import io
import pathlib
import sys
import tarfile

import pytest

from elm_jax import errors
from elm_jax.data import promptsource

INSIDE = "promptsource-0.2.3/promptsource/templates"


def make_archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_only_templates_are_unpacked(tmp_path):
    archive = make_archive(
        tmp_path / "a.tar.gz",
        {
            f"{INSIDE}/dream/templates.yaml": b"one",
            f"{INSIDE}/cos_e/v1.11/templates.yaml": b"two",
            f"{INSIDE}/dream/other.yaml": b"no",
            "promptsource-0.2.3/setup.py": b"raise SystemExit('ran')",
        },
    )
    folder = tmp_path / "out"
    assert promptsource.unpack_templates(archive, folder) == 2
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == ["cos_e/v1.11/templates.yaml", "dream/templates.yaml"]


@pytest.mark.parametrize(
    "name",
    [
        f"{INSIDE}/../../../../escaped/templates.yaml",
        "/tmp/escaped/templates.yaml",
        "../templates.yaml",
        "elsewhere/a/b/c/templates.yaml",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path, name):
    archive = make_archive(tmp_path / "a.tar.gz", {name: b"text"})
    folder = tmp_path / "deep" / "er" / "out"
    with pytest.raises(errors.TemplateError, match="path"):
        promptsource.unpack_templates(archive, folder)
    assert not list(tmp_path.rglob("templates.yaml"))


def test_links_are_passed_over_and_an_archive_without_templates_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(f"{INSIDE}/dream/templates.yaml")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(errors.TemplateError, match=r"no templates\.yaml"):
        promptsource.unpack_templates(path, tmp_path / "out")


def test_an_archive_with_another_hash_is_refused(tmp_path):
    archive = make_archive(
        tmp_path / "a.tar.gz", {f"{INSIDE}/dream/templates.yaml": b""}
    )
    with pytest.raises(errors.DataError, match="sha256 f106c889"):
        promptsource.fetch_templates(tmp_path / "out", archive=archive)
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture
def offline_index(tmp_path, monkeypatch):
    """A package index of one source archive whose setup.py leaves a trace."""
    trace = tmp_path / "trace"
    index = tmp_path / "index"
    index.mkdir()
    setup = (
        f"import pathlib, setuptools; pathlib.Path({str(trace)!r}).touch()\n"
        "setuptools.setup(name='hostile', version='1.0')\n"
    )
    archive = make_archive(
        index / "hostile-1.0.tar.gz",
        {
            "hostile-1.0/setup.py": setup.encode(),
            "hostile-1.0/PKG-INFO": b"Metadata-Version: 1.0\nName: hostile\n",
        },
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return trace, hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.slow
def test_downloading_runs_none_of_the_archives_code(tmp_path, offline_index):
    trace, sha256 = offline_index
    folder = tmp_path / "work"
    folder.mkdir()
    archive = promptsource.download(folder, "hostile", "1.0", sha256)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == sha256
    assert not trace.exists()


@pytest.mark.slow
def test_a_failed_download_says_what_pip_said(tmp_path, offline_index):
    trace, _ = offline_index
    for number, (package, sha256) in enumerate(
        [("absent", "0" * 64), ("hostile", "0" * 64)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(errors.DataError, match="pip download"):
            promptsource.download(folder, package, "1.0", sha256)
    assert not trace.exists()


def test_templates_are_fetched_once(official_templates):
    root = pathlib.Path(official_templates)
    assert len(list(root.rglob("templates.yaml"))) == 279
    said = []
    again = promptsource.fetch_templates(root.parent, said.append)
    assert again == root
    assert said == [f"{root} is there already"]
    assert "promptsource" not in sys.modules
