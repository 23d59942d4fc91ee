"""What experts make of the rows that ask is kept, and scored once."""

import dataclasses
import shutil

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import token_store
from elm_jax.evaluation import row_lines
from elm_jax.runs import (
    candidates,
    loaded,
    placement,
    routers,
    scorer,
    shards,
)
from tests.runs import toy
from tests.runs.evaluated import STRATEGIES, evaluation, score_store

pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture
def folder(routers_folder, tmp_path):
    return shutil.copytree(routers_folder, tmp_path / "folder")


@pytest.mark.slow
def test_another_router_and_another_run_score_nothing_again(folder, capsys):
    before = {p: p.read_bytes() for p in (folder / "library").rglob("*") if p.is_file()}
    more = (*STRATEGIES, routers.ByBehaviour(statistic="gain"))
    evaluation(folder, strategies=more).run()
    shown = capsys.readouterr().out
    assert "to score: 0; scored already: 6" in shown  # two tasks, base and two experts
    after = {p: p.read_bytes() for p in (folder / "library").rglob("*") if p.is_file()}
    assert after == before


@pytest.mark.slow
def test_an_expert_that_lands_is_scored_and_the_others_are_not(folder, capsys):
    rows = score_store(folder).rows()
    toy.save_expert(folder, "signs", 3)
    toy.build(folder, experts=("{MODEL_DIR}/experts/signs",)).run()
    capsys.readouterr()
    evaluation(folder).run()
    assert "to score: 2; scored already: 6" in capsys.readouterr().out
    assert score_store(folder).rows()[: len(rows)] == rows
    assert {row.expert for row in score_store(folder).rows()[len(rows) :]} == {"signs"}


@pytest.mark.slow
def test_after_a_kill_only_the_rest_is_scored(folder, capsys):
    path = score_store(folder).path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:40])
    evaluation(folder).run()
    assert "to score: 2; scored already: 4" in capsys.readouterr().out
    assert len(score_store(folder).rows()) == 6


@pytest.mark.slow
def test_scores_that_were_altered_are_refused(folder):
    (path,) = (folder / "library" / "behaviour" / "per_example").glob("*.arrow")
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(bytes(content))
    strategy = routers.ByBehaviour(statistic="mass")
    with pytest.raises(errors.DataError, match="per_example"):
        evaluation(folder, strategies=(strategy,)).run()


@pytest.mark.slow
def test_other_rows_another_base_and_another_expert_are_scored_anew(folder, capsys):
    retrieval = dataclasses.replace(toy.ask(folder), random_seed=9, num_queries=3)
    evaluation(folder, retrieval=retrieval).run()
    assert "to score: 6; scored already: 0" in capsys.readouterr().out
    cells = {row.scoring for row in score_store(folder).rows()}
    assert len(cells) == 4  # two tasks, each with two sets of rows
    marks = {(row.expert, row.expert_fingerprint) for row in score_store(folder).rows()}
    assert len(marks) == 3


@pytest.mark.slow
def test_labels_are_never_read(folder, monkeypatch):
    """With every label another one, all that is kept is the same to the byte."""
    before = {row.per_example_sha256 for row in score_store(folder).rows()}
    shutil.rmtree(folder / "library" / "behaviour")
    plain = token_store.TokenizedDataset.__getitem__

    def wrong(self, row):
        example = plain(self, row)
        return example._replace(label=(example.label + 1) % len(example.choices))

    monkeypatch.setattr(token_store.TokenizedDataset, "__getitem__", wrong)
    evaluation(folder, results_path="{MODEL_DIR}/other.jsonl").run()
    assert {row.per_example_sha256 for row in score_store(folder).rows()} == before
    monkeypatch.undo()
    kinds = {
        name
        for row in score_store(folder).rows()
        for name in score_store(folder).per_example(row)
    }
    assert kinds == {"example_ids", "choices", "scores"}


@pytest.mark.slow
def test_scores_by_token_of_an_evaluation_do_not_change_what_routers_see(
    folder, capsys
):
    evaluation(folder, length_normalized=True).run()
    assert "to score: 0; scored already: 6" in capsys.readouterr().out


def test_a_plan_tells_what_routing_costs(folder):
    plan = evaluation(folder).plan()
    assert "2 experts and the base on 2 rows of each of 2 tasks: 12 rows" in str(
        plan["routing"]
    )
    assert "FLOPs" in str(plan["routing costs, about"])
    assert "routing" not in evaluation(folder, strategies=("retrieved",)).plan()


def test_comparing_answers_where_there_are_none_is_refused_before_anything_is_scored(
    folder, capsys
):
    retrieval = dataclasses.replace(toy.ask(folder), tasks=("written_ask",))
    with pytest.raises(errors.ConfigError, match="written_ask"):
        evaluation(folder, tasks=("written_ask",), retrieval=retrieval).run()
    assert "to score" not in capsys.readouterr().out


@pytest.mark.slow
def test_where_tasks_have_no_choices_experts_are_routed_by_what_they_write(
    folder, capsys
):
    """By a plain program: greedy answers, tokenised again, each scored alone.

    Those that were cut at the greatest length have no end, are counted, and told.
    """
    retrieval = dataclasses.replace(toy.ask(folder), tasks=("written_ask",))
    behaviour_routers = tuple(
        routers.ByBehaviour(statistic=name)
        for name in ("log_prob", "log_prob_per_token")
    )
    run = evaluation(
        folder,
        tasks=("written_ask",),
        retrieval=retrieval,
        strategies=("base", *behaviour_routers),
    )
    run.run()
    base = loaded.Base.load(folder / "base")
    (question,) = retrieval.ask(retrieval, ("written_ask",), retrieval.data)
    data = retrieval.data.opened(str)
    program = scorer.Scorer(base, data, batch_size=8, where=placement.Placement())
    means, cut = {}, {}
    for name, place in question.experts.items():
        params, adapter = candidates.Candidate(name, (place,)).load(base)
        params, scores = program.place(params), []
        for row in question.rows:
            example = question.dataset[row]
            (text,), (is_cut,) = program.write(params, adapter, [example])
            cut.setdefault(name, []).append(is_cut)
            ids = data.vocabulary.encode(text)
            tokens = np.array(ids if is_cut else [*ids, 1], np.int32)
            only = example._replace(choices=(tokens,), choices_text=(text,), label=0)
            score = program.rank(params, adapter, [only]).scores[0][0]
            scores.append((score, score / len(tokens)))
        means[name] = np.mean(scores, axis=0)
    assert np.abs(means["plain"] - means["twice"]).min() > 1e-4  # else luck decides
    rows = row_lines.read_rows(folder / "results.jsonl")
    for place, router in enumerate(behaviour_routers):
        best = max(means, key=lambda name, place=place: means[name][place])
        chosen = [row.experts for row in rows if row.expert == router.label]
        assert chosen
        assert all([*experts] == [best] for experts in chosen)
    before = score_store(folder).rows()
    shares = {r.expert: r.answers_cut for r in before if r.task == "written_ask"}
    assert shares == {name: 100 * np.mean(cuts) for name, cuts in cut.items()}
    assert max(shares.values()) > 0
    mean = np.mean([*shares.values()])
    assert f"{mean:.0f} % of the answers that experts wrote" in capsys.readouterr().out
    run.run()
    assert score_store(folder).rows() == before


def test_shards_add_to_a_librarys_scores_only_where_files_can_be_locked(
    folder, monkeypatch
):
    def refuse(_):
        raise NotImplementedError("no locks")

    of_shard = str(folder / "results_0_of_2.jsonl")
    evaluation(folder, shard="0/2", results_path=of_shard).plan()
    monkeypatch.setattr(shards.locks, "try_take", refuse)
    evaluation(folder).plan()
    by_votes = {"strategies": ("base", "retrieved"), "results_path": of_shard}
    evaluation(folder, shard="0/2", **by_votes).plan()
    with pytest.raises(errors.ConfigError, match=r"behaviour.scores\.jsonl"):
        evaluation(folder, shard="0/2", results_path=of_shard).plan()
    with pytest.raises(errors.ConfigError, match="Copy the library"):
        evaluation(folder, shard="0/2", results_path=of_shard).run()
