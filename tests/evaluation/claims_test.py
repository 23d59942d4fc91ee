import dataclasses

import numpy as np
import pytest

from elm_jax.evaluation import claims, estimates, results, statistics


def score(share, *, num_rows=200, num_trainings=1):
    """The first `share` of the rows are right."""
    values = 100.0 * (np.arange(num_rows) < share * num_rows)
    columns = {("q", "q"): statistics.Column(np.arange(num_rows), values)}
    return estimates.estimate([columns] * num_trainings, estimates.Draws())


@pytest.mark.parametrize(
    ("share", "holds"), [(0.7, True), (0.3, False), (0.505, None), (0.5, None)]
)
def test_experts_beat_multitask_only_if_the_whole_interval_says_so(share, holds):
    claim = claims.experts_against_multitask(
        {"retrieved": score(share), "best_single": score(0.9)},
        score(0.5),
        judged_by="retrieved",
    )
    assert claim.holds is holds
    assert "best single +40.0 [" in claim.evidence
    assert "multitask (50.0 [" in claim.evidence


@pytest.mark.parametrize(
    ("first", "second", "holds"),
    [(0.5, 0.6, True), (0.5, 0.9, False), (0.5, 0.8, None), (0.8, 0.9, False)],
)
def test_a_merge_has_to_beat_every_part(first, second, holds):
    parts = {"one": score(first), "two": score(second)}
    claim = claims.merge_beats_parts(score(0.8), parts, metric="accuracy")
    assert claim.holds is holds
    assert "against one alone" in claim.evidence
    assert "against two alone" in claim.evidence


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((1, 1), "holds in this training"),
        ((5, 2), "holds in these 2 trainings"),
        ((3, 5), "holds"),
    ],
)
def test_a_claim_holds_only_of_three_trainings_of_both(numbers, verdict):
    ours, multitask = (
        score(share, num_trainings=number)
        for share, number in zip((0.7, 0.5), numbers, strict=True)
    )
    claim = claims.experts_against_multitask(
        {"retrieved": ours}, multitask, judged_by="retrieved"
    )
    assert claim.verdict == verdict
    merge = claims.merge_beats_parts(ours, {"one": multitask}, metric="accuracy")
    assert merge.verdict == verdict


def row(**changes):
    fields = {
        "expert": "dream_x",
        "base_fingerprint": "0123",
        "task": "quail_y",
        "dataset": "quail",
        "prompt": "y",
        "split": "test",
        "protocol": "elm",
        "seed": 0,
        "checkpoint_step": 100,
        "run_id": "before",
        "metric": "accuracy",
        "value": 30.0,
        "num_examples": 2,
        "per_example_sha256": "aa",
    }
    return results.ResultRow(**(fields | changes))


def test_scores_are_unchanged_if_rows_differ_in_the_run_only():
    before = [row(), row(task="t")]
    after = [dataclasses.replace(old, run_id="after") for old in before]
    claim = claims.scores_unchanged(before, [*after, row(expert="new")])
    assert claim.holds is True
    assert claim.evidence.startswith("2 of 2 result rows are identical")


def test_what_rows_tell_of_their_examples_is_no_score():
    claim = claims.scores_unchanged([row()], [row(inputs_cut=2.0, ties=0.0)])
    assert claim.holds is True


@pytest.mark.parametrize("change", [{"value": 30.1}, {"per_example_sha256": "ab"}])
def test_one_changed_score_is_noticed(change):
    claim = claims.scores_unchanged(
        [row(), row(task="t")], [row(task="t"), row(**change)]
    )
    assert claim.holds is False
    assert "1 of 2 result rows are identical; 1 differ, 0 were" in claim.evidence


def test_a_score_that_was_not_taken_again_proves_nothing():
    claim = claims.scores_unchanged([row(), row(task="t")], [row()])
    assert claim.holds is None
    assert "1 were not scored again" in claim.evidence
    assert claims.scores_unchanged([], []).holds is None


def test_a_retrieval_is_changed_only_between_rows_that_tell_their_kind():
    chosen = row(expert="retrieved", kind="strategy", expert_fingerprint="one")
    of_another = dataclasses.replace(chosen, expert_fingerprint="two")
    claim = claims.expert_added([row(), chosen], [row(), of_another])
    assert claim.holds is True
    assert "Of 1 old tasks, 1 now retrieve a new expert." in claim.evidence
    claim = claims.expert_added([row(), chosen], [row(), chosen])
    assert "Of 1 old tasks, 0 now retrieve a new expert." in claim.evidence
    seeds = [chosen, dataclasses.replace(of_another, training_seed=7)]
    claim = claims.expert_added([row(), *seeds], [row(), *seeds[::-1]])
    assert "Of 1 old tasks, 0 now retrieve a new expert." in claim.evidence
    old = dataclasses.replace(chosen, kind="")
    for pair in ([old], [of_another]), ([of_another], [old]):
        assert "retrieve" not in claims.expert_added(*pair).evidence
