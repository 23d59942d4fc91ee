import pytest

from elm_jax import errors
from elm_jax.evaluation import results, selection

# Dataset q has two prompts, dataset s one.
SCORES = {
    "balanced": {"q_1": 50.0, "q_2": 50.0, "s_1": 60.0},
    "good_at_q": {"q_1": 60.0, "q_2": 54.0, "s_1": 40.0},
    "good_at_s": {"q_1": 40.0, "q_2": 40.0, "s_1": 69.0},
}


def row(expert, task, value, *, split="test", metric="accuracy"):
    return results.ResultRow(
        expert=expert,
        base_fingerprint="0123",
        task=task,
        dataset=task[0],
        prompt=task[2:],
        split=split,
        protocol="elm",
        seed=0,
        checkpoint_step=100,
        run_id="r",
        metric=metric,
        value=value,
        num_examples=10,
    )


def rows(scores=None):
    scores = SCORES if scores is None else scores
    return [
        row(name, task, value)
        for name in scores
        for task, value in scores[name].items()
    ]


def test_best_single_has_the_best_mean_over_datasets():
    # By the mean over all three prompts good_at_q would come close; datasets count.
    assert selection.best_singles(rows()) == ["balanced"]


def test_oracle_takes_the_best_expert_of_every_prompt():
    assert selection.oracle(rows()) == {
        "q_1": "good_at_q",
        "q_2": "good_at_q",
        "s_1": "good_at_s",
    }


def test_ties_are_told_and_go_to_the_first_name_whatever_the_order_of_rows():
    tied = rows({"b": {"q_1": 50.0}, "a": {"q_1": 50.0}})
    for some in (tied, tied[::-1]):
        assert selection.best_singles(some) == ["a", "b"]
        assert selection.oracle(some) == {"q_1": "a"}


@pytest.mark.parametrize("choose", [selection.best_singles, selection.oracle])
@pytest.mark.parametrize("some", [[], rows()[:-1], [*rows(), rows()[0]]])
def test_a_grid_with_gaps_or_doubles_is_refused(choose, some):
    with pytest.raises(errors.DataError, match="one row for every expert and task"):
        choose(some)


def test_a_view_reads_like_the_rows_of_one_model():
    viewed = selection.view(rows(), selection.oracle(rows()), label="oracle")
    assert {row.expert for row in viewed} == {"oracle"}
    assert {row.task: row.value for row in viewed} == {
        "q_1": 60.0,
        "q_2": 54.0,
        "s_1": 69.0,
    }


def test_oracle_is_never_below_any_expert():
    best = selection.view(rows(), selection.oracle(rows()), label="oracle")
    for viewed in best:
        assert viewed.value == max(r.value for r in rows() if r.task == viewed.task)


def test_best_single_is_chosen_on_one_split_and_viewed_on_another():
    validation = [row("a", "q_1", 70.0), row("b", "q_1", 60.0)]
    test = [row("a", "q_1", 10.0), row("b", "q_1", 90.0)]
    choice = selection.everywhere(selection.best_singles(validation)[0], test)
    (viewed,) = selection.view(test, choice, label="best_single")
    assert viewed.value == 10.0


def test_a_view_without_the_chosen_row_is_refused():
    with pytest.raises(errors.DataError, match="0 rows of balanced on q_9"):
        selection.view(rows(), {"q_9": "balanced"}, label="x")
    with pytest.raises(errors.DataError, match="2 rows of balanced on s_1"):
        selection.view([*rows(), *rows()], {"s_1": "balanced"}, label="x")


def test_selection_by_split_metric_task_and_expert():
    some = [
        *rows(),
        row("base", "q_1", 33.0),
        row("balanced", "q_1", 1.0, split="validation"),
        row("balanced", "q_1", 2.0, metric="f1"),
    ]
    everything = selection.select(some, split="test", metric="accuracy")
    assert len(everything) == 10
    assert len(selection.single_experts(everything)) == 9
    chosen = selection.select(
        some, split="test", metric="accuracy", tasks=["q_1"], expert="base"
    )
    assert [row.value for row in chosen] == [33.0]
