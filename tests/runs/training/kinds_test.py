"""A kind of experts is an objective, a grouping of tasks, and the parts that train."""

import typing

import pytest

import tasks.pocket  # noqa: F401 - registers the tasks
from elm_jax import errors, expert_kinds
from elm_jax.library import catalogue
from elm_jax.peft import expert_parts
from elm_jax.runs.training import kinds

TASKS = ("pocket_kinds_which_is", "pocket_notes_tell", "pocket_notes_write_sentence")


def test_every_kind_that_manifests_name_is_trained_or_merged():
    assert set(kinds.KINDS) == set(typing.get_args(expert_kinds.TrainedKind))
    assert set(typing.get_args(expert_kinds.Kind)) == {*kinds.KINDS, "merged"}
    assert set(catalogue.KINDS) == {*kinds.KINDS, "merged"} - {"base"}
    assert set(expert_kinds.ROLES) == set(expert_kinds.KINDS)
    assert {kind.parts for kind in kinds.KINDS.values()} <= set(expert_parts.PARTS)


def test_a_base_alone_learns_by_span_corruption():
    base_kinds = [name for name, kind in kinds.KINDS.items() if kind.makes_base]
    assert base_kinds == ["base"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("prompt", {name: [name] for name in TASKS}),
        ("dataset", {"pocket_kinds": [TASKS[0]], "pocket_notes": [*TASKS[1:]]}),
        ("multitask", {"multitask": [*TASKS]}),
        ("base", {"base": [*TASKS]}),
    ],
)
def test_tasks_are_grouped_into_experts(kind, expected):
    assert kinds.group(kind, TASKS) == expected


def test_an_expert_of_no_task_is_refused():
    with pytest.raises(errors.ConfigError, match="Found: no task to train on"):
        kinds.group("base", [])
