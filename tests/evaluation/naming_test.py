"""Each expert has one name in a table, and no table mixes what cannot be compared."""

import pytest

from elm_jax import errors, expert_kinds
from elm_jax.evaluation import naming, results, selection
from elm_jax.reporting import marks
from tests.evaluation.made_rows import PROMPT, changed

LORA = changed(
    expert_fingerprint="bbbbbbbbbbbbbbbb", source="lora_experts/reviews", value=40.0
)


def test_experts_that_share_no_name_keep_theirs():
    topics = changed(expert="topics", expert_fingerprint="c", source="x/topics")
    assert naming.told_apart([PROMPT, topics]) == [PROMPT, topics]


def test_experts_of_one_name_are_told_by_their_folders():
    rows = naming.told_apart([PROMPT, LORA])
    assert [(row.expert, row.value) for row in rows] == [
        ("reviews (prompt_experts)", 60.0),
        ("reviews (lora_experts)", 40.0),
    ]
    # Nothing else of the row changes, and its scores on disk are found as before.
    assert changed(rows[0], expert="reviews") == PROMPT


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"training_seed": 7}, "(prompt_experts, seed 7, 100 steps)"),
        ({"checkpoint_step": 9}, "(prompt_experts, seed 1, 9 steps)"),
        ({}, "(prompt_experts, seed 1, 100 steps, bbbbbbbb)"),
    ],
)
def test_where_folders_are_called_alike_seed_steps_and_fingerprint_tell(
    changes, expected
):
    twin = changed(
        LORA, source="elsewhere/prompt_experts/reviews", **changes, value=1.0
    )
    rows = naming.told_apart([PROMPT, twin])
    assert rows[1].expert == f"reviews {expected}"
    assert len({row.expert for row in rows}) == 2


def test_an_expert_that_was_trained_again_replaces_the_old_one_on_all_tasks():
    old = [PROMPT, changed(task="senses_other", prompt="other")]
    again = changed(expert_fingerprint="dddddddddddddddd", value=70.0)
    assert naming.newest([*old, again]) == [again]


def test_experts_of_one_name_in_two_folders_do_not_replace_each_other():
    assert naming.newest([PROMPT, LORA]) == [PROMPT, LORA]


def test_of_a_strategy_the_newest_row_of_each_task_counts():
    strategy = {"expert": "retrieved", "kind": "strategy", "source": ""}
    old = changed(**strategy)
    other_task = changed(**strategy, task="senses_other")
    new = changed(**strategy, expert_fingerprint="ffff", value=90.0)
    assert naming.newest([old, other_task, new]) == [other_task, new]


def test_an_expert_of_two_folders_is_one_and_lives_while_one_of_them_has_it():
    copy = changed(source="copies/reviews", task="senses_other", prompt="other")
    assert naming.newest([PROMPT, copy]) == [PROMPT, copy]
    assert {row.expert for row in naming.told_apart([PROMPT, copy])} == {"reviews"}
    again = changed(expert_fingerprint="dddddddddddddddd", value=70.0)
    assert naming.newest([PROMPT, copy, again]) == [PROMPT, copy, again]


def test_an_expert_that_lies_in_its_folder_again_counts_although_it_is_older():
    again = changed(expert_fingerprint="dddddddddddddddd", value=70.0)
    folder = (PROMPT.expert, PROMPT.source)
    assert naming.newest([PROMPT, again], {folder: "aaaaaaaaaaaaaaaa"}) == [PROMPT]
    assert naming.newest([again, PROMPT], {folder: "dddddddddddddddd"}) == [again]
    # What lies there and was never scored replaces nothing.
    assert naming.newest([PROMPT, again], {folder: "eeeeeeeeeeeeeeee"}) == [again]


def test_an_expert_of_another_base_replaces_none_in_the_same_folder():
    on_another_base = changed(
        base_fingerprint="another", expert_fingerprint="dddddddddddddddd"
    )
    assert naming.newest([PROMPT, on_another_base]) == [PROMPT, on_another_base]


@pytest.mark.parametrize(
    ("field", "value"),
    [("base_fingerprint", "another"), ("vocabulary", "w"), ("seed", 43)],
)
def test_rows_of_any_tasks_that_no_mean_may_mix_are_refused_by_field(field, value):
    naming.check_comparable([PROMPT, LORA], [])
    for task in (PROMPT.task, "another"):
        incomparable = changed(expert="topics", task=task, **{field: value})
        with pytest.raises(errors.DataError, match=f"with {field} .*{value}"):
            naming.check_comparable(
                [PROMPT, incomparable], [[PROMPT.task], ["another"]]
            )


def test_tasks_of_a_table_have_one_protocol_by_one_metric():
    another = changed(task="another", protocol="elm")
    rows, table = [PROMPT, another], [PROMPT.task, "another"]
    with pytest.raises(errors.DataError, match="with protocol 'default' .*'elm'"):
        naming.check_comparable(rows, [table])
    # One task is ranked, another is written; or they are in tables of their own.
    naming.check_comparable([PROMPT, changed(another, metric="rougeL")], [table])
    naming.check_comparable(rows, [table[:1], table[1:]])


def test_rows_of_release_0_1_have_the_vocabulary_of_their_base():
    old = changed(expert="topics", kind="", vocabulary="", protocol="elm")
    naming.check_comparable([PROMPT, old], [[PROMPT.task]])
    with pytest.raises(errors.DataError, match="with base_fingerprint"):
        naming.check_comparable([PROMPT, changed(old, base_fingerprint="b")], [])


@pytest.mark.parametrize("kind", ["merged", "multitask"])
def test_a_methods_expert_is_no_oracle_and_no_best_single(kind):
    best = changed(expert="mine", expert_fingerprint="m", kind=kind, value=99.0)
    singles = selection.single_experts([PROMPT, LORA, best])
    assert best not in singles
    assert best.is_expert
    assert selection.oracle(singles[:1]) == {"senses_same": "reviews"}


def test_a_new_kind_is_chosen_among_as_the_list_of_kinds_says(monkeypatch):
    new = changed(kind="control")
    assert new.is_single_expert
    monkeypatch.setattr(
        expert_kinds, "ROLES", {**expert_kinds.ROLES, "control": "selection"}
    )
    assert (new.role, new.is_single_expert) == ("selection", False)


def test_rows_of_release_0_1_tell_no_kind_and_are_known_by_their_labels():
    old = changed(kind="", source="", vocabulary="", training_seed=None)
    assert old.is_single_expert
    for label in results.STRATEGIES:
        assert not changed(old, expert=label).is_single_expert


def test_rows_of_release_0_1_give_way_to_those_of_the_same_name_and_task():
    old = changed(kind="", source="", vocabulary="", protocol="elm", value=50.0)
    elsewhere = changed(old, task="senses_other", prompt="other")
    assert naming.newest([old, elsewhere, PROMPT]) == [elsewhere, PROMPT]


def test_no_expert_is_called_as_a_strategy_but_the_multitask_one():
    naming.check_is_no_label("multitask", "multitask")
    naming.check_is_no_label("reviews", "prompt")
    for label in results.STRATEGIES:
        with pytest.raises(errors.ConfigError, match="stands for no strategy"):
            naming.check_is_no_label(label, "merged")


RETRIEVED = changed(
    expert="retrieved",
    kind="strategy",
    strategy="retrieved",
    source="",
    library="l",
    experts={"reviews": PROMPT.expert_fingerprint},
)


def test_a_strategy_has_a_row_of_each_training_seed_of_its_library():
    second = changed(RETRIEVED, training_seed=2, expert_fingerprint="b")
    again = changed(second, value=90.0)
    assert naming.newest([RETRIEVED, second, again]) == [RETRIEVED, again]


@pytest.mark.parametrize("library", ["grown", ""])
def test_rows_of_another_library_replace_those_of_all_seeds(library):
    second = changed(RETRIEVED, training_seed=2, expert_fingerprint="b")
    newer = changed(RETRIEVED, library=library, value=90.0)
    assert naming.newest([RETRIEVED, second, newer]) == [newer]
    assert naming.newest([newer, RETRIEVED, second]) == [RETRIEVED, second]


def test_a_seed_whose_experts_were_trained_again_is_no_further_training():
    again = changed(expert_fingerprint="dddddddddddddddd", training_seed=2)
    experts = {"reviews": again.expert_fingerprint}
    newer = changed(RETRIEVED, training_seed=2, experts=experts)
    assert naming.newest([PROMPT, RETRIEVED, again, newer]) == [again, newer]


def test_the_old_training_of_one_seed_is_not_averaged_with_those_of_others():
    """The expert of the second seed was trained again, its library not yet scored."""
    of_first_seed = changed(source="seed1/reviews", expert_fingerprint="a")
    old = changed(source="seed2/reviews", expert_fingerprint="b", training_seed=2)
    again = changed(old, expert_fingerprint="c")
    chose = [
        changed(RETRIEVED, experts={"reviews": fingerprint}, training_seed=seed)
        for seed, fingerprint in ((1, "a"), (2, "b"))
    ]
    assert naming.newest([of_first_seed, old, *chose, again]) == [
        of_first_seed,
        chose[0],
        again,
    ]


def scored_by(library, seed, *tasks):
    return [
        changed(RETRIEVED, library=library, training_seed=seed, task=task, value=seed)
        for task in tasks
    ]


def test_libraries_that_are_scored_side_by_side_lose_no_training_of_the_newest():
    """Two people add to one file: to the library as it was, and as it has grown."""
    before = [scored_by("old", seed, "a", "b") for seed in (1, 2, 3)]
    grown = [scored_by("grown", seed, "a", "b") for seed in (1, 2)]
    # Whoever writes last, one library counts on all tasks, with all of its seeds.
    order = [*before[0], *grown[0], *before[1], *grown[1], *before[2]]
    newest = naming.newest(order)
    assert sorted(newest, key=order.index) == [*grown[0], *grown[1]]


def test_a_library_that_is_scored_in_part_does_not_replace_a_whole_one():
    before = [scored_by("old", seed, "a", "b") for seed in (1, 2, 3)]
    part = scored_by("grown", 1, "a")
    every = [row for of_seed in before for row in of_seed]
    assert naming.newest([*every, *part]) == every
    rest = scored_by("grown", 1, "b")
    assert naming.newest([*every, *part, *rest]) == [*part, *rest]


def test_rows_of_several_seeds_are_marked_if_one_of_them_was_trained_on_them():
    seeds = [
        changed(training_seed=1, overlap_unknown=0),
        changed(training_seed=2, overlap=0.0, overlap_unknown=0),
        changed(training_seed=3, overlap=4.0, overlap_unknown=2),
    ]
    (row,) = naming.averaged(seeds)
    assert (row.overlap, row.overlap_unknown) == (4.0, 2)
    assert marks.of_scores([row]) == marks.OVERLAP
    (row,) = naming.averaged([changed(), changed(training_seed=2)])
    assert (row.overlap, row.overlap_unknown) == (None, None)
