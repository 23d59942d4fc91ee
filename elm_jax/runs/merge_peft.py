"""LoRAs that PEFT saved as experts of a merge, and a merged LoRA as PEFT reads it."""

import collections
import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from elm_jax import errors, trees
from elm_jax.checkpoints import manifest, peft_folders, streaming
from elm_jax.disk import json_files
from elm_jax.peft import lora
from elm_jax.runs import convert_experts, expert_export, library
from elm_jax.runs.run import Run


@contextlib.contextmanager
def experts(
    run: Run, patterns: Sequence[str], base_dir: str, *, writes: bool
) -> Iterator[list[pathlib.Path]]:
    """Gives the folders of experts that paths or shell patterns name.

    Folders of PEFT among them are imported first, to `{MODEL_DIR}/imported/<name>`, and
    take their place.

    Args:
      run: Whose paths they are.
      patterns: Of experts, of folders of PEFT, or of both.
      base_dir: Path of the base that the experts were trained on.
      writes: Whether imports stay; else those that are not there yet are gone when
        the context ends.

    Raises:
      ConfigError: A path is given twice.
      ElmError: As `library.find_experts`, and as imports.
    """
    by_pattern = [(pattern, run.find(pattern)) for pattern in patterns]
    _check_given_once(run, by_pattern)
    peft_paths = {
        f: None for _, folders in by_pattern for f in folders if _is_theirs(f)
    }
    with tempfile.TemporaryDirectory() as temporary:
        places = _imported(run, [*peft_paths], base_dir, None if writes else temporary)
        chosen: dict[pathlib.Path, None] = {}
        for pattern, folders in by_pattern:
            chosen_paths = [f for f in folders if f in places]
            if not chosen_paths or any(
                (f / manifest.FILE_NAME).is_file() for f in folders
            ):
                chosen_paths += library.find_experts(run, pattern)
            chosen.update(dict.fromkeys(places.get(f, f) for f in sorted(chosen_paths)))
        yield [*chosen]


def export(
    run: Run, folder: pathlib.Path, export_dir: str, sources: Sequence[pathlib.Path]
) -> None:
    """Writes a merged LoRA as a folder of PEFT, and prints its rank and scale.

    Args:
      run: Whose path `export_dir` is.
      folder: Of the merged expert.
      export_dir: Where it goes, as `<export_dir>/<name>`.
      sources: Of the experts. If PEFT saved all, and for one base, its name is kept.

    Raises:
      CheckpointError: Another export is there.
    """
    convert_experts.ExportPeft(
        model_dir=run.model_dir,
        experts=str(folder),
        export_dir=export_dir,
        base_model=_base_of(sources),
    ).run()
    info = manifest.read_manifest(folder)
    spec: lora.Lora = expert_export.spec_of_kind(info, lora.Lora, "a LoRA expert")
    stable = ", rank-stabilised" if spec.rank_stabilized else ""
    print(f"for PEFT: rank {spec.rank}, alpha {spec.alpha:g}{stable}")  # noqa: T201


def check_can_export(folders: Sequence[pathlib.Path]) -> None:
    """Raises an error unless what is merged of experts can be written for PEFT.

    Raises:
      ConfigError: They are not LoRAs, or hold more.
    """
    for folder in folders:
        leaves, info = streaming.open_expert(folder)
        expert_export.spec_of_kind(info, lora.Lora, "LoRA experts, for peft_dir")
        other_names = [name for name in trees.flatten(leaves) if "/lora_" not in name]
        if other_names:
            raise errors.ConfigError(
                found=f"expert {info.name!r} that also holds"
                f" {', '.join(other_names[:3])}",
                expected="LoRA and nothing else, which is what PEFT has a place for",
                do='Leave peft_dir "", fold the merged expert into its base'
                " (gin/t5/fold.gin) and export that to Hugging Face",
            )


def sources_of(run: Run, patterns: Sequence[str]) -> list[pathlib.Path]:
    """Returns the folders of experts or of PEFT that patterns name."""
    folders = [folder for pattern in patterns for folder in run.find(pattern)]
    return [f for f in folders if (f / manifest.FILE_NAME).is_file() or _is_theirs(f)]


def repeated(run: Run, patterns: Sequence[str]) -> list[str]:
    """Returns the names of experts that several patterns name; each is merged once."""
    counts = collections.Counter(sources_of(run, patterns))
    several = [folder for folder, count in counts.items() if count > 1]
    return [folder.name for folder in several if not _is_base(folder)]


def _check_given_once(
    run: Run, by_pattern: Sequence[tuple[str, Sequence[pathlib.Path]]]
) -> None:
    texts = [text for text, folders in by_pattern if [*folders] == [run.path(text)]]
    counts = collections.Counter(run.path(text).resolve() for text in texts)
    twice = [str(folder) for folder, count in counts.items() if count > 1]
    if twice:
        raise errors.ConfigError(
            found=f"experts that are given twice: {', '.join(twice)}",
            expected="each expert once",
            do="Name it once; for an expert that counts more, give the method weights",
        )


def _is_base(folder: pathlib.Path) -> bool:
    return not _is_theirs(folder) and manifest.read_manifest(folder).kind == "base"


def _is_theirs(folder: pathlib.Path) -> bool:
    is_ours = (folder / manifest.FILE_NAME).is_file()
    return not is_ours and (folder / peft_folders.CONFIG).is_file()


def _imported(
    run: Run, peft_paths: Sequence[pathlib.Path], base_dir: str, experts_dir: str | None
) -> dict[pathlib.Path, pathlib.Path]:
    """Returns the folders of imported experts, by their folders of PEFT.

    Args:
      run: Whose path `base_dir` is.
      peft_paths: Folders of PEFT.
      base_dir: Of the base.
      experts_dir: Folder for imports that are not there yet; None for the usual folder.
    """
    if not peft_paths:
        return {}
    make = functools.partial(
        convert_experts.ImportPeft,
        model_dir=run.model_dir,
        source_paths=tuple(map(str, peft_paths)),
        initial_checkpoint_path=base_dir,
    )
    importer = make()
    if experts_dir is None:
        return importer.import_all(print)
    importer.plan()  # compares those that are there
    imported = importer.finished()
    missing = tuple(f"{folder}" for folder in peft_paths if folder not in imported)
    if not missing:
        return imported
    newly_imported = make(source_paths=missing, experts_dir=experts_dir).import_all(
        lambda text: None
    )
    return imported | newly_imported


def _base_of(sources: Sequence[pathlib.Path]) -> str:
    if not all(map(_is_theirs, sources)):
        return ""
    settings = [json_files.read_object(f / peft_folders.CONFIG) for f in sources]
    names = {content.get("base_model_name_or_path") or "" for content in settings}
    return f"{names.pop()}" if len(names) == 1 else ""
