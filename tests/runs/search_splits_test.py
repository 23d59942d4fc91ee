"""Rows that choose are refused where they may be among those that are reported."""

import dataclasses
from unittest import mock

import pytest

from elm_jax import errors
from elm_jax.data import tasks
from elm_jax.runs import search_rows
from tests.runs import scored

SPLITS = {
    "train": "train",
    "validation": "validation",
    "validation_300": "validation[:300]~42",
    "again": "validation",
    "rest": "validation[300:]~42",
    "other_draw": "validation[:300]~43",
    "train@elm": "train[:9]",
    "validation_300@elm": "train[9:]",
}
NAME = "plain_ask"


@pytest.fixture
def task():
    """A task like those of the paper, whose validation rows are reported."""
    with scored.registered():
        toy_task = tasks.registry.task(NAME)
        assert isinstance(toy_task, tasks.Task)
        changed = dataclasses.replace(toy_task, splits=SPLITS)
        with mock.patch.dict(tasks.registry._items, {NAME: changed}):
            yield changed


def names(split, reported, *, protocol="", cross_fit=False):
    rows = search_rows.Rows(
        tasks=NAME, split=split, reported_split=reported, cross_fit=cross_fit
    )
    return search_rows.names(rows, tasks.DataOptions("", protocol=protocol))


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(("split", "reported"), [("train", "test"), ("dev", "train")])
def test_a_split_that_the_task_does_not_have_is_refused_with_those_that_it_has(
    split, reported
):
    with pytest.raises(errors.ConfigError) as error:
        names(split, reported)
    splits = "train, validation, validation_300, again, rest, other_draw"
    assert f"one of its splits: {splits}.\n" in str(error.value)


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    ("split", "reported"),
    [
        ("validation", "validation_300"),
        ("validation_300", "validation"),
        ("validation", "again"),
        ("validation", "rest"),
        ("rest", "other_draw"),
    ],
)
def test_two_names_of_the_same_rows_are_no_two_splits(split, reported):
    with pytest.raises(errors.ConfigError, match=f"among those of {reported} "):
        names(split, reported)
    assert names(split, reported, cross_fit=True) == [NAME]


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    ("split", "reported", "protocol"),
    [
        ("train", "validation", ""),
        ("validation_300", "rest", ""),
        ("train", "validation_300", "elm"),
        ("validation_300", "validation", "elm"),
    ],
)
def test_rows_that_cannot_be_the_same_choose(split, reported, protocol):
    assert names(split, reported, protocol=protocol) == [NAME]
