"""What Python gets from `elm_jax` is what the binaries give."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import special

import elm_jax
from elm_jax import errors, trees
from elm_jax.data import span_corruption, vocabulary
from elm_jax.evaluation import result_store
from elm_jax.library import sampling
from elm_jax.peft import bottleneck, ia3, lora
from elm_jax.runs import bases, embedders, library, merge, scorer
from tests.runs import scored

SHOP = [
    {"inputs": f"Row {i} ?", "targets": ("yes", "no")[i % 2], "choices": ["yes", "no"]}
    for i in range(12)
]
PETS = [{"inputs": f"What is {i} ?", "targets": f"dog {i}"} for i in range(12)]
LENGTHS = {"inputs": 24, "targets": 8}
OPTIONS = {
    **{"steps": 2, "batch_size": 8, "lengths": LENGTHS, "vocabulary": scored.MODEL},
    "adapter": lora.Lora(rank=2),
}
TASKS = ("plain_ask", "signs_ask", "written_ask")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, two experts and what the binaries make of them."""
    folder = tmp_path_factory.mktemp("world")
    scored.save_base(folder)
    base = elm_jax.Base.load(folder / "base")
    with scored.registered():
        elm_jax.train(base, SHOP, name="shop", folder=folder, **OPTIONS)
        elm_jax.train(base, PETS, name="pets", folder=folder, **OPTIONS)
        scored.score(
            folder,
            *(name.removesuffix("_ask") for name in TASKS),
            experts=("{MODEL_DIR}/experts/shop",),
            overlap="mark",  # these are the rows that it was trained on
        )
        data = dataclasses.replace(scored.make_data(), data_dir=str(folder / "rows"))
        common = {
            "model_dir": f"{folder}",
            "data": data,
            "initial_checkpoint_path": "{MODEL_DIR}/base",
            "embedder": embedders.EmbedderSpec(kind="encoder", max_length=24),
        }
        library.BuildLibrary(
            experts="{MODEL_DIR}/experts/*",
            text_format="label_instance",
            num_keys=6,
            **common,
        ).run()
        library.Retrieve(tasks="plain_ask", num_queries=4, **common).run()
        merge.Merge(
            model_dir=f"{folder}",
            experts=("{MODEL_DIR}/experts/shop", "{MODEL_DIR}/experts/pets"),
            expert_name="both",
            initial_checkpoint_path="{MODEL_DIR}/base",
        ).run()
        yield folder


@functools.cache
def model(world, expert="shop"):
    base = elm_jax.Base.load(world / "base")
    loaded_expert = elm_jax.Expert.load(world / "experts" / expert) if expert else None
    return elm_jax.Model(base, loaded_expert, vocabulary=scored.MODEL, max_tokens=8)


def arrays(world, task, expert):
    """What `elm_eval` keeps of each example."""
    store = result_store.ResultStore(world / "results.jsonl")
    row = next(r for r in store.rows() if (r.task, r.expert) == (task, expert))
    return store.per_example(row)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["plain", "signs"])
@pytest.mark.parametrize("expert", ["", "shop"])
def test_choices_have_the_scores_that_elm_eval_gives_to_the_bit(world, task, expert):
    stored = arrays(world, f"{task}_ask", expert or "base")
    rows = [scored.ROWS[task][i] for i in stored["example_ids"]]
    scores = model(world, expert).score_all([r[0] for r in rows], [r[1] for r in rows])
    np.testing.assert_array_equal(np.concatenate(scores), stored["scores"])


@pytest.mark.slow
def test_one_text_has_the_scores_that_it_has_among_others(world):
    (text, choices, _), *_ = scored.ROWS["plain"]
    scoring_model = model(world)
    scores = scoring_model.score(text, choices)
    assert scores.shape == (2,)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        scores, scoring_model.score_all([text], [choices])[0], rtol=1e-6
    )
    assert scoring_model.choose(text, choices) == choices[int(scores.argmax())]


@pytest.mark.slow
def test_texts_are_those_that_elm_eval_writes(world):
    stored = arrays(world, "written_ask", "shop")
    values, offsets = stored[scorer.TEXTS], stored[scorer.TEXT_OFFSETS]
    written = [
        values[a:b].tobytes().decode()
        for a, b in zip(offsets[:-1], offsets[1:], strict=True)
    ]
    texts = [scored.ROWS["written"][i][0] for i in stored["example_ids"]]
    assert model(world).generate_all(texts) == written
    assert model(world).generate(texts[0]) == written[0]


@pytest.mark.slow
def test_a_library_answers_as_elm_library_does(world):
    (line,) = (world / "votes.jsonl").read_text().splitlines()
    base = elm_jax.Base.load(world / "base")
    opened = elm_jax.Library(world / "library", base, vocabulary=scored.MODEL)
    assert opened.names == ["pets", "shop"]
    queries = sampling.divide_rows(8, seed=42, num_queries=4).queries
    texts = [scored.ROWS["plain"][i][0] for i in queries]
    answer = opened.retrieve(texts, ("yes", "no"))
    assert [list(vote) for vote in answer.votes] == json.loads(line)["votes"]
    assert opened.load(answer.expert).name == answer.expert
    with pytest.raises(errors.LibraryError, match="without its base"):
        elm_jax.Library(world / "library").retrieve(texts)


@pytest.mark.slow
def test_routing_ranks_experts_by_the_scores_that_models_give(world):
    base = elm_jax.Base.load(world / "base")
    opened = elm_jax.Library(world / "library", base, vocabulary=scored.MODEL)
    texts = [row[0] for row in scored.ROWS["plain"]]
    choices = ("yes", "no")
    ranked = opened.route(texts, choices)
    best = {}
    for name in ("pets", "shop"):
        scores = model(world, name).score_all(texts, [choices] * len(texts))
        best[name] = float(np.mean([row.max() for row in scores]))
    assert [name for name, _ in ranked] == sorted(best, key=best.__getitem__)[::-1]
    assert dict(ranked) == pytest.approx(best, rel=1e-5)
    (only,) = opened.route(texts, choices, statistic="margin", among=["pets"])
    assert only[0] == "pets"
    with pytest.raises(errors.LibraryError, match="without its base"):
        elm_jax.Library(world / "library").route(texts, choices)
    with pytest.raises(errors.ConfigError, match="mass"):
        opened.route(texts, choices, statistic="luck")


@pytest.mark.slow
def test_routing_by_inputs_ranks_experts_by_what_they_give_to_missing_spans(world):
    """By a plain pass of each model over each text alone."""
    base = elm_jax.Base.load(world / "base")
    opened = elm_jax.Library(world / "library", base, vocabulary=scored.MODEL)
    texts = [row[0] for row in scored.ROWS["plain"]]
    pieces = vocabulary.SentencePiece(str(scored.MODEL))
    means = {}
    for name in ("pets", "shop"):
        expert, each = opened.load(name), []
        net = bases.build_model(base.config, expert.adapter)
        for place, text in enumerate(texts):
            inputs = np.array([*pieces.encode(text), 1])
            left, spans = span_corruption.without_spans(
                inputs, place, vocabulary=pieces, seed=0
            )
            decoder_inputs = np.concatenate([[0], spans[:-1]])
            variables = {"params": base.with_expert(expert)}
            logits = net.apply(variables, left[np.newaxis], decoder_inputs[np.newaxis])
            log_probs = special.log_softmax(np.float64(logits[0]), axis=1)
            each.append(log_probs[np.arange(len(spans)), spans].mean())
        means[name] = np.mean(each)
    assert abs(means["pets"] - means["shop"]) > 1e-3  # else luck decides
    ranked = opened.route_by_inputs(texts)
    assert [name for name, _ in ranked] == sorted(means, key=means.__getitem__)[::-1]
    assert dict(ranked) == pytest.approx(means, rel=1e-5)
    assert opened.route_by_inputs(texts, among=["shop"])[0][0] == "shop"
    with pytest.raises(errors.LibraryError, match="without its base"):
        elm_jax.Library(world / "library").route_by_inputs(texts)
    with pytest.raises(errors.ConfigError, match="no expert"):
        opened.route_by_inputs(texts, among=[])
    with pytest.raises(errors.DataError, match="single token"):
        opened.route_by_inputs(["a"])


@pytest.mark.slow
def test_a_pool_answers_by_the_weighted_scores_of_experts(world):
    base = elm_jax.Base.load(world / "base")
    opened = elm_jax.Library(world / "library", base, vocabulary=scored.MODEL)
    texts = [row[0] for row in scored.ROWS["plain"]]
    choices = ("yes", "no")
    each = {
        name: model(world, name).score_all(texts, [choices] * len(texts))
        for name in ("pets", "shop")
    }
    mass = {name: special.logsumexp(x, axis=1).mean() for name, x in each.items()}
    weights = special.softmax(np.array([*mass.values()]) / 4)
    expected = np.einsum("e,erc->rc", weights, np.stack([*each.values()]))
    plain = opened.answer(texts, choices, calibrates=False)
    np.testing.assert_allclose(plain, expected, rtol=1e-4)
    repaired = opened.answer(texts, choices)
    np.testing.assert_allclose(
        repaired, expected - expected.mean(axis=0) + expected.mean(), rtol=1e-4
    )
    (best, _), *_ = opened.route(texts, choices, statistic="mass")
    alone = opened.answer(texts, choices, num_experts=1, calibrates=False)
    np.testing.assert_allclose(alone, each[best], rtol=1e-5)


@pytest.mark.slow
def test_a_pool_refuses_few_texts_to_be_calibrated_by_and_wrong_options(world):
    opened = elm_jax.Library(world / "library", elm_jax.Base.load(world / "base"))
    with pytest.raises(errors.ConfigError, match="calibrates=False"):
        opened.answer(["Good?"], ("yes", "no"))
    for wrong in ({"temperature": 0.0}, {"temperature": -4.0}, {"num_experts": -1}):
        with pytest.raises(errors.ConfigError, match=next(iter(wrong))):
            opened.answer(["Good?"] * 8, ("yes", "no"), **wrong)


@pytest.mark.slow
def test_a_merge_has_the_tensors_of_elm_merge_and_can_be_saved(world, tmp_path):
    base = elm_jax.Base.load(world / "base")
    parts = [elm_jax.Expert.load(world / "experts" / n) for n in ("shop", "pets")]
    # Not on disk, as what was just made.
    parts[1] = dataclasses.replace(parts[1], folder=None)
    both = elm_jax.merge(parts, base, name="both")
    merged = elm_jax.Expert.load(world / "merged" / "both")
    assert trees.fingerprint(both.params) == trees.fingerprint(merged.params)
    both.save(tmp_path / "both")
    again = elm_jax.Expert.load(tmp_path / "both")
    assert again.manifest.fingerprint == merged.manifest.fingerprint
    summed = elm_jax.merge(parts, base, name="sum", method="task_arithmetic")
    assert summed.adapter == lora.Lora(rank=4, alpha=32.0)
    with pytest.raises(errors.ConfigError, match="uniform"):
        elm_jax.merge(parts, base, name="both", method="unifrom")


@pytest.mark.slow
def test_training_goes_on_where_it_was_and_refuses_other_rows(world):
    base = elm_jax.Base.load(world / "base")
    before = elm_jax.Expert.load(world / "experts" / "shop")
    again = elm_jax.train(base, SHOP, name="shop", folder=world, **OPTIONS)
    assert again.manifest == before.manifest
    assert again.manifest.tasks == ("shop",)
    with pytest.raises(errors.DataError, match="other rows of 'shop'"):
        elm_jax.train(base, SHOP[:9], name="shop", folder=world, **OPTIONS)


@pytest.mark.slow
def test_a_name_may_be_trained_on_rows_of_another_form(world):
    base = elm_jax.Base.load(world / "base")
    without = [{name: row[name] for name in ("inputs", "targets")} for row in SHOP]
    data = [
        elm_jax.train(base, rows, name="of_two_forms", **OPTIONS).manifest.data
        for rows in (SHOP, without, SHOP)
    ]
    assert data[0] == data[2] != data[1]


@pytest.mark.slow
def test_without_a_folder_nothing_stays_and_the_expert_is_the_same(world):
    base = elm_jax.Base.load(world / "base")
    base = dataclasses.replace(base, folder=None)
    expert = elm_jax.train(base, SHOP, name="shop", **OPTIONS)
    saved_expert = elm_jax.Expert.load(world / "experts" / "shop")
    assert expert.folder is None
    assert trees.fingerprint(expert.params) == trees.fingerprint(saved_expert.params)


@pytest.mark.slow
def test_a_base_that_brings_its_vocabulary_needs_none_named(world):
    (text, choices, _), *_ = scored.ROWS["plain"]
    base = elm_jax.Base.load(world / "base")
    with pytest.raises(errors.ConfigError, match="brings no vocabulary"):
        elm_jax.Model(base)
    attached = {"vocabulary.model": scored.MODEL.read_bytes()}
    whole = dataclasses.replace(base, attached=attached)
    np.testing.assert_array_equal(
        elm_jax.Model(whole).score(text, choices), model(world, "").score(text, choices)
    )
    options = OPTIONS | {"vocabulary": None, "adapter": None}
    expert = elm_jax.train(whole, PETS, name="pets", **options)
    assert expert.adapter == bottleneck.Bottleneck(reduction_factor=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"inputs": "x", "target": "y"}], "the fields inputs, target"),
        (["x"], "row 0 with str"),
        ([SHOP[0], PETS[0]], "rows with choices beside rows without"),
        ([{"inputs": "x", "targets": "z", "choices": ["a", "b"]}], "its template"),
        ([{"inputs": " ", "targets": "z"}], "is empty"),
        ([{"inputs": 1, "targets": "z"}], "1, which is no text"),
        ([{"inputs": "x", "targets": "a", "choices": "ab"}], "choices = 'ab'"),
    ],
)
def test_rows_of_another_form_are_refused(world, rows, message):
    base = elm_jax.Base.load(world / "base")
    with pytest.raises(errors.ElmError, match=message):
        elm_jax.train(base, rows, name="odd", **OPTIONS)


@pytest.mark.slow
def test_what_cannot_be_scored_is_refused(world):
    scoring_model = model(world)
    for text, choices in (("", ("a", "b")), ("x", ("a",)), ("x", ())):
        with pytest.raises(errors.DataError):
            scoring_model.score(text, choices)
    with pytest.raises(errors.DataError):
        scoring_model.generate(" ")


@pytest.mark.slow
def test_an_adapter_of_another_kind_trains_too(world):
    base = elm_jax.Base.load(world / "base")
    options = OPTIONS | {"adapter": ia3.Ia3()}
    expert = elm_jax.train(base, PETS, name="free", licence="CC0-1.0", **options)
    assert expert.adapter == ia3.Ia3()
    assert expert.manifest.licences == {"free": "CC0-1.0"}


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{pathlib.Path(elm_jax.__file__).parents[1]}"},
    ).stdout


def test_the_names_are_there_before_anything_is_imported():
    code = "import elm_jax, sys; print(*dir(elm_jax)); print(*sys.modules)"
    names, modules = map(str.split, run_python(code).splitlines())
    assert set(elm_jax.__all__) <= set(names)
    assert not {"jax", "numpy", "elm_jax.errors"} & set(modules)
    with pytest.raises(AttributeError, match="no attribute 'Modle'"):
        elm_jax.Modle  # noqa: B018


@pytest.mark.slow
def test_no_name_imports_tensorflow_or_torch():
    names = " ".join(f"elm_jax.{name};" for name in elm_jax.__all__)
    modules = run_python(f"import elm_jax, sys; {names} print(*sys.modules)").split()
    assert not {"tensorflow", "torch", "seqio", "gin"} & set(modules)
