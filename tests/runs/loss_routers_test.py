"""The router by the loss on inputs takes what a plain program finds, also untrained."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import span_corruption, token_store
from elm_jax.evaluation import row_lines
from elm_jax.model import t5
from elm_jax.runs import candidates, loaded, loss_routers
from tests.runs import toy
from tests.runs.evaluated import evaluation, score_store

pytestmark = pytest.mark.usefixtures("toy_tasks")

TASKS = ("plain_ask", "written_ask")
BY_LOSS = ("base", loss_routers.ByInputLoss())


@pytest.fixture
def folder(routers_folder, tmp_path):
    return shutil.copytree(routers_folder, tmp_path / "folder")


def scored(folder, **changes):
    retrieval = dataclasses.replace(toy.ask(folder), tasks=TASKS)
    settings = {"tasks": TASKS, "retrieval": retrieval, "strategies": BY_LOSS}
    return evaluation(folder, **(settings | changes))


def chosen_experts(folder):
    rows = row_lines.read_rows(folder / "results.jsonl")
    return {row.task: [*row.experts] for row in rows if row.expert == "by_input_loss"}


def naive_loss(params, config, example):
    """The mean over tokens of a row's loss, by one plain pass of the model."""
    targets = jnp.asarray(example.targets)[np.newaxis]
    before = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    model = t5.T5(config)
    logits = model.apply({"params": params}, example.inputs[np.newaxis], before)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(log_probs, targets[..., np.newaxis], 2)
    return -float(chosen.mean())


@pytest.mark.slow
def test_the_expert_with_the_lowest_loss_is_scored_also_where_answers_are_written(
    folder, capsys
):
    scored(folder).run()
    base = loaded.Base.load(folder / "base")
    retrieval = toy.ask(folder)
    pieces = retrieval.data.opened(str).vocabulary
    for question in retrieval.ask(retrieval, TASKS, retrieval.data):
        spans = span_corruption.missing_spans(
            question.dataset, question.rows, vocabulary=pieces, seed=0
        )
        losses = {}
        for name, place in question.experts.items():
            params, adapter = candidates.Candidate(name, (place,)).load(base)
            assert adapter is None
            rows = [naive_loss(params, base.config, example) for example in spans]
            losses[name] = np.mean(rows)
        assert abs(losses["plain"] - losses["twice"]) > 1e-3  # else luck decides
        best = min(losses, key=losses.__getitem__)
        assert chosen_experts(folder)[question.task] == [best]
    capsys.readouterr()
    scored(folder).run()  # what is kept is not scored again
    assert "to score: 0" in capsys.readouterr().out


@pytest.mark.slow
def test_neither_labels_nor_answers_are_read(folder, monkeypatch):
    scored(folder).run()
    before = {row.per_example_sha256 for row in score_store(folder).rows()}
    chosen = chosen_experts(folder)
    shutil.rmtree(folder / "library" / "behaviour")
    plain = token_store.TokenizedDataset.__getitem__

    def with_others(self, row):
        example = plain(self, row)
        if example.answer_choices == "the missing spans":
            return example
        return example._replace(
            label=(example.label + 1) % max(len(example.choices), 1),
            targets=np.array([9, 1], np.int32),
            choices=tuple(np.array([9, *x], np.int32) for x in example.choices),
        )

    with monkeypatch.context() as patched:
        patched.setattr(token_store.TokenizedDataset, "__getitem__", with_others)
        scored(folder, results_path="{MODEL_DIR}/other.jsonl").run()
    spans = {row.per_example_sha256 for row in score_store(folder).rows()}
    assert len(spans) == 2  # of two experts: both tasks have the same inputs
    assert spans <= before
    rows = row_lines.read_rows(folder / "other.jsonl")
    again = {row.task: [*row.experts] for row in rows if row.expert == "by_input_loss"}
    assert again == chosen


def test_a_plan_counts_the_experts_that_read_inputs(folder):
    plan = scored(folder).plan()
    expected = (
        "2 experts on inputs with missing spans on 2 rows of each of 2 tasks: 8 rows"
    )
    assert expected in str(plan["routing"])
    several = (*BY_LOSS, *evaluation(folder).strategies[1:2])
    plan = scored(
        folder,
        tasks=("plain_ask",),
        strategies=several,
        retrieval=toy.ask(folder, tasks=("plain_ask",)),
    ).plan()
    expected = "2 experts and the base and 2 experts on inputs with missing spans"
    assert expected in str(plan["routing"])
    assert "10 rows at most" in str(plan["routing"])
    two = (*BY_LOSS, loss_routers.ByInputLoss(random_seed=1, name="again"))
    expected = "4 experts on inputs with missing spans"
    assert expected in str(scored(folder, strategies=two).plan()["routing"])


def test_too_few_sentinels_are_refused_before_anything_is_scored(folder, capsys):
    lengths = {"inputs": 64, "targets": 12}  # inputs that miss three spans
    few = dataclasses.replace(toy.DATA, extra_ids=2, feature_lengths=lengths)
    retrieval = dataclasses.replace(toy.ask(folder), tasks=TASKS, data=few)
    with pytest.raises(errors.ConfigError, match="sentinel"):
        scored(folder, data=few, retrieval=retrieval).plan()
    assert "to score" not in capsys.readouterr().out


def test_another_seed_is_another_choice_of_spans_and_another_row():
    first, second = loss_routers.ByInputLoss(), loss_routers.ByInputLoss(random_seed=1)
    assert first.settings == "" != second.settings
