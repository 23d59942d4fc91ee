"""What a library says of itself to people: `card.md` beside its catalogue."""

import contextlib
import pathlib
from collections.abc import Sequence

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.disk import files
from elm_jax.library import catalogue, index, lock
from elm_jax.reporting import tables
from elm_jax.runs import licences

FILE_NAME = "card.md"
_HEADER = (
    *("expert", "kind", "keys", "steps", "seed", "fingerprint", "status", "tasks"),
    "licence of the data",
)


def write(library_dir: pathlib.Path) -> None:
    """Writes the card of a library, unless the same card is there.

    Nothing reads it: it tells what the catalogue and the index hold.

    Raises:
      LibraryError: There is no library, or its files are corrupt.
      ConfigError: The card cannot be written.
    """
    with lock.hold(library_dir):
        text = _text(library_dir)
        path = library_dir / FILE_NAME
        if not path.is_file() or path.read_bytes() != text.encode():
            files.write_text(path, text)


def _text(folder: pathlib.Path) -> str:
    listed = catalogue.Catalogue(folder)
    entries = listed.entries()
    first_entry = entries[0]
    held = manifest.held_as(first_entry.base_dtype)
    facts = {"base": f"{first_entry.base_name}, {first_entry.base_fingerprint}{held}"}
    num_keys: dict[str, int] = {}
    if (folder / index.RECORD).is_file():
        opened = index.open_index(folder)
        num_keys = {expert.name: expert.num_keys for expert in opened.experts}
        settings = opened.settings
        facts |= {
            "embedder": settings.embedder,
            "text format": settings.text_format,
            "keys per expert": f"{settings.num_keys}, of rows drawn with seed"
            f" {settings.seed}",
        }
    facts["experts"] = f"{len(entries)}, of which {len(listed.experts())} are active"
    lines = [f"- {name}: {tables.escape(value)}" for name, value in facts.items()]
    rows = [
        (
            entry.name,
            entry.kind,
            f"{num_keys.get(entry.name, 0)}",
            f"{entry.steps}",
            "not known" if seed is None else f"{seed}",
            entry.fingerprint or "not known",
            entry.status,
            ", ".join(entry.tasks),
            licence,
        )
        for entry in entries
        for seed, licence in [_of_manifest(folder / entry.path, entry)]
    ]
    return "\n\n".join(
        [f"# {tables.escape(folder.name)}", "\n".join(lines), _table(rows)]
    )


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    return tables.to_markdown(tables.TextTable("Experts", _HEADER, tuple(rows))) + "\n"


def _of_manifest(
    folder: pathlib.Path, entry: catalogue.Entry
) -> tuple[int | None, str]:
    """Returns seed and licences, if the expert is where the library lists it."""
    with contextlib.suppress(errors.ElmError):  # who asks the library is told of it
        info = manifest.read_manifest(folder)
        if info.fingerprint == entry.fingerprint:
            return info.training_seed, licences.of(info)
    return None, licences.NOT_KNOWN
