"""Recipes of searched merges tell whether choices of one text counted once."""

import dataclasses
import shutil

import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.runs import merge_recipes, merge_searches, search_rows
from tests.runs import toy_experts
from tests.runs.searched import ROWS, TASKS, search_of

pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    toy_experts.save(path, ("ia3",))
    return path


def recipe_of(folder, name):
    return manifest.read_manifest(folder / "merged" / name).data["merge"]


@pytest.mark.parametrize(
    ("search", "tasks", "is_same"),
    [
        (merge_searches.LoraHub(max_steps=2), TASKS, False),
        (merge_searches.LoraHub(max_steps=1, by="gradient"), TASKS, False),
        (merge_searches.AdaMerging(max_steps=1), TASKS, False),
        (merge_searches.AdaMerging(max_steps=1), ("signs_ask",), True),
        (merge_searches.Sweep(values=(1.0,)), TASKS, True),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_only_searches_by_probability_on_equal_choices_are_others_than_before(
    folder, monkeypatch, capsys, search, tasks, is_same
):
    rows = dataclasses.replace(ROWS, tasks=tasks)
    name = f"before_{search.kind}_{getattr(search, 'by', '')}_{len(tasks)}"
    run = search_of(folder, "ia3", dataclasses.replace(search, rows=rows), name)
    with monkeypatch.context() as patch:  # what was told until then
        patch.setattr(search_rows.Part, "has_equal_choices", False)
        run.run()
    parts = recipe_of(folder, name)["search"]["rows"]
    assert not any("choices" in of_task for of_task in parts.values())
    infos = [
        manifest.read_manifest(each) for each in sorted((folder / "ia3").iterdir())
    ]
    method = merge_recipes.method_of(recipe_of(folder, name), infos)
    search_of(folder, "ia3", None, f"{name}_again", method).run()
    replayed = recipe_of(folder, f"{name}_again")
    assert replayed["weights"] == recipe_of(folder, name)["weights"]
    if not is_same:
        for act in (run.plan, run.run):
            with pytest.raises(
                errors.CheckpointError, match="rows/twice_ask/choices: None before"
            ):
                act()
        shutil.rmtree(folder / "merged" / name)
        run.run()
        parts = recipe_of(folder, name)["search"]["rows"]
        marks = {of_task: facts.get("choices") for of_task, facts in parts.items()}
        assert marks == {"twice_ask": "by text", "signs_ask": None}
    capsys.readouterr()
    run.run()
    assert "finished already" in capsys.readouterr().out
