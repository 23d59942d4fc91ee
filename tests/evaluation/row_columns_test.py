"""Rows in columns say what the rows say, and what is asked of many is asked right."""

import dataclasses

import numpy as np
import pytest

from elm_jax.evaluation import row_columns
from tests.evaluation import made_rows


def row(number, **changes):
    fields = {
        "expert": f"e{number % 3}",
        "task": f"t{number % 2}",
        "value": number * 12.5,
        "kind": "base" if number % 3 == 0 else "prompt",
        "experts": {"b": "1"} if number % 2 else {},
        "training_seed": None if number % 2 else 7,
    }
    return made_rows.row(**(fields | changes))


ROWS = [row(number) for number in range(7)]


@pytest.fixture
def columns():
    return row_columns.of(ROWS).packed()


def test_rows_in_columns_are_the_rows(columns):
    assert columns == ROWS
    assert [*columns] == ROWS
    assert columns[-1] == ROWS[-1]
    assert columns[1:3] == ROWS[1:3]
    assert columns != ROWS[:-1]
    assert columns != [*ROWS[:-1], row(9)]
    assert [*map(hash, columns)] == [*map(hash, ROWS)]
    assert [result.to_json() for result in columns] == [
        result.to_json() for result in ROWS
    ]
    assert [result.role for result in columns] == [result.role for result in ROWS]
    assert repr(columns[2]).endswith(repr(ROWS[2]).removeprefix("ResultRow"))


def test_a_row_that_is_changed_is_a_row_of_its_own(columns):
    renamed = dataclasses.replace(columns[1], expert="x")
    assert renamed == row(1, expert="x")
    assert columns == ROWS
    with pytest.raises(dataclasses.FrozenInstanceError):
        columns[1].expert = "x"


def test_a_number_keeps_its_type():
    mixed = [row(0, ties=0), row(0, ties=0.0), row(0, ties=None)]
    ties = [result.ties for result in row_columns.of(mixed).packed()]
    assert [*map(repr, ties)] == ["0", "0.0", "None"]


def test_selections_are_those_of_a_loop_over_rows(columns):
    assert columns.where(task="t1") == [r for r in ROWS if r.task == "t1"]
    assert columns.where(task="t1", expert="e0") == [ROWS[3]]
    assert columns.where(task="none") == []
    chosen = [r for r in ROWS if r.expert in {"e1", "e2"}]
    assert columns.among("expert", {"e1", "e2"}) == chosen
    assert columns.where(task="t1").where(expert="e0") == [ROWS[3]]
    by_expert = columns.split("expert")
    assert [*by_expert] == ["e0", "e1", "e2"]
    for name, rows in by_expert.items():
        assert rows == [r for r in ROWS if r.expert == name]


def test_groups_are_numbered_as_their_first_rows_come():
    codes = np.array([3, 1, 3, 2, 1])
    groups = row_columns.group(codes)
    assert groups.of.tolist() == [0, 1, 0, 2, 1]
    assert groups.firsts.tolist() == [0, 1, 3]
    assert groups.lasts.tolist() == [2, 4, 3]
    assert groups.counts.tolist() == [2, 2, 1]
    assert [members.tolist() for members in groups.members()] == [[0, 2], [1, 4], [3]]
    assert groups.have(codes == 2).tolist() == [False, False, True]


def test_groups_of_many_columns_are_those_of_their_tuples():
    rng = np.random.default_rng(0)
    # Their product is more than 64 bits hold.
    parts = [rng.integers(0, 2**30, 8)[rng.integers(0, 8, 50)] for _ in range(4)]
    numbers = {}
    expected = [
        numbers.setdefault(codes, len(numbers)) for codes in zip(*parts, strict=True)
    ]
    assert row_columns.group(*parts).of.tolist() == expected


def test_nothing_has_no_groups():
    groups = row_columns.EMPTY.groups("expert", "task")
    assert len(groups.firsts) == 0
    assert groups.members() == []
    assert row_columns.EMPTY.distinct("expert") == []
    assert row_columns.EMPTY == ()
    assert not row_columns.are_single_experts(row_columns.EMPTY).any()


def test_what_is_asked_of_values_is_asked_of_each_once(columns):
    seen_experts = []
    roles = columns.derived(
        lambda r: seen_experts.append(r.expert) or r.role, "kind", "expert"
    )
    assert seen_experts == ["e0", "e1", "e2"]
    assert roles.listed() == [r.role for r in ROWS]
    assert columns.distinct("expert", "task") == [
        *dict.fromkeys((r.expert, r.task) for r in ROWS)
    ]
    is_single = [r.is_single_expert for r in ROWS]
    assert row_columns.are_single_experts(columns).tolist() == is_single
    assert row_columns.are_experts(columns).tolist() == [r.is_expert for r in ROWS]


def test_replaced_fields_are_of_the_new_rows_alone(columns):
    names = row_columns.Coded.of(["x", "y"] * 3 + ["x"])
    renamed = columns.replaced(expert=names)
    assert [r.expert for r in renamed] == names.listed()
    assert [r.expert for r in renamed.take(np.array([1, 6]))] == ["y", "x"]
    assert [r.value for r in renamed] == [r.value for r in ROWS]
    assert columns == ROWS


def test_parts_are_joined_in_order(columns):
    joined = row_columns.joined([columns.where(task="t1"), row_columns.EMPTY, columns])
    assert joined == [*(r for r in ROWS if r.task == "t1"), *ROWS]
    assert len(joined.coded("experts").values) == 2


def test_a_row_takes_some_hundred_bytes():
    packed = row_columns.of([row(n, value=float(n)) for n in range(3000)]).packed()
    size = sum(packed.coded(name).codes.nbytes for name in row_columns.FIELDS)
    assert size / len(packed) < 200
