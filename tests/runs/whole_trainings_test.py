"""No table shows an expert on some tasks by one training, on others by another."""

from elm_jax.evaluation import row_columns
from elm_jax.runs import whole_trainings
from tests.evaluation import made_rows as rows

FIRST, SECOND, THIRD = (
    rows.changed(training_seed=seed, expert_fingerprint=f"{seed}", recipe="r")
    for seed in (1, 2, 3)
)


def on(row, *tasks):
    return [rows.changed(row, task=task) for task in tasks]


def test_of_trainings_of_as_many_other_cells_one_is_shown():
    older, newer = on(FIRST, "a", "b"), on(SECOND, "a", "c")
    whole = whole_trainings.of(row_columns.of([*older, *newer]))
    assert [*whole.rows] == newer
    assert whole.partly == {"reviews": 1}


def test_the_cells_count_that_most_trainings_have():
    both = [*on(FIRST, "a", "b"), *on(SECOND, "b", "a")]
    whole = whole_trainings.of(row_columns.of([*both, *on(THIRD, "a", "c")]))
    assert [*whole.rows] == both
    assert whole.partly == {"reviews": 1}
