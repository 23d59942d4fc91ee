"""Token routing as a strategy: records of experts, and scores of their mixtures."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import manifest
from elm_jax.evaluation import result_store
from elm_jax.routing import input_routers, token_routers
from elm_jax.runs import (
    bases,
    loaded,
    routed_tokens,
    routing_records,
)
from tests.runs import scored, toy
from tests.runs.routed import SETTINGS, chosen, observer, save_expert

ROUTERS = {
    "fixed": token_routers.Fixed(),
    "arrow": token_routers.Arrow(top_k=1),
    "effect_norm": token_routers.EffectNorm(),
    "calibrated_norm": token_routers.CalibratedNorm(),
    "mean_activation": token_routers.MeanActivation(),
    "gates": token_routers.Gates(),
    "logo": input_routers.Logo(top_k=1),
}


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of two prompt experts, observed."""
    folder = tmp_path_factory.mktemp("routed")
    with scored.registered():
        toy.make_library(folder, save_expert)
        observer(folder).run()
    return folder


def strategy(router, **changes):
    return routed_tokens.RoutedTokens(
        router=router, record_settings=SETTINGS, **changes
    )


@pytest.mark.slow
def test_every_router_is_scored_by_elm_eval_and_not_scored_again(folder, capsys):
    few = strategy(ROUTERS["arrow"], only_chosen=True)
    strategies = (*map(strategy, ROUTERS.values()), few)
    run = toy.score(folder, experts=(), strategies=("base", *strategies))
    run.plan()
    run.run()
    store = result_store.ResultStore(run.path(run.results_path))
    rows = [row for row in store.rows() if row.metric == "accuracy"]
    row_of = {row.expert: row for row in rows}
    assert {*row_of} == {"base", *(router.label for router in strategies)}
    scores = {(row.expert, row.task): store.per_example(row)["scores"] for row in rows}
    for task in toy.TASKS:  # sums of another order
        np.testing.assert_allclose(
            scores[few.label, task], scores["tokens_by_arrow", task], rtol=1e-5
        )
    for label, row in row_of.items():
        if label != "base":
            assert row.strategy == "routed_tokens"
            assert [*row.experts] == ["plain", "twice"]
            assert row.kind == "strategy"
    marks = {row.expert_fingerprint for row in row_of.values()}
    assert len(marks) == len(row_of)  # every router is another model
    capsys.readouterr()
    run.run()
    assert "to score: 0" in capsys.readouterr().out


def test_routers_with_records_of_two_folders_do_not_share_parameters(tmp_path):
    def of(router, name):
        return dataclasses.replace(
            chosen(tmp_path, router), records_dir=tmp_path / name
        )

    first, second = (
        of(token_routers.Gates(), name) for name in ("train", "validation")
    )
    assert first.origin != second.origin
    assert first.origin_text != second.origin_text
    first, second = (
        of(token_routers.Arrow(), name) for name in ("train", "validation")
    )
    assert first.origin == second.origin  # which reads none


@pytest.mark.parametrize("name", [*ROUTERS])
def test_records_are_settings_of_the_routers_that_read_them(name):
    plain = routed_tokens.RoutedTokens(router=ROUTERS[name])
    records = routing_records.Settings(reads="sub_layer")
    elsewhere = dataclasses.replace(plain, records_dir="/else", record_settings=records)
    reads = name in ("calibrated_norm", "mean_activation", "gates")
    assert (elsewhere.settings != plain.settings) == reads
    assert (elsewhere.label != plain.label) == reads


@pytest.mark.slow
def test_one_expert_alone_scores_as_itself(folder):
    base = loaded.Base.load(folder / "base")
    expert = loaded.Expert.load(folder / "experts" / "plain")
    params, spec = chosen(folder, token_routers.Fixed(), ("plain",)).load(base)
    inputs = np.arange(2, 14, dtype=np.int32).reshape(2, 6)
    alone = bases.build_model(base.config, expert.adapter)
    mixed = bases.build_model(base.config, spec)
    expected = jax.jit(alone.apply)(
        {"params": base.with_expert(expert)}, inputs, inputs
    )
    mixture = jax.jit(mixed.apply)({"params": params}, inputs, inputs)
    np.testing.assert_array_equal(mixture, expected)


@pytest.mark.slow
def test_layer_norms_are_the_mean_or_those_of_the_retrieved_expert(folder):
    base = loaded.Base.load(folder / "base")
    experts = {
        name: loaded.Expert.load(folder / "experts" / name).params
        for name in ("plain", "twice")
    }
    norms = {
        n: trees.flatten(trees.split(p, "_adapter/")[1]) for n, p in experts.items()
    }
    candidate = chosen(folder, token_routers.Fixed())
    mean = trees.flatten(candidate.load(base)[0])
    retrieved = dataclasses.replace(candidate, norms_of="twice")
    retrieved_leaves = trees.flatten(retrieved.load(base)[0])
    assert norms["plain"]
    for name, leaf in norms["twice"].items():
        np.testing.assert_array_equal(retrieved_leaves[name], leaf)
        both = (np.asarray(leaf) + np.asarray(norms["plain"][name])) / 2
        np.testing.assert_allclose(mean[name], both, rtol=1e-6)
    assert {n for n in mean if "_adapter/" in n} == {
        n for n in retrieved_leaves if "_adapter/" in n
    }
    assert retrieved.fingerprint != candidate.fingerprint
    by_retrieved = strategy(token_routers.Arrow(), norms="retrieved")
    assert by_retrieved.label == "tokens_by_arrow_norms_retrieved"
    assert by_retrieved.settings != strategy(token_routers.Arrow()).settings


@pytest.mark.slow
def test_records_of_what_goes_into_sub_layers_lie_beside_the_others(folder):
    """And scores of routers from before there was a choice are still known."""
    info = manifest.read_manifest(folder / "experts" / "plain")
    before_sub_layers = dataclasses.replace(SETTINGS, reads="sub_layer")
    places = [
        routing_records.folder_of(folder / "library" / "routing", info, settings)
        for settings in (SETTINGS, before_sub_layers)
    ]
    assert places[0] != places[1]
    assert (
        "reads"
        not in json.loads((places[0] / "record.json").read_text("utf-8"))["recipe"][
            "settings"
        ]
    )
    plain = chosen(folder, token_routers.Gates())
    assert "reads" not in plain.origin_text
    seen = dataclasses.replace(plain, record_settings=before_sub_layers)
    assert "reads='sub_layer'" in seen.origin_text
    named = routed_tokens.RoutedTokens(
        router=token_routers.Gates(), record_settings=before_sub_layers
    )
    assert named.label == "tokens_by_gates_reading_sub_layer"
    arrow = dataclasses.replace(named, router=token_routers.Arrow())
    assert arrow.label == "tokens_by_arrow"  # which needs no records


@pytest.mark.slow
def test_shuffled_gates_are_those_of_the_expert_that_is_half_of_all_away(folder):
    """Of two pairs of siblings nobody keeps its own, or has a sibling's."""
    base = loaded.Base.load(folder / "base")
    siblings = ("plain", "plain", "twice", "twice")
    candidate = chosen(folder, token_routers.Gates(), siblings)
    moved = dataclasses.replace(candidate, shuffled=True)
    plain, of_shuffled = (
        trees.flatten(choice.load(base)[0]) for choice in (candidate, moved)
    )
    gates = [name for name in plain if "/router/" in name]
    assert gates
    for name, leaf in plain.items():
        expected = leaf[:, [2, 3, 0, 1]] if name in gates else leaf
        np.testing.assert_array_equal(of_shuffled[name], expected)
    assert moved.fingerprint != candidate.fingerprint
    shuffled = strategy(token_routers.Gates(), shuffled=True)
    assert shuffled.label == "shuffled_tokens_by_gates"
    with pytest.raises(errors.ConfigError, match="shuffled"):
        strategy(token_routers.EffectNorm(), shuffled=True)
    single = chosen(folder, token_routers.Gates(), ("plain",))
    with pytest.raises(errors.ConfigError, match="plain alone"):
        dataclasses.replace(single, shuffled=True).load(base)


@pytest.mark.slow
def test_a_plan_says_where_a_router_chooses_all_experts(folder):
    names = ("plain", "twice")
    infos = [manifest.read_manifest(folder / "experts" / name) for name in names]
    costs = [
        strategy(input_routers.Logo(top_k=top_k)).costs(scored.SHAPE, infos)
        for top_k in (1, 2, 20, -1)
    ]
    assert ["chooses all" in cost for cost in costs] == [False, True, True, False]


@pytest.mark.slow
def test_observing_again_does_nothing_and_a_new_expert_is_added(
    folder, tmp_path, capsys
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    records = copy / "library" / "routing"
    before = {path: path.read_bytes() for path in records.rglob("*") if path.is_file()}
    observer(copy).run()
    assert "finished already" in capsys.readouterr().out
    save_expert(copy, "signs", 3)
    toy.build(copy, experts=("{MODEL_DIR}/experts/signs",)).run()
    assert observer(copy).plan()["observed already"] == 2
    observer(copy).run()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len([*records.iterdir()]) == 3


@pytest.mark.slow
def test_a_router_without_its_records_says_how_to_make_them(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "library" / "routing")
    base = loaded.Base.load(copy / "base")
    chosen(copy, token_routers.Arrow()).load(base)  # which needs none
    with pytest.raises(errors.LibraryError, match="elm_library"):
        chosen(copy, token_routers.Gates()).load(base)


@pytest.mark.slow
def test_records_of_other_rows_are_refused_and_make_another_candidate(folder, tmp_path):
    """Of rows that are cut; lengths that cut none give the same arrays."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    shorter = dataclasses.replace(toy.DATA, feature_lengths={"inputs": 5, "targets": 8})
    again = observer(copy, data=shorter)
    with pytest.raises(errors.LibraryError, match="records_dir"):
        again.run()
    marks = {chosen(copy, token_routers.Gates()).fingerprint}
    shutil.rmtree(copy / "library" / "routing")
    again.run()
    marks.add(chosen(copy, token_routers.Gates()).fingerprint)
    assert len(marks) == 2


@pytest.mark.slow
def test_a_damaged_record_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    base = loaded.Base.load(copy / "base")
    (arrays, *_) = sorted((copy / "library" / "routing").glob("plain*/arrays.npz"))
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(errors.LibraryError, match="changed after it was written"):
        chosen(copy, token_routers.Gates()).load(base)


@pytest.mark.slow
def test_another_expert_of_the_same_name_has_no_record(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "experts" / "plain")
    save_expert(copy, "plain", 9)
    base = loaded.Base.load(copy / "base")
    with pytest.raises(errors.LibraryError, match="no record of expert 'plain'"):
        chosen(copy, token_routers.Gates()).load(base)


@pytest.mark.slow
def test_experts_without_adapters_are_refused_before_anything_is_scored(tmp_path):
    scored.save_base(tmp_path)
    toy.save_expert(tmp_path, "plain", 1)
    toy.build(tmp_path, experts=("{MODEL_DIR}/experts/plain",)).run()
    with pytest.raises(errors.ConfigError, match="has no adapters"):
        observer(tmp_path).plan()
    run = toy.score(tmp_path, experts=(), strategies=(strategy(ROUTERS["arrow"]),))
    with pytest.raises(errors.ConfigError, match="has no adapters"):
        run.run()


@pytest.mark.slow
def test_a_record_is_a_sealed_object(folder):
    for path in (folder / "library" / "routing").rglob("record.json"):
        record = json.loads(path.read_text("utf-8"))
        assert record["recipe"]["settings"]["gate_steps"] == 3
        assert record["digest"]


@pytest.mark.slow
def test_records_lie_with_the_library_that_is_asked(folder, tmp_path):
    """Of two libraries of the same experts, one was observed."""
    where = str(tmp_path / "other")
    toy.build(folder, library_dir=where).run()
    gates = strategy(token_routers.Gates())
    retrieval = toy.ask(folder, library_dir=where)
    run = toy.score(folder, experts=(), strategies=("base", gates), retrieval=retrieval)
    with pytest.raises(errors.LibraryError, match=r"other.routing"):
        run.run()
    assert observer(folder, library_dir=where).plan()["observed already"] == 0
    assert observer(folder).plan()["observed already"] == 2
    elsewhere = dataclasses.replace(gates, records_dir="{MODEL_DIR}/library/routing")
    dataclasses.replace(run, strategies=("base", elsewhere)).run()
