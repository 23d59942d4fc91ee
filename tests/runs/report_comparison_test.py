"""A report leads to the page of experts that were compared before merging."""

import numpy as np
import pytest

from elm_jax.cli import gin_flags
from elm_jax.evaluation import result_store, results
from elm_jax.runs import compare, report
from tests.runs import toy_experts

LINK = '<a href="experts.html">what 3 experts change, compared before merging'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base with three experts, and one result row."""
    path = tmp_path_factory.mktemp("work")
    toy_experts.save(path)
    cell = results.Cell(
        expert="base",
        base_fingerprint="0123",
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


def test_the_report_links_the_page_of_compared_experts_where_there_is_one(folder):
    assert "experts.html" not in page_of(folder)
    compare.Compare(
        model_dir=str(folder),
        experts=("{MODEL_DIR}/bottleneck/*",),
        initial_checkpoint_path="{MODEL_DIR}/base",
    ).run()
    assert LINK in page_of(folder)
    (folder / "report" / "experts.json").write_text("{")
    assert "experts.html" not in page_of(folder)
