"""The card of a library tells what its catalogue and index hold."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from elm_jax.checkpoints import manifest
from elm_jax.cli import gin_flags
from elm_jax.library import catalogue, index
from elm_jax.runs import library, library_card

MADE = pathlib.Path(__file__).parent / "release_0_1"
INFO = manifest.Manifest(
    name="notes",
    kind="prompt",
    base_name="small",
    base_fingerprint="0123",
    model={},
    trainable_pattern="_adapter/",
    tasks=("notes_what", "notes_which"),
    steps=200,
    seed=7,
)


class Lengths:
    """Embeds a text by its length."""

    name = "lengths|<i>"

    def embed(self, texts):
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def add(folder, info, *texts):
    """Lists an expert, and gives it keys of texts."""
    expert = folder / info.name
    expert.mkdir()
    manifest.write_manifest(expert, info)
    catalogue.Catalogue(folder / "library").add(expert)
    rows = index.RowsUsed(info.tasks[0], "train", tuple(range(len(texts))))
    index.extend(
        folder / "library",
        [index.NewExpert(info.name, texts, (rows,))],
        embedder=Lengths(),
        settings=index.IndexSettings(Lengths.name, num_keys=3),
    )


def card(folder):
    return (folder / "library" / "card.md").read_text()


def test_a_card_has_settings_and_experts(tmp_path):
    add(tmp_path, INFO, "one", "three")
    library_card.write(tmp_path / "library")
    lines = card(tmp_path).splitlines()
    assert lines[0] == "# library"
    for line in (
        "- base: small, 0123",
        "- embedder: lengths\\|\\<i\\>",
        "- text format: choice_instance",
        "- keys per expert: 3, of rows drawn with seed 42",
        "- experts: 1, of which 1 are active",
        f"| notes | prompt | 2 | 200 | 7 | {INFO.fingerprint} | active"
        " | notes_what, notes_which | not known |",
    ):
        assert line in lines


def test_a_retired_expert_is_told_and_the_index_stays(tmp_path):
    add(tmp_path, INFO, "one")
    other_info = dataclasses.replace(INFO, name="other", licences={"notes_what": "MIT"})
    add(tmp_path, other_info, "two", "three")
    names = ("index.json", "keys.npy", "owners.npy")
    before = [(tmp_path / "library" / name).read_bytes() for name in names]
    library.RetireExperts(model_dir=str(tmp_path), experts=("other",)).run()
    assert "- experts: 2, of which 1 are active" in card(tmp_path)
    assert "| retired |" in card(tmp_path)
    assert "| MIT (1 task), not known (1 task) |" in card(tmp_path)
    assert before == [(tmp_path / "library" / name).read_bytes() for name in names]


def test_a_catalogue_without_keys_has_a_card(tmp_path):
    add(tmp_path, INFO, "one")
    (tmp_path / "library" / "index.json").unlink()
    library_card.write(tmp_path / "library")
    assert "| notes | prompt | 0 | 200 | 7 |" in card(tmp_path)
    assert "embedder" not in card(tmp_path)


def test_no_seed_is_told_of_another_expert_in_the_folder(tmp_path):
    add(tmp_path, INFO, "one")
    again = dataclasses.replace(INFO, seed=8)
    manifest.write_manifest(tmp_path / "notes", again)
    library_card.write(tmp_path / "library")
    assert "| 200 | not known |" in card(tmp_path)
    (tmp_path / "notes" / manifest.FILE_NAME).write_text("damaged")
    library_card.write(tmp_path / "library")
    assert "| 200 | not known |" in card(tmp_path)


@pytest.mark.slow
def test_building_writes_the_card_and_building_again_leaves_it(tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(MADE, folder)
    shutil.rmtree(folder / "library")
    times = []
    for _ in range(2):
        built, _, _ = gin_flags.build_run(
            [library.BuildLibrary],
            gin_files=[str(folder / "gin" / "library.gin")],
            bindings=[
                f"MODEL_DIR = '{folder}'",
                "library.BuildLibrary.num_keys = 4",
            ],
        )
        built.run()
        files = sorted((folder / "library").iterdir())
        times.append([(path, path.stat().st_mtime_ns) for path in files])
    assert "| pocket_topics_about | prompt | 4 | 2 |" in card(folder)
    changed = {old[0].name for old, new in zip(*times, strict=True) if old != new}
    assert "card.md" not in changed


def test_a_card_tells_that_the_base_is_held_as_int8(tmp_path):
    add(tmp_path, dataclasses.replace(INFO, model={"base_dtype": "int8"}), "one")
    library_card.write(tmp_path / "library")
    assert "- base: small, 0123, held as int8" in card(tmp_path).splitlines()
