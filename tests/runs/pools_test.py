"""A pool of experts in an evaluation: its scores, its rows and what it refuses."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
from scipy import special

from elm_jax import errors
from elm_jax.evaluation import racing, result_store, row_lines
from elm_jax.runs import jobs, pooled_candidate, pooled_scores, pools
from tests.runs import scored, toy
from tests.runs.evaluated import score_store

POOLS = (
    pools.AnswerPool(calibrates=False),
    pools.AnswerPool(),
    pools.AnswerPool(num_experts=1, calibrates=False),
    pools.AnswerPool(temperature=1e6, calibrates=False, name="even"),
)


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def pooled_folder(routers_folder, tmp_path_factory):
    """A copy of the routers' evaluation, to which pools are added; to be read."""
    folder = shutil.copytree(routers_folder, tmp_path_factory.mktemp("p") / "folder")
    with scored.registered():
        evaluation(folder).run()
    return folder


def evaluation(folder, **changes):
    settings = {"experts": (), "strategies": ("base", *POOLS)} | changes
    return toy.score(folder, **settings)


def values_of(folder):
    rows = row_lines.read_rows(folder / "results.jsonl")
    store = result_store.ResultStore(folder / "results.jsonl")
    return {
        (row.expert, row.task): (row, store.per_example(row))
        for row in rows
        if row.metric == "accuracy"
    }


def weights_of(folder, task, temperature):
    """The softmax of what experts give to all answers of the rows that ask."""
    store = score_store(folder)
    masses = {}
    for row in store.rows():
        if row.task == task and row.expert in ("plain", "twice"):
            arrays = store.per_example(row)
            ends = np.cumsum(arrays["choices"].astype(int))[:-1]
            of_rows = np.split(arrays["scores"].astype(np.float64), ends)
            masses[row.expert] = np.mean([*map(special.logsumexp, of_rows)])
    shares = special.softmax(np.array([*masses.values()]) / temperature)
    return dict(zip(masses, shares, strict=True))


def test_a_pool_adds_up_the_scores_of_its_experts(pooled_folder):
    values = values_of(pooled_folder)
    for task in toy.TASKS:
        weights = weights_of(pooled_folder, task, 4.0)
        expected = sum(w * values[n, task][1]["scores"] for n, w in weights.items())
        row, arrays = values["pooled_by_mass_uncalibrated", task]
        np.testing.assert_allclose(arrays["scores"], expected, rtol=1e-5)
        assert row.strategy == "answer_pool"
        assert {*row.experts} == {"plain", "twice"}
        assert not row.is_choice


def test_a_pool_of_one_expert_is_that_expert_bit_for_bit(pooled_folder):
    values = values_of(pooled_folder)
    for task in toy.TASKS:
        row, arrays = values["pooled_by_mass_top1_uncalibrated", task]
        (name,) = row.experts
        alone, of_expert = values[name, task]
        assert row.value == alone.value
        assert arrays.keys() == of_expert.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, of_expert[key])


def test_a_great_temperature_gives_all_experts_a_like_say(pooled_folder):
    values = values_of(pooled_folder)
    for task in toy.TASKS:
        experts = [values[name, task][1]["scores"] for name in ("plain", "twice")]
        expected = np.mean(experts, axis=0)
        scores = values["even", task][1]["scores"]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_calibration_takes_one_number_from_each_place_of_the_choices(pooled_folder):
    values = values_of(pooled_folder)
    for task in toy.TASKS:
        plain = values["pooled_by_mass_uncalibrated", task][1]
        repaired = values["pooled_by_mass", task][1]
        counts = {*plain["num_choices"].tolist()}
        difference = plain["scores"] - repaired["scores"]
        if len(counts) == 1:
            by_row = difference.reshape(-1, counts.pop())
            np.testing.assert_allclose(by_row - by_row[:1], 0, atol=1e-5)
            np.testing.assert_allclose(by_row.sum(axis=1), 0, atol=1e-5)
            assert np.abs(by_row).max() > 1e-4


def test_the_experts_of_a_pool_are_rows_and_are_not_scored_again(
    pooled_folder, tmp_path, capsys
):
    folder = shutil.copytree(pooled_folder, tmp_path / "again")
    before = (folder / "results.jsonl").read_bytes()
    evaluation(folder).run()
    assert "to score: 0; scored already: 6" in capsys.readouterr().out
    assert (folder / "results.jsonl").read_bytes() == before
    whole = dataclasses.replace(POOLS[1], temperature=2.0)
    evaluation(folder, strategies=("base", whole)).run()
    assert "to score: 0" in capsys.readouterr().out
    assert ("pooled_by_mass_at_2", "plain_ask") in values_of(folder)


def test_the_table_shows_what_was_asked_for(pooled_folder, tmp_path, capsys):
    folder = shutil.copytree(pooled_folder, tmp_path / "again")
    evaluation(folder, strategies=(POOLS[1],)).run()
    shown = capsys.readouterr().out
    assert "pooled_by_mass" in shown
    assert "twice" not in shown


@pytest.mark.slow
def test_a_retrained_expert_makes_another_pool(pooled_folder, tmp_path):
    folder = shutil.copytree(pooled_folder, tmp_path / "again")
    old = values_of(folder)["pooled_by_mass", "plain_ask"][0]
    shutil.rmtree(folder / "experts" / "twice")
    toy.save_expert(folder, "twice", seed=9)
    shutil.rmtree(folder / "library")
    toy.build(folder).run()
    evaluation(folder).run()
    new = values_of(folder)["pooled_by_mass", "plain_ask"][0]
    assert new.expert_fingerprint != old.expert_fingerprint


def test_altered_scores_of_an_expert_are_no_part_of_a_pool(pooled_folder, tmp_path):
    """And the error names the pool and the task."""
    folder = shutil.copytree(pooled_folder, tmp_path / "again")
    lines = (folder / "results.jsonl").read_text().splitlines()
    changed = []
    for line in lines:
        row = json.loads(line)
        if row["expert"] == "plain":
            row["per_example_record_sha256"] = "0" * 64
        if row["strategy"] != "answer_pool":
            changed.append(json.dumps(row))
    (folder / "results.jsonl").write_text("\n".join(changed) + "\n")
    for path in folder.glob(".results*"):
        path.unlink()
    with pytest.raises(errors.DataError, match="altered") as raised:
        evaluation(folder).run()
    notes = "".join(raised.value.__notes__) + str(raised.value)
    assert "pooled_by_mass_uncalibrated on plain_ask" in notes


@pytest.mark.parametrize("change", ["other rows", "no scores"])
def test_scores_of_an_expert_on_other_rows_are_no_part_of_a_pool(change):
    split = jobs.ScoredSplit([scored_example(7), scored_example(8)], [0, 1], None)
    pool = pooled_candidate.PooledCandidate("p", (), weights=(1.0,))
    cell = types.SimpleNamespace(task="t", split="test")
    arrays = {
        "example_ids": np.array([7, 8]),
        "num_choices": np.array([2, 2]),
        "scores": np.zeros(4),
    }
    job = jobs.ScoringJob(pool, cell, split)
    assert pooled_scores._outcome(job, [arrays]).num_ties == 2
    if change == "other rows":
        arrays["example_ids"] = np.array([7, 9])
    else:
        del arrays["scores"]
    with pytest.raises(errors.DataError, match="scored on other rows"):
        pooled_scores._outcome(job, [arrays])


def scored_example(example_id):
    return types.SimpleNamespace(
        example_id=example_id, label=0, choices_text=("yes", "no")
    )


def test_a_pool_refuses_scores_that_it_cannot_be_made_of(pooled_folder):
    with pytest.raises(errors.ConfigError, match="length_normalized = True"):
        evaluation(pooled_folder, length_normalized=True)
    with pytest.raises(errors.ConfigError, match="with a race"):
        evaluation(pooled_folder, race=racing.Racing())
    with pytest.raises(errors.ConfigError, match="shard = '0/2'"):
        evaluation(pooled_folder, shard="0/2")


def test_a_pool_refuses_tasks_without_answer_choices(pooled_folder, tmp_path):
    folder = shutil.copytree(pooled_folder, tmp_path / "again")
    with pytest.raises(errors.ConfigError, match="written freely"):
        tasks = ("written_ask",)
        evaluation(folder, tasks=tasks, retrieval=toy.ask(folder, tasks=tasks)).run()


def test_a_pool_refuses_an_expert_of_the_library_that_is_named_as_it_is(pooled_folder):
    """Each of its experts gets rows, which would be taken for the pool's."""
    named = (pools.AnswerPool(name="plain"),)
    with pytest.raises(errors.ConfigError, match="plain"):
        evaluation(pooled_folder, strategies=named).run()


def test_a_pool_says_when_it_is_calibrated(pooled_folder):
    rows = {expert: row for (expert, _), (row, _) in values_of(pooled_folder).items()}
    note = "calibrated where all rows that ask have the same choices"
    assert rows["pooled_by_mass"].strategy_note.endswith(f", {note}")
    bare = rows["pooled_by_mass_uncalibrated"].strategy_note
    assert bare.endswith("no labels, not calibrated")


def test_a_plan_tells_how_many_models_answer(pooled_folder):
    plan = evaluation(pooled_folder).plan()
    assert plan["pooled_by_mass"].startswith("the answers of 2 experts")
    assert plan["pooled_by_mass_top1_uncalibrated"].startswith("the answers of 1 exp")


def test_a_plan_counts_the_experts_of_all_pools_once(pooled_folder):
    """Per task the retrieved one and two experts; pools themselves are no models."""

    def flops(strategies):
        cost_text = evaluation(pooled_folder, strategies=strategies).plan()[
            "cost, about"
        ]
        return float(cost_text.split()[0])

    of_retrieved = flops(("retrieved",))
    assert flops(("retrieved", POOLS[0])) == pytest.approx(3 * of_retrieved, rel=0.1)
    assert flops(("retrieved", *POOLS)) == pytest.approx(3 * of_retrieved, rel=0.1)
