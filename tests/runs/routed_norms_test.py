"""Layer norms of prompt experts as a strategy routes them."""

import dataclasses
import shutil

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.evaluation import result_store
from elm_jax.peft import expert_parts
from elm_jax.routing import input_routers, token_routers
from elm_jax.runs import loaded, routed_tokens, routing_records
from tests.runs import scored, toy
from tests.runs.routed import SETTINGS, check_is_expert, chosen, observer, save_expert

SUB_LAYER = dataclasses.replace(SETTINGS, reads="sub_layer")
NAMES = "plain", "twice"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toy_tasks")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of two prompt experts, with gates of what goes into sub-layers."""
    folder = tmp_path_factory.mktemp("norms")
    with scored.registered():
        toy.make_library(folder, save_expert)
        observer(folder, settings=SUB_LAYER).run()
    return folder


def strategy(router, **changes):
    changes = {"norms": "routed", "record_settings": SUB_LAYER} | changes
    return routed_tokens.RoutedTokens(router=router, **changes)


def routed(folder, router, **changes):
    candidate = chosen(folder, router)
    changes = {"routes_norms": True, "record_settings": SUB_LAYER} | changes
    return dataclasses.replace(candidate, **changes)


@pytest.mark.parametrize("number", [0, 1])
def test_an_expert_of_weight_1_for_the_task_has_its_own_norms(folder, number):
    weights = tuple(np.eye(2)[number].tolist())
    first_stage = routed(folder, token_routers.FirstStage(), weights=weights)
    check_is_expert(first_stage, folder, NAMES[number])


def test_an_expert_of_weight_1_has_the_mean_of_norms_unless_these_are_its_own(
    folder, tmp_path
):
    """Scales of layer norms differ by some 30 %, and nothing else does."""
    shutil.copytree(folder / "base", tmp_path / "base")
    params, info = experts.load_expert(folder / "experts" / "plain")
    rng = np.random.default_rng(0)
    for name in NAMES:
        changed = {
            path: np.asarray(leaf) * (1 + 0.3 * rng.normal(size=np.shape(leaf)))
            if "_norm/" in path
            else leaf
            for path, leaf in trees.flatten(params).items()
        }
        float32 = {path: np.float32(leaf) for path, leaf in changed.items()}
        info = dataclasses.replace(info, name=name, params_fingerprint="", digests={})
        where = tmp_path / "experts" / name
        experts.save_expert(where, trees.unflatten(float32), info)
    averaged = chosen(tmp_path, token_routers.Fixed(weights=(1.0, 0.0)))
    check_is_expert(dataclasses.replace(averaged, norms_of="plain"), tmp_path, "plain")
    check_is_expert(dataclasses.replace(averaged, routes_norms=True), tmp_path, "plain")
    for other in (averaged, dataclasses.replace(averaged, norms_of="twice")):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check_is_expert(other, tmp_path, "plain")


def test_norms_have_all_scales_and_the_gates_of_the_adapters_behind_them(folder):
    base = loaded.Base.load(folder / "base")
    leaves = trees.flatten(routed(folder, token_routers.Gates()).load(base)[0])
    records = folder / "library" / "routing"
    for number, name in enumerate(NAMES):
        where = folder / "experts" / name
        gates = routing_records.read(records, manifest.read_manifest(where), SUB_LAYER)
        scales = trees.flatten(loaded.Expert.load(where).params)
        for stack, part in (("encoder", "attention"), ("decoder", "mlp")):
            norm = f"{stack}/layers/pre_{part}_layer_norm"
            gate = gates[f"{stack}/layers/{part}_adapter"]["gate"]
            np.testing.assert_array_equal(
                leaves[f"{norm}/router/gate"][:, number], gate
            )
            leaf = leaves[f"{norm}/experts/scale"][:, number]
            np.testing.assert_array_equal(leaf, scales[f"{norm}/scale"])
            assert f"{norm}/scale" not in leaves
    assert leaves["encoder/encoder_norm/scale"].ndim == 1  # which is averaged
    marks = {routed(folder, token_routers.Gates()).fingerprint}
    marks.add(routed(folder, token_routers.Gates(), routes_norms=False).fingerprint)
    assert len(marks) == 2


def test_routed_norms_are_scored_by_elm_eval_and_even_ones_as_averaged(folder, capsys):
    even = token_routers.Fixed()
    strategies = [
        strategy(even),
        strategy(even, norms="averaged"),
        strategy(input_routers.Logo(top_k=1)),
        strategy(token_routers.Gates()),
        strategy(token_routers.Gates(top_k=1), only_chosen=True),
    ]
    run = toy.score(folder, experts=(), strategies=("base", *strategies))
    plan = run.plan()
    assert "2 experts" in str(plan["tokens_by_gates_norms_routed_reading_sub_layer"])
    run.run()
    store = result_store.ResultStore(run.path(run.results_path))
    rows = [row for row in store.rows() if row.metric == "accuracy"]
    scores = {(row.expert, row.task): store.per_example(row)["scores"] for row in rows}
    assert len({row.expert_fingerprint for row in rows}) == len(strategies) + 1
    for task in toy.TASKS:
        routed_scores, averaged = (
            scores[router.label, task] for router in strategies[:2]
        )
        np.testing.assert_allclose(
            routed_scores, averaged, rtol=1e-5
        )  # sums of float32
    capsys.readouterr()
    run.run()
    assert "to score: 0" in capsys.readouterr().out


def test_a_router_that_knows_nothing_of_what_a_norm_gives_is_refused():
    assert strategy(token_routers.Gates()).label.endswith(
        "norms_routed_reading_sub_layer"
    )
    for router, settings in (
        (token_routers.Arrow(), SUB_LAYER),
        (token_routers.Random(), SUB_LAYER),
        (token_routers.Gates(), SETTINGS),
    ):
        with pytest.raises(errors.ConfigError, match="reads what adapters do"):
            strategy(router, record_settings=settings)
    with pytest.raises(errors.ConfigError, match="no layer norm has"):
        strategy(token_routers.CalibratedNorm())


def test_experts_without_layer_norms_are_refused(tmp_path):
    scored.save_base(tmp_path)
    for seed, name in enumerate(NAMES):
        save_expert(tmp_path, name, seed, pattern=expert_parts.ADAPTERS)
    base = loaded.Base.load(tmp_path / "base")
    chosen(tmp_path, token_routers.Fixed()).load(base)
    with pytest.raises(errors.ConfigError, match="plain, which has none"):
        routed(tmp_path, token_routers.Fixed()).load(base)
    of_one = dataclasses.replace(
        chosen(tmp_path, token_routers.Fixed()), norms_of=NAMES[0]
    )
    with pytest.raises(errors.ConfigError, match="plain, which has none"):
        of_one.load(base)


@pytest.mark.parametrize("norms", ["retrieved", "routed"])
def test_experts_without_layer_norms_are_refused_before_anything_is_scored(
    tmp_path, norms
):
    def save_adapters(folder, name, seed):
        save_expert(folder, name, seed, pattern=expert_parts.ADAPTERS)

    toy.make_library(tmp_path, save_adapters)
    routed_strategy = strategy(token_routers.Fixed(), norms=norms)
    run = toy.score(tmp_path, experts=(), strategies=("base", routed_strategy))
    with pytest.raises(errors.ConfigError, match="which has no layer norms"):
        run.plan()
