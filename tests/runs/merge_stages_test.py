"""Merges in stages are the merges one by one, and comparisons tell experts apart."""

import dataclasses
import json
import re

import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.merging import averages, elementwise
from elm_jax.runs import compare, merge, merge_stages
from tests.runs import scored, toy_experts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    with scored.registered():
        toy_experts.save(path)
    return path


def stage(folder, name, experts, method, experts_dir="{MODEL_DIR}/stages"):
    return merge.Merge(
        model_dir=str(folder),
        experts=experts,
        expert_name=name,
        initial_checkpoint_path="{MODEL_DIR}/base",
        experts_dir=experts_dir,
        method=method,
    )


def stages(folder, **where):
    first = stage(
        folder,
        "first",
        ("{MODEL_DIR}/whole/whole_1", "{MODEL_DIR}/whole/whole_2"),
        elementwise.Ties(),
        **where,
    )
    inner = f"{first.experts_dir}/first"
    last = ("{MODEL_DIR}/whole/whole_3", inner)
    return first, stage(folder, "last", last, averages.Uniform(), **where)


@pytest.mark.slow
def test_stages_are_the_merges_one_by_one_with_recipes_that_nest(folder, capsys):
    first, last = stages(folder)
    run = merge_stages.Stages(model_dir=str(folder), stages=(first, last))
    plan = run.plan()
    assert str(plan["2 last"]).startswith("after first, by Uniform")
    run.run()
    for staged in stages(folder, experts_dir="{MODEL_DIR}/apart"):
        staged.run()
    infos = {
        (place, name): manifest.read_manifest(folder / place / name)
        for place in ("stages", "apart")
        for name in ("first", "last")
    }
    for name in ("first", "last"):
        staged, apart = infos["stages", name], infos["apart", name]
        assert staged.params_fingerprint == apart.params_fingerprint
        assert staged.fingerprint == apart.fingerprint
    recipe = infos["stages", "last"].data["merge"]
    assert recipe["parts"] == [None, infos["stages", "first"].data["merge"]]
    assert recipe["parts"][1]["method"] == "ties"
    capsys.readouterr()
    run.run()
    assert capsys.readouterr().out.count("finished already") == 2
    assert "parts" not in infos["stages", "first"].data["merge"]


def test_stages_in_another_order_or_of_one_name_are_refused(folder):
    first, last = stages(folder)
    for wrong, message in (
        ((last, first), "the result of itself or of a later stage"),
        ((first, dataclasses.replace(last, expert_name="first")), "two stages"),
        ((), "no stages"),
    ):
        with pytest.raises(errors.ConfigError, match=message):
            merge_stages.Stages(model_dir=str(folder), stages=wrong)


def comparison_of(folder, *experts):
    return compare.Compare(
        model_dir=str(folder),
        experts=experts,
        initial_checkpoint_path="{MODEL_DIR}/base",
    )


@pytest.mark.parametrize("kind", toy_experts.SPECS)
def test_a_comparison_is_printed_drawn_and_written(folder, capsys, kind):
    run = comparison_of(folder, f"{{MODEL_DIR}}/{kind}/*")
    plan = run.plan()
    assert "3: " in str(plan["experts"])
    assert plan["pairs"] == 3
    run.run()
    printed, progress_lines = capsys.readouterr()
    page = (folder / "report" / "experts.html").read_text()
    numbers = json.loads((folder / "report" / "experts.json").read_text())
    assert re.search(r"compare, twice: (\d+)/\1 layers, .*/s, ", progress_lines)
    for name in (f"{kind}_1", f"{kind}_3"):
        assert name in page
        assert name in printed
    assert numbers["experts"] == [f"{kind}_{number}" for number in (1, 2, 3)]
    assert numbers["cosine"][0][0] == pytest.approx(1.0)
    assert abs(numbers["cosine"][0][1]) < 1.0
    assert (numbers["units_in_place"][0][1] is None) == (kind != "bottleneck")
    assert "<script" not in page
    how_many = numbers["how_many"]["most_alike"]
    assert sorted(how_many["order"]) == numbers["experts"]
    assert "How many" in printed
    if kind == "ia3":  # without matrices
        assert how_many["pulls"] == [None] * 3
        return
    assert how_many["pulls"][0] == 0.0
    best = min(numbers["forecast"][i][j] for i, j in ((0, 1), (0, 2), (1, 2)))
    assert how_many["pulls"][1] == pytest.approx(best)
    assert f"{how_many['pulls'][2]:.3g}" in printed
    assert page.count("<path") == 2


def test_experts_that_cannot_be_merged_are_not_compared(folder):
    expert = "{MODEL_DIR}/whole/whole_1"
    with pytest.raises(errors.ConfigError, match="1 experts to compare"):
        comparison_of(folder, expert).plan()
    with pytest.raises(errors.ConfigError, match="different kinds"):
        comparison_of(folder, expert, "{MODEL_DIR}/lora/lora_1").plan()
