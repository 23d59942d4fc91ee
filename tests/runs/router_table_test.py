"""Tables of routers over several trainings: their means, and what intervals count."""

import re

import numpy as np
import pytest
from scipy import stats

from elm_jax import errors
from elm_jax.evaluation import result_store
from elm_jax.runs import (
    candidates,
    comparable_rows,
    queries,
    router_scores,
    router_table,
    strategies,
    strategy,
)
from tests.runs import compared, routed, scored, toy
from tests.runs.compared import IDS, compare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toy_tasks")]

SEEDS = (1, 2, 3)
PLAIN = {1: 40.0, 2: 50.0, 3: 60.0}  # of every row, by the seed of the training
TWICE, BASE, BELOW = 30.0, 20.0, 5.0  # the merge is by so much below `plain`
ERROR = np.std([*PLAIN.values()], ddof=1) / np.sqrt(3) * stats.t.ppf(0.975, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three trainings of two experts, a library of each, and made-up scores."""
    folder = tmp_path_factory.mktemp("trainings")
    with scored.registered():
        scored.save_base(folder)
        for seed in SEEDS:
            make_library(folder, seed)
            record_all(folder, seed)
    return folder


def make_library(folder, seed, *, name="", **changes):
    name = name or f"seed{seed}"
    for place, expert in enumerate(("plain", "twice")):
        how = {"to": f"experts/{name}", "training_seed": seed}
        routed.save_expert(folder, expert, 10 * seed + place, **how)
    experts = tuple(f"{{MODEL_DIR}}/experts/{name}/{x}" for x in ("plain", "twice"))
    where = f"{{MODEL_DIR}}/library/{name}"
    toy.build(folder, experts=experts, library_dir=where, **changes).run()


def questions_of(folder, seed):
    retrieval = toy.ask(folder, library_dir=f"{{MODEL_DIR}}/library/seed{seed}")
    return retrieval.ask(retrieval, toy.TASKS, retrieval.data)


def record_all(folder, seed):
    values = (BASE, PLAIN[seed], TWICE, PLAIN[seed] - BELOW)
    for question in questions_of(folder, seed):
        target = strategy.Target(question.task, folder.joinpath, question)
        choices = compared.candidates_for(folder, question)[:3]
        choices.append(strategies.MergeAll().choose(target))
        for place, (candidate, value) in enumerate(zip(choices, values, strict=True)):
            same = np.full(len(IDS), value)
            compared.record(folder, question, candidate, place, values=same)


def several(folder, *names, **changes):
    fields = {
        "libraries": names or ("{MODEL_DIR}/library/seed[1-3]",),
        "strategies": ("retrieved", "merged_all"),
        "num_timed": 0,
    }
    return compare(folder, **(fields | changes))


def table_of(run):
    run.run()
    page = run.path(run.output_path).read_text()
    cells = [line.strip("|").split("|") for line in page.splitlines() if "|" in line]
    return {
        cells_of_line[0].strip(): [cell.strip() for cell in cells_of_line[1:]]
        for cells_of_line in cells
    }, page


def numbers(text):
    """Returns the numbers of a cell: a mean and the ends of its interval."""
    texts = re.findall(r"[−+]?\d+(?:\.\d+)?", text)
    return [float(x.replace("−", "-")) for x in texts]


def test_scores_are_means_over_trainings_with_students_interval_of_these(folder):
    """Rows of a training are alike, so that trainings are all that varies."""
    table, page = table_of(several(folder))
    assert "test rows of 2 tasks, 3 trainings" in page
    mean, low, high = numbers(table["oracle of these experts"][0])
    assert mean == 50
    # Of a thousand draws the ends are known to about 4 %.
    assert [mean - low, high - mean] == pytest.approx([ERROR, ERROR], rel=0.1)
    assert numbers(table["base, no expert"][0]) == [20, 20, 20]
    assert numbers(table["random expert"][0]) == [40]
    assert numbers(table["random expert"][1]) == [20]
    assert numbers(table["random expert"][2]) == [10]


def test_differences_of_routers_are_paired_by_training(folder):
    """The merge is by as much below in every training: its regret does not vary."""
    table, _ = table_of(several(folder))
    assert numbers(table["merged_all"][2]) == [5, 5, 5]
    assert table["merged_all"][3] == "83"  # 25 of 30 points
    more, low, high = numbers(table["merged_all"][1])
    assert more == 25
    assert high - low == pytest.approx(2 * ERROR, rel=0.1)


def test_choices_of_all_trainings_are_counted(folder):
    table, page = table_of(several(folder))
    assert "on how many tasks of all trainings one of the best" in page
    votes = [
        question.result.expert == "plain"
        for seed in SEEDS
        for question in questions_of(folder, seed)
    ]
    assert table["retrieved"][4] == f"{sum(votes)} of 6"
    assert table["oracle of these experts"][4] == "6 of 6"
    assert table["oracle of these experts"][5] == "3 of 3"  # one task is of an expert
    # `plain` is the best one on both tasks of each training.
    assert table["oracle of these experts"][6] == "1"
    values = [
        PLAIN[seed] if question.result.expert == "plain" else TWICE
        for seed in SEEDS
        for question in questions_of(folder, seed)
    ]
    expected = pytest.approx(np.mean(values), abs=0.06)
    assert numbers(table["retrieved"][0])[0] == expected


def test_all_routers_are_compared_with_the_one_that_is_named(folder):
    table, page = table_of(several(folder, baseline="merged_all"))
    assert "more than merged_all" in page
    assert numbers(table["oracle of these experts"][1]) == [5, 5, 5]
    assert numbers(table["random expert"][1]) == [-5]
    assert numbers(table["base, no expert"][1])[0] == -25
    with pytest.raises(errors.ConfigError, match="baseline"):
        several(folder, baseline="by_mass")


def test_one_library_of_many_is_as_it_is_alone(folder):
    where = "{MODEL_DIR}/library/seed2"
    alone = queries.Queries(library_dir=where, embedder=toy.ENCODER, num_queries=2)
    expected, _ = table_of(several(folder, libraries=(), retrieval=alone))
    assert table_of(several(folder, where))[0] == expected
    assert numbers(expected["merged_all"][0]) == [45, 45, 45]


def test_libraries_that_are_not_of_trainings_of_one_recipe_are_refused(folder):
    make_library(folder, 3, name="more_keys", num_keys=5)
    make_library(folder, 3, name="again")
    for library in ("seed3", "more_keys"):
        names = [f"{{MODEL_DIR}}/library/{x}" for x in ("seed1", library)]
        run = several(folder, *names, strategies=("retrieved",))
        if library == "seed3":
            run.plan()
            continue
        with pytest.raises(errors.LibraryError, match="another seed in each"):
            run.plan()
    with pytest.raises(errors.LibraryError, match="another seed in each"):
        several(folder, "{MODEL_DIR}/library/seed3", "{MODEL_DIR}/library/again").plan()
    with pytest.raises(errors.LibraryError, match="no folder that matches"):
        several(folder, "{MODEL_DIR}/library/none*").plan()


def test_different_experts_are_counted_in_each_training(folder):
    """Both are chosen in one training, and one in the others: 4 of 3 trainings."""
    trainings = []
    for seed in SEEDS:
        questions = questions_of(folder, seed)
        store = result_store.ResultStore(folder / "results.jsonl")
        rows = comparable_rows.ComparableRows(store, {}, compared.SHOWN)
        scores = router_scores.Scores(rows, questions, "test", "accuracy")
        chosen = {}
        for place, question in enumerate(questions):
            name = "twice" if seed == 1 and place else "plain"
            (chosen[question.task],) = candidates.of_experts([question.experts[name]])
        trainings.append(router_table.Training(scores, {"planned": chosen}))
    figures = dict(router_table.Table(trainings, {}).figures.rows)
    assert figures["planned"][6] == "1.33"
    alone = router_table.Table(trainings[:1], {}).figures
    assert dict(alone.rows)["planned"][6] == "2"
    assert "all trainings" not in " ".join(alone.notes)
