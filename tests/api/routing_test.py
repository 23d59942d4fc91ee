"""Routers from Python choose and score as those of `elm_eval`."""

import dataclasses
import shutil

import numpy as np
import pytest

import elm_jax
from elm_jax import errors
from elm_jax.data import tasks
from elm_jax.evaluation import result_store
from elm_jax.library import sampling
from elm_jax.routing import input_routers, token_routers
from elm_jax.runs import (
    key_routers,
    loss_routers,
    observe,
    routed_tokens,
    routers,
    scorer,
    strategies,
)
from tests.runs import routed, scored, toy

pytestmark = pytest.mark.slow

NAMES = ("plain", "twice")
ROUTERS = {
    "arrow": token_routers.Arrow(top_k=1),
    "fixed": token_routers.Fixed(weights=(0.25, 0.75)),
    "gates": token_routers.Gates(),
    "logo": input_routers.Logo(top_k=1),
    "random": token_routers.Random(),
}
OTHERS = {
    "first": token_routers.Fixed(weights=(1.0, 0.0)),
    "first_stage": token_routers.FirstStage(),
}
TEXTS = [row[0] for row in scored.ROWS["plain"]]
CHOICES = ("yes", "no")


@pytest.fixture(autouse=True)
def toy_tasks():
    """Has a registry of the small tasks of `scored` alone."""
    with scored.registered():
        yield


def strategy(name):
    settings = routed.SETTINGS
    return routed_tokens.RoutedTokens(router=ROUTERS[name], record_settings=settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of two prompt experts, observed, and scores of their mixtures."""
    folder = tmp_path_factory.mktemp("routing")
    with scored.registered():
        toy.make_library(folder, routed.save_expert)
        observe.Observe(
            model_dir=str(folder),
            data=toy.DATA,
            initial_checkpoint_path="{MODEL_DIR}/base",
            settings=routed.SETTINGS,
        ).run()
        toy.score(
            folder,
            tasks=("plain_ask", "written_ask"),
            experts=(),
            strategies=tuple(map(strategy, ROUTERS)),
            retrieval=toy.ask(folder, tasks=("plain_ask", "written_ask")),
        ).run()
        # What these rows look like does not hang on how a template writes choices.
        toy.build(
            folder,
            library_dir="{MODEL_DIR}/written_library",
            text_format="label_instance",
        ).run()
    return folder


@pytest.fixture(scope="module")
def library(folder):
    base = elm_jax.Base.load(folder / "base")
    data = tasks.DataOptions(cache_dir=str(folder / "cache"))
    where = folder / "written_library"
    return elm_jax.Library(where, base, vocabulary=scored.MODEL, data=data)


def mixed(folder, name, **options):
    base = elm_jax.Base.load(folder / "base")
    opened = elm_jax.Library(folder / "library", base, vocabulary=scored.MODEL)
    arguments = {"record_settings": routed.SETTINGS, "max_tokens": 8, **options}
    return opened.mixture((ROUTERS | OTHERS)[name], **arguments)


def stored_arrays(folder, name, task):
    """What `elm_eval` keeps of each example."""
    store = result_store.ResultStore(folder / "results.jsonl")
    label = strategy(name).label
    rows = [row for row in store.rows() if (row.expert, row.task) == (label, task)]
    return store.per_example(rows[0])


@pytest.mark.parametrize("name", [*ROUTERS])
def test_a_mixture_scores_and_writes_as_in_elm_eval_to_the_bit(folder, name):
    model = mixed(folder, name)
    of_plain = stored_arrays(folder, name, "plain_ask")
    rows = [scored.ROWS["plain"][i] for i in of_plain["example_ids"]]
    scores = model.score_all([row[0] for row in rows], [row[1] for row in rows])
    np.testing.assert_array_equal(np.concatenate(scores), of_plain["scores"])
    of_written = stored_arrays(folder, name, "written_ask")
    values, offsets = of_written[scorer.TEXTS], of_written[scorer.TEXT_OFFSETS]
    pairs = zip(offsets[:-1], offsets[1:], strict=True)
    written = [values[start:end].tobytes().decode() for start, end in pairs]
    texts = [scored.ROWS["written"][i][0] for i in of_written["example_ids"]]
    assert model.generate_all(texts) == written


def test_one_expert_in_a_mixture_is_that_expert_and_their_order_counts_for_nothing(
    folder,
):
    base = elm_jax.Base.load(folder / "base")
    expert = elm_jax.Expert.load(folder / "experts" / "twice")
    alone = elm_jax.Model(base, expert, vocabulary=scored.MODEL)
    pairs = TEXTS, [CHOICES] * len(TEXTS)
    single = mixed(folder, "arrow", among=["twice"])
    for a, b in zip(single.score_all(*pairs), alone.score_all(*pairs), strict=True):
        np.testing.assert_array_equal(a, b)
    both = mixed(folder, "arrow", among=["twice", "plain"])
    assert both.candidate.manifests[0].name == "plain"
    assert "plain, twice" in repr(both)


@pytest.mark.parametrize("among", [None, NAMES, NAMES[::-1]])
def test_fixed_weights_are_those_of_the_experts_as_they_are_named(folder, among):
    first = (among or NAMES)[0]
    model = mixed(folder, "first", among=among, norms_of=first)
    assert [info.name for info in model.candidate.manifests] == [*NAMES]
    base = elm_jax.Base.load(folder / "base")
    expert = elm_jax.Expert.load(folder / "experts" / first)
    alone = elm_jax.Model(base, expert, vocabulary=scored.MODEL)
    np.testing.assert_allclose(
        model.score(TEXTS[0], CHOICES), alone.score(TEXTS[0], CHOICES), rtol=1e-5
    )  # sums of float32


def test_norms_of_even_weights_are_averaged_ones(folder):
    pairs = TEXTS, [CHOICES] * len(TEXTS)
    routed_norms = mixed(folder, "fixed", routes_norms=True)
    assert "norms routed" in routed_norms.candidate.origin_text
    averaged = mixed(folder, "fixed")
    for a, b in zip(
        routed_norms.score_all(*pairs), averaged.score_all(*pairs), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)  # sums of float32


def test_mixtures_that_cannot_be_are_refused(folder):
    with pytest.raises(errors.ConfigError, match="norms_of = 'nobody'"):
        mixed(folder, "arrow", norms_of="nobody")
    with pytest.raises(errors.ConfigError, match="one of the two"):
        mixed(folder, "fixed", norms_of="plain", routes_norms=True)
    with pytest.raises(errors.ConfigError, match="which reads what adapters do"):
        mixed(folder, "arrow", routes_norms=True)
    with pytest.raises(errors.LibraryError, match="nobody"):
        mixed(folder, "arrow", among=["nobody"])
    other = dataclasses.replace(routed.SETTINGS, gate_steps=4)
    with pytest.raises(errors.LibraryError, match="no record"):
        mixed(folder, "gates", record_settings=other)
    with pytest.raises(errors.ConfigError, match="8 texts, and 1 lists of choices"):
        mixed(folder, "arrow").score_all(TEXTS, [CHOICES])
    with pytest.raises(errors.ConfigError, match=r"0 weights .* for 2 experts"):
        mixed(folder, "first_stage")
    with pytest.raises(errors.LibraryError, match="without its base"):
        elm_jax.Library(folder / "library").mixture(ROUTERS["arrow"])


@pytest.mark.parametrize(
    "router",
    [
        strategies.Retrieved(),
        strategies.Retrieved(by="similarity"),
        key_routers.ByKeys(),
        key_routers.ByKeys(num_nearest=2, by="similarity"),
        key_routers.ByKeys(how="means"),
        routers.ByWords(),
    ],
)
def test_keys_and_words_rank_as_in_an_evaluation(folder, library, router):
    asker = toy.ask(folder, library_dir="{MODEL_DIR}/written_library", num_queries=4)
    (question,) = asker.ask(asker, ("plain_ask",), asker.data)
    texts = [question.dataset[row].inputs_text for row in question.rows]
    expected = router.ranked(question)
    ranked = library.route(texts, CHOICES, router=router)
    assert [name for name, _ in ranked] == [name for name, _ in expected]
    assert dict(ranked) == pytest.approx(dict(expected), rel=1e-5)
    (only,) = library.route(texts, CHOICES, router=router, among=["twice"])
    assert only[0] == "twice"


def test_the_first_by_votes_alone_are_looked_at(library):
    (first, _), *_ = library.route(TEXTS, CHOICES, router=strategies.Retrieved())
    ranked = library.route(TEXTS, CHOICES, router=routers.ByBehaviour(among=1))
    assert [name for name, _ in ranked] == [first]


def test_a_router_of_behaviour_ranks_as_its_statistic(library):
    by_mass = routers.ByBehaviour(statistic="mass")
    ranked = library.route(TEXTS, CHOICES, router=by_mass)
    assert ranked == library.route(TEXTS, CHOICES, statistic="mass")


def test_halving_ranks_by_right_answers_counted_a_row_at_a_time(folder, library):
    answers = [CHOICES[i % 2] for i in range(len(TEXTS))]
    base = elm_jax.Base.load(folder / "base")
    right = {}
    for name in NAMES:
        expert = elm_jax.Expert.load(folder / "experts" / name)
        model = elm_jax.Model(base, expert, vocabulary=scored.MODEL)
        chosen = [model.choose(text, CHOICES) for text in TEXTS]
        right[name] = [a == b for a, b in zip(chosen, answers, strict=True)]
    every = routers.ByHalving(first_rows=len(TEXTS))
    ranked = library.route(TEXTS, CHOICES, router=every, answers=answers)
    assert dict(ranked) == {name: np.mean(rows) for name, rows in right.items()}
    assert ranked[0][1] == max(value for _, value in ranked)
    two = routers.ByHalving(first_rows=2)
    halved = library.route(TEXTS, CHOICES, router=two, answers=answers)
    order = sampling.order_rows(len(TEXTS), seed=0)
    # Of two experts one is left after the first round.
    for name, share in halved:
        assert share == np.mean([right[name][i] for i in order[:2]])


def test_the_loss_on_inputs_is_that_of_its_own_function(library):
    by_loss = loss_routers.ByInputLoss()
    ranked = library.route(TEXTS, (), router=by_loss)
    assert dict(ranked) == pytest.approx(dict(library.route_by_inputs(TEXTS)))


def test_a_router_that_abstains_gives_no_expert(library):
    by_mass = library.route(TEXTS, CHOICES, statistic="mass")
    greatest = by_mass[0][1]
    for least, expected in ((greatest, by_mass), (greatest + 1e-3, ())):
        shy = routers.ByBehaviour(statistic="mass", abstains=True, least=least)
        assert library.route(TEXTS, CHOICES, router=shy) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": key_routers.ByKeys(), "statistic": "mass"}, "one of the two"),
        ({"router": routers.ByHalving()}, "without answers"),
        ({"router": routers.ByBehaviour(), "choices": ()}, "without choices"),
        ({"router": routers.ByBehaviour(statistic="mass"), "choices": ()}, "choices"),
        ({"router": routers.ByHalving(), "answers": ["maybe"] * 8}, "choices"),
        ({"router": routers.ByHalving(), "answers": ["yes"]}, "8 texts, and 1 answers"),
    ],
)
def test_routers_that_lack_something_are_refused(library, options, message):
    with pytest.raises(errors.ElmError, match=message):
        library.route(**{"texts": TEXTS, "choices": CHOICES, **options})


@pytest.mark.parametrize(
    "used",
    [
        lambda library: library.load("plain"),
        lambda library: library.route(TEXTS, CHOICES),
        lambda library: library.route(TEXTS, CHOICES, router=key_routers.ByKeys()),
        lambda library: library.mixture(token_routers.Arrow()),
        lambda library: library.route_by_inputs(TEXTS),
        lambda library: library.answer(TEXTS, CHOICES),
    ],
)
def test_an_expert_that_was_replaced_since_it_was_listed_is_refused(
    folder, tmp_path, used
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "experts" / "plain")
    routed.save_expert(copy, "plain", 9)
    base = elm_jax.Base.load(copy / "base")
    replaced = elm_jax.Library(copy / "library", base, vocabulary=scored.MODEL)
    with pytest.raises(errors.LibraryError, match="holds another expert"):
        used(replaced)
    assert replaced.load("twice").manifest.name == "twice"
