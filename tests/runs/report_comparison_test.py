"""A report leads to the page of experts that were compared before merging."""

import json
import shutil

import numpy as np
import pytest

from elm_jax.checkpoints import manifest
from elm_jax.cli import gin_flags
from elm_jax.disk import json_files
from elm_jax.evaluation import result_store, results
from elm_jax.runs import compare, report
from tests.runs import toy_experts

LINK = '<a href="experts.html">what 3 experts change, compared before merging'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base with three experts, and one result row."""
    path = tmp_path_factory.mktemp("work")
    toy_experts.save(path)
    base = manifest.read_manifest(path / "base").base_fingerprint
    cell = results.Cell(
        expert="base",
        base_fingerprint=base,
        task="pocket_endings_what_next",
        dataset="pocket_endings",
        prompt="what_next",
        split="test",
        protocol="elm",
        seed=0,
        checkpoint_step=0,
    )
    result_store.ResultStore(path / "results.jsonl").record(
        cell,
        run_id="r",
        values={"accuracy": 50.0},
        num_examples=2,
        per_example={"example_ids": np.arange(2), "accuracy": np.array([0.0, 100.0])},
    )
    return path


def page_of(folder):
    built, bound, operative = gin_flags.build_run(
        (report.Report,),
        gin_files=["gin/pocket/report.gin"],
        bindings=[f"MODEL_DIR = '{folder}'"],
    )
    built.start(config=bound, operative_config=operative)
    return (folder / "report" / "index.html").read_text()


def compared(folder):
    compare.Compare(
        model_dir=str(folder),
        experts=("{MODEL_DIR}/bottleneck/*",),
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()


@pytest.mark.slow
def test_the_report_links_the_page_of_compared_experts_where_there_is_one(folder):
    assert "experts.html" not in page_of(folder)
    compared(folder)
    assert LINK in page_of(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda numbers: {**numbers, "base_fingerprint": "0123"}, "of another base"),
        (lambda numbers: {"experts": numbers["experts"]}, "does not tell the base"),
        (lambda numbers: {**numbers, "experts": None}, "tells no experts"),
    ],
)
def test_a_page_that_is_not_of_the_rows_is_not_linked_and_the_report_says_so(
    folder, tmp_path, change, message
):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    compared(tmp_path)
    path = tmp_path / "report" / "experts.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    page = page_of(tmp_path)
    assert 'href="experts.html"' not in page
    assert message in page


def test_numbers_that_cannot_be_read_are_told_and_many_are_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    compared(tmp_path)
    path = tmp_path / "report" / "experts.json"
    path.write_text(path.read_text() + " " * json_files.MOST_BYTES)
    assert LINK in page_of(tmp_path)
    path.write_text("{")
    page = page_of(tmp_path)
    assert 'href="experts.html"' not in page
    assert "experts.html is not linked: " in page


def test_the_numbers_tell_base_and_experts(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    compared(tmp_path)
    numbers = json.loads((tmp_path / "report" / "experts.json").read_text())
    base = manifest.read_manifest(folder / "base")
    folders = [folder / "bottleneck" / name for name in numbers["experts"]]
    parts = [manifest.read_manifest(place).fingerprint for place in folders]
    assert numbers["base_fingerprint"] == base.base_fingerprint
    assert numbers["expert_fingerprints"] == parts
