"""Races in an evaluation: the same best expert as on all rows, for less work."""

import collections
import dataclasses

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import experts, manifest
from elm_jax.evaluation import racing, result_store, row_lines
from elm_jax.model import t5
from tests.runs import scored

pytestmark = pytest.mark.slow

NAMES = tuple(f"expert_{seed}" for seed in range(1, 7))
RACE = racing.Racing(first_rows=16)


def save_experts(folder):
    for seed, name in enumerate(NAMES, 1):
        save_expert(folder / "experts" / name, seed=seed)


def save_expert(folder, *, seed, kind="dataset", root=None, training_seed=0):
    base = manifest.read_manifest((root or folder.parents[1]) / "base")
    params = t5.init_params(t5.T5(scored.SHAPE), seed=seed)
    info = dataclasses.replace(
        base,
        name=folder.name,
        kind=kind,
        base_fingerprint=base.base_fingerprint,
        tasks=("plain_ask",),
        steps=1,
        seed=training_seed,
    )
    experts.save_expert(folder, params, info)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, six experts of random parameters, all their scores, and a race."""
    path = tmp_path_factory.mktemp("raced")
    with pytest.MonkeyPatch.context() as patch:
        rows = [(f"Row {i} ?", ("dog", "cat"), "dog") for i in range(64)]
        patch.setitem(scored.ROWS, "plain", rows)
        # Nearly all choices are alike in this vocabulary: "<" and ">" are unknown.
        doubtful = [(f"{i} ?", ("<", ">"), "<") for i in range(63)]
        patch.setitem(scored.ROWS, "alike", [*doubtful, ("Row ?", ("yes", "no"), "no")])
        with scored.registered():
            scored.save_base(path)
            save_experts(path)
            run(path, results_path="{MODEL_DIR}/all.jsonl")
            run(path, race=RACE, results_path="{MODEL_DIR}/raced.jsonl")
            yield path


def run(folder, *tasks, **changes):
    fields = {"experts": ("{MODEL_DIR}/experts/*",)} | changes
    scored.score(folder, *(tasks or ("plain",)), **fields)


def accuracies(path):
    return {
        row.expert: row.value
        for row in row_lines.read_rows(path)
        if row.metric == "accuracy"
    }


def test_the_best_are_scored_on_all_rows_and_the_worst_are_not(folder):
    everyone, raced = (accuracies(folder / f"{n}.jsonl") for n in ("all", "raced"))
    single = {name: everyone[name] for name in NAMES}
    assert max(single.values()) > min(single.values()) + 50  # a race that can be won
    best = max(single.values())
    assert raced == {name: everyone[name] for name in raced}
    assert {name for name in NAMES if single[name] == best} <= raced.keys()
    assert len(raced) < len(everyone)
    assert "base" in raced  # is no expert, and does not race


def test_rounds_score_rows_that_are_not_of_other_rounds(folder):
    store = result_store.ResultStore(folder / "raced.race.jsonl")
    ids = {}
    for row in store.rows():
        if row.metric == "accuracy":
            arrays = store.per_example(row, only=("example_ids",))
            ids.setdefault(row.expert, []).extend(arrays["example_ids"].tolist())
    assert ids.keys() == set(NAMES)
    for row_ids in ids.values():
        assert len(row_ids) == len(set(row_ids)) in (16, 32)


def test_a_race_that_is_run_again_scores_nothing(folder, capsys):
    before = [
        (folder / f"raced{end}").read_bytes() for end in (".jsonl", ".race.jsonl")
    ]
    run(folder, race=RACE, results_path="{MODEL_DIR}/raced.jsonl")
    after = [(folder / f"raced{end}").read_bytes() for end in (".jsonl", ".race.jsonl")]
    assert before == after
    printed = capsys.readouterr().out
    assert "races" in printed
    lines = [line for line in printed.splitlines() if "to score" in line]
    assert lines
    assert all(line.startswith("to score: 0;") for line in lines)


def test_a_race_goes_on_where_it_was_stopped(folder):
    whole = (folder / "raced.race.jsonl").read_bytes()
    path = folder / "stopped.race.jsonl"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))
    run(folder, race=RACE, results_path="{MODEL_DIR}/stopped.jsonl")
    raced, stopped = (accuracies(folder / f"{n}.jsonl") for n in ("raced", "stopped"))
    assert raced == stopped


def test_tasks_whose_answers_are_written_and_lone_experts_do_not_race(folder):
    run(folder, "written", race=RACE, results_path="{MODEL_DIR}/written.jsonl")
    rows = row_lines.read_rows(folder / "written.jsonl")
    assert {row.expert for row in rows} == {"base", *NAMES}
    expert = (f"{{MODEL_DIR}}/experts/{NAMES[0]}",)
    run(folder, race=RACE, experts=expert, results_path="{MODEL_DIR}/one.jsonl")
    assert accuracies(folder / "one.jsonl").keys() == {"base", NAMES[0]}


def test_a_round_may_have_only_rows_whose_choices_are_alike(folder):
    run(folder, "alike", race=RACE, results_path="{MODEL_DIR}/alike.jsonl")
    assert accuracies(folder / "alike.jsonl").keys() == {"base", *NAMES}


def test_what_experts_are_compared_with_does_not_race(folder):
    everyone = accuracies(folder / "all.jsonl")
    best, *_, worst = sorted(NAMES, key=lambda name: -everyone[name])
    for name, like, kind in (
        ("all_prompts", worst, "multitask"),
        ("m", best, "merged"),
    ):
        save_expert(folder / "others" / name, seed=1 + NAMES.index(like), kind=kind)
    both = ("{MODEL_DIR}/experts/*", "{MODEL_DIR}/others/*")
    run(folder, race=RACE, experts=both, results_path="{MODEL_DIR}/both.jsonl")
    raced = accuracies(folder / "both.jsonl")
    alone = accuracies(folder / "raced.jsonl")
    assert raced.keys() == {*alone, "all_prompts", "m"}


def test_trainings_of_one_expert_stay_or_go_together_by_their_mean(folder):
    everyone = accuracies(folder / "all.jsonl")
    order = sorted(NAMES, key=lambda name: -everyone[name])
    # The best training is of an expert whose other training is the worst.
    pairs = {"torn": (order[0], order[-1]), "even": (order[1], order[2])}
    pairs["bad"] = (order[-2], order[-1])
    for name, (first, second) in pairs.items():
        for training_seed, like in ((1, first), (2, second)):
            save_expert(
                folder / f"seeds/seed{training_seed}/{name}",
                seed=1 + NAMES.index(like),
                root=folder,
                training_seed=training_seed,
            )
    run(
        folder,
        race=RACE,
        experts=("{MODEL_DIR}/seeds/*/*",),
        results_path="{MODEL_DIR}/seeds.jsonl",
    )
    means = {
        name: sum(everyone[x] for x in trainings) / 2
        for name, trainings in pairs.items()
    }
    assert max(means, key=means.__getitem__) == "even"
    assert means["even"] > means["bad"] + 50
    rows = result_store.ResultStore(folder / "seeds.jsonl").rows()
    counts = collections.Counter(
        row.expert for row in rows if row.metric == "accuracy" and row.is_expert
    )
    assert set(counts.values()) == {2}
    assert "even" in counts
    assert "bad" not in counts


def test_a_race_of_a_shard_is_refused(folder):
    with pytest.raises(errors.ConfigError, match="(?s)shard.*needs all experts"):
        run(folder, race=RACE, shard="0/2")


def test_the_order_of_rows_depends_on_seed_and_task_only():
    rows = list(range(40))
    orders = [racing.order(rows, seed=[seed, key]) for seed in (1, 2) for key in (3, 4)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(np.array_equal(np.sort(order), rows) for order in orders)
