"""The table of the merging study has the numbers of rows whose answers are known."""

import math
import pathlib
import re

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import tasks
from elm_jax.evaluation import result_store, results, statistics
from tests.benchmarks import merging_study_lines, merging_study_table

GIN = pathlib.Path(__file__).parents[2] / "gin/pocket"
NUM_ROWS = 100
SEEDS = (1, 2)


def record(
    store,
    name,
    is_right,
    *,
    mixture="pocket_composed",
    split="test",
    kind="merged",
    seeds=SEEDS,
    library="library",
    **fields,
):
    """Adds rows of a mixture; row `i` of each task is right if `is_right(seed, i)`."""
    for seed in seeds:
        right = [100.0 * is_right(seed, i) for i in range(NUM_ROWS)]
        for task in tasks.registry.expand(mixture):
            facts = {
                "expert": name,
                "base_fingerprint": "0123456789abcdef",
                "expert_fingerprint": f"{name}{seed}",
                "task": task,
                "dataset": tasks.registry.task(task).dataset,
                "prompt": tasks.registry.task(task).prompt,
                "split": split,
                "protocol": "default",
                "seed": 42,
                "checkpoint_step": 0,
                "scoring": "scoring",
            }
            cell = results.Cell(**facts | fields)
            store.record(
                cell,
                run_id="run",
                values={"accuracy": float(np.mean(right))},
                num_examples=NUM_ROWS,
                per_example={
                    "example_ids": np.arange(NUM_ROWS),
                    "accuracy": np.array(right, np.float32),
                },
                facts=results.Facts(
                    kind=kind,
                    training_seed=seed,
                    library=library if kind == "strategy" else "",
                    vocabulary="words",
                ),
            )


@pytest.fixture
def folder(tmp_path):
    result_store.ResultStore(tmp_path / "results.jsonl").finish()
    (tmp_path / "results.jsonl").touch()
    store = result_store.ResultStore(tmp_path / "results_merging.jsonl")
    record(store, "parts_uniform", lambda _, i: i < 50)
    record(store, "parts_wudi", lambda _, i: i < 60)
    record(store, "parts_ace", lambda seed, i: i < 50 + (0 if seed == 1 else 20))
    record(store, "pocket_topics", lambda _, i: i < 30, kind="dataset")
    record(store, "pocket_reviews", lambda _, i: i < 52, kind="dataset")
    store.finish()
    return tmp_path


def table(folder, capsys):
    merging_study_table.main([str(folder), "--seeds=1,2"])
    text = capsys.readouterr().out
    lines = [line.split("|")[1:-1] for line in text.splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines if line]
    return text, {first: others for first, *others in cells}


def numbers(cell):
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d", cell)]


def test_a_difference_is_that_of_the_same_rows(folder, capsys):
    _, lines = table(folder, capsys)
    assert numbers(lines["wudi"][0])[0] == 60
    gap, low, high = numbers(lines["wudi"][1])
    assert gap == 10
    # Rows whose difference is 100 for 10 of 100, and 0 for the others: the normal
    # error, and Student's t of 99 degrees of freedom makes it 1 % wider. The tolerance
    # is that of percentiles of 1,000 resamples of so skewed a mean.
    half = 1.98 * 100 * math.sqrt(0.1 * 0.9 / NUM_ROWS)
    assert (high - low) / 2 == pytest.approx(half, rel=0.12)
    assert lines["wudi"][1].endswith("*")


def test_intervals_count_trainings(folder, capsys):
    _, lines = table(folder, capsys)
    gap, low, high = numbers(lines["ace"][1])
    assert gap == 10  # as great as the other one's, but of one training alone
    assert low < 0 < high
    assert not lines["ace"][1].endswith("*")


def test_a_setting_is_chosen_by_validation_rows_alone(folder, capsys):
    store = result_store.ResultStore(folder / "results_merging.jsonl")
    counts = {
        ("merged_top3", "test"): 50,
        ("top3_ties", "validation"): 40,
        ("top3_ties", "test"): 90,
        ("top3_ties_half", "validation"): 60,
        ("top3_ties_half", "test"): 20,
    }
    for (name, split), count in counts.items():
        record(
            store,
            name,
            lambda _, i, count=count: i < count,
            mixture="pocket_unseen",
            split=split,
            kind="strategy",
        )
    store.finish()
    _, lines = table(folder, capsys)
    assert numbers(lines["TIES (`top3_ties_half`)"][0])[0] == 20


def test_real_rows_choose_no_setting(tmp_path, capsys):
    store = result_store.ResultStore(tmp_path / "results_routing.jsonl")
    for name, count in (("merged_top3", 50), ("top3_ties", 60), ("top3_ties_half", 40)):
        record(
            store,
            name,
            lambda _, i, count=count: i < count,
            mixture=merging_study_lines.REAL,
            split="validation",
            kind="strategy",
            seeds=(42,),
        )
    store.finish()
    merging_study_table.main([str(tmp_path), "--seeds=42", "--real"])
    text = capsys.readouterr().out
    assert "| TIES, top3_ties | 60.0 [" in text
    assert "| TIES, top3_ties_half | 40.0 [" in text


def test_held_in_tasks_of_real_rows_can_be_named(tmp_path, capsys):
    store = result_store.ResultStore(tmp_path / "results_routing.jsonl")
    named = "rotten_tomatoes_Movie_Expressed_Sentiment"
    for mixture, count in ((merging_study_lines.REAL, 50), ((named,), 70)):
        record(
            store,
            "merged_top3",
            lambda _, i, count=count: i < count,
            mixture=mixture,
            split="validation",
            kind="strategy",
            seeds=(42,),
        )
    store.finish()
    arguments = [str(tmp_path), "--seeds=42", "--real", f"--held_in={named}"]
    merging_study_table.main(arguments)
    mean = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| uniform (the mean) | 50.0 [")
    )
    assert "| 70.0 [" in mean


def test_held_in_tasks_are_named_of_real_rows_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        merging_study_table.main([str(tmp_path), "--held_in=pocket_topics"])
    assert "--held_in goes with --real" in capsys.readouterr().err


def test_merges_of_loras_have_a_table_of_their_own(folder, capsys):
    store = result_store.ResultStore(folder / "results_merging_lora.jsonl")
    counts = {"merged_top3": 50, "top3_knots": 60, "pocket_work_needs": 20}
    for name, count in counts.items():
        record(
            store,
            name,
            lambda _, i, count=count: i < count,
            mixture="pocket_unseen",
            kind="prompt" if name == "pocket_work_needs" else "strategy",
        )
    for split, half in (("validation", 70), ("test", 30)):
        for scale, count in (("sum", 40), ("half_sum", half), ("third_sum", 40)):
            record(
                store,
                f"top3_cut_{scale}",
                lambda _, i, count=count: i < count,
                mixture="pocket_unseen",
                split=split,
                kind="strategy",
            )
    store.finish()
    merging_study_table.main([str(folder), "--seeds=1,2", "--lora"])
    text = capsys.readouterr().out
    assert "| knots | 60.0 [" in text
    assert "| low_rank_sum, rank of one (`top3_cut_half_sum`) | 30.0 [" in text
    assert "| random expert | 20.0 [" in text
    assert "wudi (top3_wudi: 20 of 20 test rows)" in text


def test_a_random_expert_is_the_mean_of_the_experts(folder, capsys):
    _, lines = table(folder, capsys)
    assert numbers(lines["random expert"][0])[0] == (30 + 52) / 2


def test_a_merge_is_named_only_if_it_beats_both_parts(folder, capsys):
    text, _ = table(folder, capsys)
    # 60 beats 30 and 52 by rows that are nested; 50 beats 30 alone.
    assert "Beat both parts by their own intervals: ['wudi']." in text


def test_a_method_without_all_trainings_is_left_out(folder, capsys):
    store = result_store.ResultStore(folder / "results_merging.jsonl")
    record(store, "parts_fisher", lambda _, i: i < 99, seeds=(1,))
    store.finish()
    text, lines = table(folder, capsys)
    assert "fisher" not in lines
    # Two prompts of the composed task, of two trainings.
    assert "fisher (parts_fisher: 2 of 4 test rows)" in text
    assert "Held-in scores left out, rows lacking: uniform (the mean)" in text


def test_a_table_that_is_left_out_is_told(folder, capsys):
    text, _ = table(folder, capsys)
    assert "The whole table is left out, rows lacking: uniform (the mean)" in text


def test_experts_of_other_seeds_are_no_part_of_the_random_expert(folder, capsys):
    store = result_store.ResultStore(folder / "results_merging.jsonl")
    record(store, "pocket_work", lambda _, i: i < 90, kind="dataset", seeds=(3,))
    store.finish()
    _, lines = table(folder, capsys)
    assert numbers(lines["random expert"][0])[0] == (30 + 52) / 2


def test_an_expert_that_lacks_rows_is_named_where_the_random_expert_is_not(
    folder, capsys
):
    store = result_store.ResultStore(folder / "results_merging.jsonl")
    record(store, "pocket_work", lambda _, i: i < 90, kind="dataset", seeds=(1,))
    store.finish()
    text, _ = table(folder, capsys)
    assert "random expert (pocket_work: 2 of 4 test rows)" in text


@pytest.mark.parametrize(
    ("seed", "fields", "message"),
    [
        (2, {"settings": "12345678"}, "settings"),
        (2, {"library": "grown"}, "library"),
        (2, {"base_fingerprint": "f" * 16}, "base_fingerprint"),
        (2, {"protocol": "elm"}, "protocol"),
        (2, {"seed": 7}, "seed"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(folder, seed, fields, message):
    store = result_store.ResultStore(folder / "results_merging.jsonl")
    for number, changed in ((1, {}), (seed, fields)):
        record(
            store,
            "top3_wudi",
            lambda _, i: i < 50,
            mixture="pocket_unseen",
            kind="strategy",
            seeds=(number,),
            **changed,
        )
    store.finish()
    with pytest.raises(errors.DataError, match=message):
        merging_study_table.main([str(folder), "--seeds=1,2"])


def test_two_files_that_differ_about_one_cell_are_refused(folder):
    store = result_store.ResultStore(folder / "results.jsonl")
    record(store, "parts_wudi", lambda _, i: i < 10)
    store.finish()
    with pytest.raises(errors.DataError, match="'parts_wudi' .* with value"):
        merging_study_table.main([str(folder), "--seeds=1,2"])


def test_a_folder_without_the_mean_is_refused(tmp_path):
    for name in ("results", "results_merging"):
        (tmp_path / f"{name}.jsonl").touch()
    with pytest.raises(errors.DataError, match="no rows of all trainings"):
        merging_study_table.main([str(tmp_path), "--seeds=1"])


def test_its_names_are_those_of_the_gin_files():
    parts = GIN.parent / "parts" / "suites"
    shared = (parts / "pocket_merging.gin").read_text()
    loras = (GIN / "merging_lora.gin").read_text()
    others = [path.read_text() for path in GIN.glob("merging_*.gin")]
    for tables, texts in (
        (merging_study_lines.TABLES, {shared, *others} - {loras}),
        (merging_study_lines.LORA_TABLES, {shared, loras}),
    ):
        names = {
            name
            for table in tables
            for group in table.settings.values()
            for name in group
        }
        expert_names = re.findall(r'(?:expert_)?name = "(\w+)"', "".join(texts))
        assert len(expert_names) > 40
        assert sorted({*expert_names} - names) == []
    tasks_of = re.findall(
        r'"(pocket_\w+)",\n', (parts / "pocket_held_in.gin").read_text()
    )
    assert tuple(tasks_of) == merging_study_lines.HELD_IN


def test_its_real_tasks_are_those_of_the_gin_file():
    named = _real_tasks_in("merging_study.gin")
    assert {*named} == {*merging_study_lines.REAL, *merging_study_lines.REAL_HELD_IN}


def test_its_held_in_real_tasks_have_experts_of_their_own():
    assert _real_tasks_in("prompt_experts.gin") == [*merging_study_lines.REAL_HELD_IN]


def _real_tasks_in(name):
    text = (GIN.parent / "original" / name).read_text()
    return re.findall(r'"((?:quail|cosmos|dream|cos_e|rotten)\w[\w.]+)"', text)


def test_an_expert_of_other_rows_is_named():
    def columns(count):
        return {("data", "task"): statistics.Column(np.arange(count), np.zeros(count))}

    experts = {"one": columns(3), "two": columns(3), "three": columns(2)}
    with pytest.raises(errors.DataError, match="three scored on other rows than one"):
        merging_study_table._average(experts)
