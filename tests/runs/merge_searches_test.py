"""Coefficients of merges are found by searches, on rows that are not reported."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import experts, manifest
from elm_jax.data import vocabulary
from elm_jax.evaluation import cross_fitting, estimates, statistics
from elm_jax.merging import (
    affine,
    averages,
    regression,
    task_arithmetic,
)
from elm_jax.runs import (
    loaded,
    measuring,
    merge_recipes,
    merge_searches,
    merged_params,
    search_problems,
    search_rows,
    vocabularies,
)
from tests.runs import scored, toy_experts
from tests.runs.searched import ROWS, SUM, TASKS, search_of

pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    toy_experts.save(path)
    return path


def problem_of(folder, run):
    assert run.search is not None
    return search_problems.Problem.of(
        run.chosen_method(),
        sorted((folder / run.experts[0].split("/")[1]).iterdir()),
        loaded.Base.load(folder / "base"),
        run.search.rows,
        scored.make_data().opened(run.place),
        None,
    )


def merged_recipe(folder, name):
    return manifest.read_manifest(folder / "merged" / name)


def check_replays(folder, kind, name):
    """The method in the manifest gives the same bits without any search."""
    info = merged_recipe(folder, name)
    infos = [manifest.read_manifest(each) for each in sorted((folder / kind).iterdir())]
    method = merge_recipes.method_of(info.data["merge"], infos)
    again = search_of(folder, kind, None, f"{name}_again", method)
    again.run()
    replayed = merged_recipe(folder, f"{name}_again")
    assert replayed.params_fingerprint == info.params_fingerprint


@pytest.mark.slow
def test_a_sweep_takes_the_value_with_the_best_score_and_tells_all(folder, capsys):
    values = (1.0, 0.5, 0.0)
    run = search_of(
        folder, "whole", merge_searches.Sweep(values=values, rows=ROWS), "swept"
    )
    run.plan()
    run.run()
    recipe = merged_recipe(folder, "swept").data["merge"]
    problem = problem_of(folder, run)
    scores = [
        problem.score(task_arithmetic.TaskArithmetic(scale=value)) for value in values
    ]
    assert recipe["search"]["tried"] == [
        [v, s] for v, s in zip(values, scores, strict=True)
    ]
    assert (
        recipe["scale"] == recipe["search"]["chosen"] == values[int(np.argmax(scores))]
    )
    assert [*recipe["search"]["rows"]] == [*TASKS]
    assert {of_task["metric"] for of_task in recipe["search"]["rows"].values()} == {
        "accuracy"
    }
    check_replays(folder, "whole", "swept")
    capsys.readouterr()
    run.run()
    assert "finished already" in capsys.readouterr().out
    for shorter, what in (
        (merge_searches.Sweep(values=(1.0, 0.4), rows=ROWS), "values"),
        (None, "search"),
    ):
        with pytest.raises(errors.CheckpointError, match=what):
            dataclasses.replace(run, search=shorter).plan()
    assert run.plan()["finished already"] is True
    lengths = {"inputs": 4, "targets": 8}
    cut = dataclasses.replace(scored.make_data(), feature_lengths=lengths)
    shorter = dataclasses.replace(run, data=cut)
    assert shorter.plan()["finished already"] == "run to compare its rows"
    with pytest.raises(errors.CheckpointError, match="rows/signs_ask/tokens"):
        shorter.run()
    with pytest.raises(errors.CheckpointError, match="rows/signs_ask/tokens"):
        shorter.plan()


@pytest.mark.parametrize(
    "changes",
    [
        {"search": merge_searches.Sweep(rows=ROWS)},
        {"method": regression.RegMean(), "measuring": measuring.Measuring()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_rows_of_another_vocabulary_than_the_experts_neither_choose_nor_measure(
    folder, changes
):
    params, info = experts.load_expert(folder / "lora" / "lora_1")
    foreign = vocabulary.SentencePiece(str(scored.MODEL), extra_ids=90)
    description = vocabularies.describe(foreign, set_by="the training")
    if not (folder / "tongue").exists():
        experts.save_expert(
            folder / "tongue" / "lora_1",
            params,
            dataclasses.replace(info, vocabulary=description),
        )
    run = dataclasses.replace(
        search_of(folder, "tongue", None, "foreign_rows"), **changes
    )
    for act in (run.plan, run.run):
        with pytest.raises(errors.FingerprintError, match=foreign.fingerprint):
            act()


@pytest.mark.slow
def test_rows_of_the_reported_split_choose_only_cross_fitted(folder):
    with pytest.raises(errors.ConfigError, match="the split that is reported"):
        dataclasses.replace(ROWS, split="test")
    rows = dataclasses.replace(ROWS, split="test", cross_fit=True)
    search = merge_searches.Sweep(values=(1.0, 0.3), rows=rows)
    run = search_of(folder, "lora", search, "fitted")
    run.run()
    recipe = merged_recipe(folder, "fitted").data["merge"]
    cross_fitted = recipe["search"]["cross_fitted"]
    problem = problem_of(folder, run)
    columns = {
        f"{scale:g}": [problem.columns(task_arithmetic.TaskArithmetic(scale=scale))]
        for scale in (1.0, 0.3)
    }
    fitted = cross_fitting.cross_fit(columns, estimates.Draws())
    assert fitted is not None
    assert cross_fitted["score"] == pytest.approx(fitted.best_single.estimate.mean)
    low, high = cross_fitted["interval"]
    assert low <= cross_fitted["score"] <= high


@pytest.mark.slow
def test_a_greedy_soup_is_not_worse_than_its_best_expert(folder):
    search = merge_searches.GreedySoup(rows=ROWS)
    search_of(folder, "whole", search, "soup", averages.Uniform()).run()
    recipe = merged_recipe(folder, "soup").data["merge"]
    tried = {tuple(weights): score for weights, score in recipe["search"]["tried"]}
    singles = [score for weights, score in tried.items() if sum(weights) == 1]
    assert len(singles) == 3
    assert tried[tuple(recipe["weights"])] >= max(singles)
    check_replays(folder, "whole", "soup")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *(("bottleneck", 0.03), ("lora", 0.003)),
        *(("ia3", 0.03), ("norms", 0.03), ("whole", 0.003)),
    ],
)
def test_losses_and_slopes_are_those_of_the_merge_that_is_scored(folder, kind, size):
    """Found by another way: rank classification of a merge by task arithmetic."""
    run = search_of(folder, kind, merge_searches.LoraHub(rows=ROWS), "x")
    problem = problem_of(folder, run)
    weights = np.array([0.5, 1.0, -0.25])

    def by_ranks(weights):
        merged = problem_merge(problem, weights)
        params = problem.program.place(problem.base.with_expert(merged))
        losses, entropies = [], []
        for part in problem.parts:
            rows = [part.dataset[row] for row in part.rows]
            ranked = problem.program.rank(params, merged.adapter, rows)
            log_p = [log_probs(*each) for each in zip(rows, ranked.scores, strict=True)]
            labels = [
                [*dict.fromkeys(x.choices_text)].index(x.targets_text) for x in rows
            ]
            pairs = zip(log_p, labels, strict=True)
            losses.append(np.mean([-of_row[label] for of_row, label in pairs]))
            entropies.append(np.mean([-np.sum(np.exp(p) * p) for p in log_p]))
        return np.mean(losses), np.mean(entropies)

    expected = dict(zip(("loss", "entropy"), by_ranks(weights), strict=True))
    for of in ("loss", "entropy"):
        slope_of = problem.slope_fn(of)
        value, slopes = slope_of({affine.ALL: weights})
        assert value == pytest.approx(expected[of], rel=1e-4)
        step = size * np.array([0.0, 1.0, 0.0])
        up, down = (slope_of({affine.ALL: weights + s})[0] for s in (step, -step))
        assert slopes[affine.ALL][1] == pytest.approx(
            (up - down) / (2 * size), rel=2e-2, abs=2e-6
        )


def log_probs(row, scores):
    """Of the answers of a row, those of one text taken once."""
    score_of = dict(zip(row.choices_text, scores.tolist(), strict=True))
    return np.asarray(jax.nn.log_softmax(np.array([*score_of.values()])))


IMPOSSIBLE = -1e6


@pytest.mark.parametrize(
    ("scores", "loss", "entropy"),
    [
        ((IMPOSSIBLE, 1.0, 1.0), 0.0, 0.0),  # the answer that is there twice alone
        ((1.0, IMPOSSIBLE, IMPOSSIBLE), 1 - IMPOSSIBLE, 0.0),
        (
            (0.0, np.log(3.0), np.log(3.0)),
            np.log(4 / 3),
            np.log(4) / 4 + np.log(4 / 3) * 3 / 4,
        ),
    ],
)
def test_choices_of_one_text_are_one_answer_by_hand(
    folder, monkeypatch, scores, loss, entropy
):
    """Rows of (yes, no, no), of which the last is right."""
    run = search_of(folder, "ia3", merge_searches.LoraHub(rows=ROWS), "x")
    problem = problem_of(folder, run)
    parts = [part for part in problem.parts if part.dataset.name == "twice_ask"]
    problem = dataclasses.replace(problem, parts=parts)

    def make_fixed_score_fn(model):
        del model
        fixed = np.array(
            [*scores, IMPOSSIBLE], np.float32
        )  # four, as choices are padded
        return lambda params, inputs, choices, mask: np.tile(fixed, (len(inputs), 1))

    monkeypatch.setattr(search_problems.scoring, "make_score_fn", make_fixed_score_fn)
    make_anew = search_problems._make_slope_fn.__wrapped__
    monkeypatch.setattr(search_problems, "_make_slope_fn", make_anew)
    for objective, expected in (("loss", loss), ("entropy", entropy)):
        value, _ = problem.slope_fn(objective)({affine.ALL: np.ones(3)})
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)


def problem_merge(problem, weights):
    method = task_arithmetic.TaskArithmetic(weights=tuple(weights))
    return merged_params.of_folders(method, problem.folders, problem.base, name="x")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["gradient", "search"])
def test_lorahub_lowers_the_loss(folder, by):
    search = merge_searches.LoraHub(by=by, max_steps=8, rows=ROWS)
    search_of(folder, "ia3", search, f"hub_{by}").run()
    recipe = merged_recipe(folder, f"hub_{by}").data["merge"]
    first, *others = (value for _, value in recipe["search"]["tried"])
    assert min(others) < first
    assert recipe["weights"] == recipe["search"]["chosen"]
    check_replays(folder, "ia3", f"hub_{by}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("bottleneck", "expert"),
        *((k, "layer") for k in ("whole", "bottleneck", "lora")),
    ],
)
def test_adamerging_lowers_the_entropy_and_reads_no_label(folder, kind, by):
    search = merge_searches.AdaMerging(by=by, max_steps=4, learning_rate=0.1, rows=ROWS)
    name = f"ada_{kind}_{by}"
    search_of(folder, kind, search, name).run()
    recipe = merged_recipe(folder, name).data["merge"]
    values = [value for _, value in recipe["search"]["tried"]]
    assert min(values) < values[0]
    assert recipe["method"] == ("by_name" if by == "layer" else "task_arithmetic")
    check_replays(folder, kind, name)


class Relabelled:
    """Rows of a task whose right answers are other ones."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def __getitem__(self, row):
        example = self._dataset[row]
        label = (example.label + 1) % len(example.choices)
        return example._replace(label=label)


@pytest.mark.slow
def test_other_labels_change_no_bit_of_adamerging_and_do_change_lorahub(folder):
    outcomes = {}
    for name, search in (
        ("adamerging", merge_searches.AdaMerging(max_steps=2, rows=ROWS)),
        ("lorahub", merge_searches.LoraHub(by="gradient", max_steps=2, rows=ROWS)),
    ):
        problem = problem_of(folder, search_of(folder, "ia3", search, "x"))
        parts = [
            part._replace(dataset=Relabelled(part.dataset)) for part in problem.parts
        ]
        other = dataclasses.replace(problem, parts=parts)
        outcomes[name] = [search.find(each) for each in (problem, other)]
    assert outcomes["adamerging"][0] == outcomes["adamerging"][1]
    assert outcomes["lorahub"][0] != outcomes["lorahub"][1]


def test_a_search_needs_tasks_with_choices(folder):
    for rows, message in (
        (search_rows.Rows(), "a search without tasks"),
        (dataclasses.replace(ROWS, tasks=("written_ask",)), "written freely"),
    ):
        search = merge_searches.LoraHub(rows=rows)
        with pytest.raises(errors.ConfigError, match=message):
            search_of(folder, "lora", search, "none").run()


@pytest.mark.slow
def test_values_that_are_almost_alike_are_tried_apart(folder):
    values = (1.0, 1.0 + 1e-9)
    search = merge_searches.Sweep(values=values, rows=ROWS)
    problem = problem_of(folder, search_of(folder, "ia3", search, "x"))
    best = search.find(problem)
    assert [value for value, _ in best.facts["tried"]] == [*values]


def test_datasets_count_equally_and_not_their_tasks(folder):
    run = search_of(folder, "ia3", merge_searches.Sweep(rows=ROWS), "x")
    problem = problem_of(folder, run)
    column = statistics.Column(np.arange(2), np.array([0.0, 100.0]))
    right = statistics.Column(np.arange(2), np.array([100.0, 100.0]))
    columns = {("a", "1"): column, ("a", "2"): column, ("b", "3"): right}
    with mock.patch.object(type(problem), "columns", return_value=columns):
        assert problem.score(SUM) == 75.0
        rows = dataclasses.replace(ROWS, cross_fit=True)
        search = merge_searches.Sweep(values=(1.0,), rows=rows)
        facts = search.find(dataclasses.replace(problem, rows=rows)).facts
    assert facts["tried"] == [[1.0, 75.0]]
    assert facts["cross_fitted"]["score"] == 75.0


@pytest.mark.parametrize(
    ("search", "method", "number"),
    [
        (merge_searches.Sweep(rows=ROWS, values=(1.0, 0.5)), SUM, 2),
        (merge_searches.GreedySoup(rows=ROWS), averages.Uniform(), 5),
        (merge_searches.LoraHub(rows=ROWS, max_steps=6), SUM, 6),
        (merge_searches.LoraHub(rows=ROWS, max_steps=1), SUM, 2),
        (merge_searches.LoraHub(rows=ROWS, by="gradient", max_steps=2), SUM, 3),
        (merge_searches.AdaMerging(rows=ROWS, max_steps=2), SUM, 3),
    ],
)
def test_a_plan_tells_how_many_merges_a_search_scores(folder, search, method, number):
    name = f"planned_{search.kind}_{number}"
    run = search_of(folder, "lora", search, name, method)
    plan = run.plan()["search scores"]
    assert plan.startswith(f"at most {number} merges, on all validation rows of each")
    run.run()
    assert "search scores" not in run.plan()
    searched = merged_recipe(folder, name).data["merge"]["search"]
    assert len(searched["tried"]) == number
