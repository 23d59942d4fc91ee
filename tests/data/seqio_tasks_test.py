import functools
import sys
from typing import Any

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import rendering, seqio_tasks, tasks, tensorflow_imports
from tests.data.t5_ranking import t5_rank_accuracy

# Shorter than the inputs under any vocabulary that SentencePiece's releases train.
FEATURES = tasks.Features(inputs_length=20, targets_length=4)
LENGTHS = {"inputs": 20, "targets": 4}


@pytest.fixture(scope="module")
def seqio():
    return tensorflow_imports.import_seqio()


def test_a_task_gives_seqio_texts_and_tokens_with_end_tokens(
    seqio, colours, vocab, data_options
):
    task = seqio_tasks.to_seqio(
        colours, vocabulary=vocab, features=FEATURES, data_options=data_options
    )
    assert isinstance(task, seqio.Task)
    assert list(task.splits) == ["train", "validation", "test"]
    assert task.supports_caching
    examples = list(
        task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator()
    )
    assert len(examples) == 60
    first = examples[0]
    assert first["inputs_pretokenized"].decode().startswith("The window number 1000")
    assert first["targets"].tolist() == [
        *vocab.encode(first["targets_pretokenized"].decode()),
        1,
    ]
    assert [example["example_id"] for example in examples] == list(range(60))


def test_seqio_trims_and_keeps_the_end_token(seqio, colours, vocab, data_options):
    task = seqio_tasks.to_seqio(
        colours, vocabulary=vocab, features=FEATURES, data_options=data_options
    )
    for example in task.get_dataset(
        LENGTHS, "train", shuffle=False
    ).as_numpy_iterator():
        assert len(example["inputs"]) == 20
        assert example["inputs"][-1] == 1


@pytest.mark.slow
def test_registered_tasks_and_mixtures_feed_seqio_and_t5x(
    seqio, registry, colours, variant, vocab, data_options
):
    def accuracy(targets, predictions):
        return {"accuracy": 1.0}

    first, second = (
        variant(colours, "registered_one"),
        variant(colours, "registered_two"),
    )
    registry.add(
        first, second, tasks.Mixture("registered_both", (first.name, second.name), 20)
    )
    options = {"vocabulary": vocab, "features": FEATURES, "data_options": data_options}
    names = seqio_tasks.register_with_seqio(
        "registered_both", metric_fns={"accuracy": accuracy}, **options
    )
    assert names == [
        "registered_one",
        "registered_two",
        "registered_both",
        "registered_one_score_eval",
        "registered_two_score_eval",
        "registered_both_score_eval",
    ]
    assert names == seqio_tasks.register_with_seqio("registered_both", **options)
    task = seqio.TaskRegistry.get("registered_one")
    assert len(task.metric_fns) == 1
    mixture = seqio.get_mixture_or_task("registered_both")
    assert mixture.get_rate(task) == 20.0
    batch = next(
        seqio.get_dataset(
            "registered_both",
            task_feature_lengths=LENGTHS,
            dataset_split="train",
            feature_converter=seqio.EncDecFeatureConverter(pack=False),
            shuffle=True,
            seed=0,
        )
        .batch(2)
        .as_numpy_iterator()
    )
    assert batch["encoder_input_tokens"].shape == (2, LENGTHS["inputs"])
    assert batch["decoder_loss_weights"].shape == (2, 4)


def test_plain_text_has_targets_alone_and_no_end_token(seqio, vocab, data_options):
    from elm_jax.data import sources

    source = sources.GeneratedRows(lambda split: [{"text": "red apple"}], version="1")
    task = seqio_tasks.to_seqio(
        tasks.TextTask("documents", source),
        vocabulary=vocab,
        features=FEATURES,
        data_options=data_options,
    )
    (example,) = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    assert "inputs" not in example
    np.testing.assert_array_equal(example["targets"], vocab.encode("red apple"))


def test_a_ranking_task_has_an_example_per_choice_as_t5_expects(
    seqio, colours, vocab, data_options
):
    task = seqio_tasks.to_seqio_score_eval(
        colours, vocabulary=vocab, features=FEATURES, data_options=data_options
    )
    assert task.name == "colours_ask_score_eval"
    rendered = rendering.render_split(colours, "validation", data_options)
    dataset = task.get_dataset(None, "validation", shuffle=False)
    assert dataset.element_spec["idx"].shape == (2,)
    examples = list(dataset.as_numpy_iterator())
    assert len(examples) == sum(map(len, rendered.choices))
    places_of = [tuple(example["idx"].tolist()) for example in examples]
    assert places_of == [
        (row, choice)
        for row, choices in enumerate(rendered.choices)
        for choice in range(len(choices))
    ]
    for (row, choice), example in zip(places_of, examples, strict=True):
        text = rendered.choices[row][choice]
        assert example["inputs_pretokenized"].decode() == rendered.inputs[row]
        assert example["targets"].tolist() == [*vocab.encode(text), 1]
        assert example["is_correct"] == (choice == rendered.labels[row])
    targets = [task.postprocess_fn("", example=e, is_target=True) for e in examples]
    right = [float(e["is_correct"]) for e in examples]
    assert task.postprocess_fn(right[0], example=examples[0]) == right[0]
    assert t5_rank_accuracy(targets, right) == {"accuracy": 100.0}
    wrong = [-score for score in right]
    assert t5_rank_accuracy(targets, wrong) == {"accuracy": 0.0}


@pytest.mark.slow
def test_a_ranking_task_goes_through_seqios_evaluator(
    seqio, registry, colours, variant, vocab, data_options, tmp_path
):
    ranked = variant(colours, "ranked_one")
    registry.add(ranked)
    seqio_tasks.register_with_seqio(
        "ranked_one",
        vocabulary=vocab,
        features=tasks.Features(inputs_length=60, targets_length=8),
        data_options=data_options,
        metric_fns={"rank_classification": rank_metric},
    )
    evaluator = seqio.Evaluator(
        mixture_or_task_name="ranked_one_score_eval",
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length={"inputs": 60, "targets": 8},
    )

    def score_fn(dataset, model_feature_shapes=None):
        del model_feature_shapes
        return [(i, 0.0) for i, _ in enumerate(dataset)]

    evaluated, _ = evaluator.evaluate(
        compute_metrics=True,
        step=0,
        predict_fn=lambda *args: None,
        score_fn=score_fn,
    )
    evaluated = evaluated.result() if hasattr(evaluated, "result") else evaluated
    scores = evaluated["ranked_one_score_eval"]
    labels = rendering.render_split(ranked, "validation", data_options).labels
    # Equal scores: the first choice wins, as in `elm_jax.evaluation`.
    expected = 100 * np.mean([label == 0 for label in labels])
    assert scores["accuracy"] == pytest.approx(expected)


def rank_metric(targets, scores):
    return t5_rank_accuracy(targets, scores)


@pytest.fixture
def said(seqio, registry):
    """Two tasks and four mixtures that a user registered with SeqIO alone."""

    def rows(split, shuffle_files, seed=None, *, count):
        import tensorflow as tf

        del split, shuffle_files, seed
        dataset: Any = tf.data.Dataset
        return dataset.from_tensor_slices({"targets": ["red"] * count})

    for name, count in (("said_red", 30), ("said_blue", 90)):
        source = seqio.FunctionDataSource(
            functools.partial(rows, count=count),
            splits=("train",),
            num_input_examples={"train": count},
        )
        seqio.TaskRegistry.add(name, source, preprocessors=[], output_features={})
    sizes = seqio.mixing_rate_num_examples
    for name, rates in {
        "said_mix": [("said_red", 3.0), ("said_blue", 1.0)],
        "said_by_size": [("said_red", sizes), ("said_blue", sizes)],
        "said_thirds": [("said_red", 1), ("said_blue", 3)],
        "said_oddly": [("said_red", lambda task: task.absent), ("said_blue", 1)],
    }.items():
        seqio.MixtureRegistry.add(name, rates)
    return {"said_red": 30, "said_blue": 90}


def test_patterns_and_mixtures_of_a_users_seqio_tasks_stand_for_them(
    said, registry, colours, variant
):
    registry.add(variant(colours, "said_ours"))
    assert registry.expand("said_mix") == ["said_blue", "said_red"]
    assert registry.expand("said_*") == ["said_blue", "said_red", "said_ours"]
    assert registry.expand("said_b*") == ["said_blue", "said_red"]  # a mixture's too
    assert registry.expand("said_mix/*red") == ["said_red"]
    assert isinstance(registry.task("said_red"), tasks.SeqioTask)
    (mixture,) = registry.mixtures_of("said_mix/*red")
    assert mixture.has_rates
    assert registry.caps("said_mix") == {}
    with pytest.raises(errors.ConfigError, match="Did you mean: said_red"):
        registry.get("said_rod")


def test_what_seqio_has_of_ours_is_not_found_twice(
    seqio, registry, colours, variant, vocab, data_options
):
    registry.add(variant(colours, "given_one"))
    options = {"vocabulary": vocab, "features": FEATURES, "data_options": data_options}
    seqio_tasks.register_with_seqio("given_one", **options)
    assert "given_one_score_eval" in seqio.TaskRegistry.names()
    assert registry.match("given_*") == ["given_one"]


def test_rates_are_those_of_the_sizes_or_refused(said, registry):
    for name in ("said_by_size", "said_thirds"):
        seqio_tasks.check_rates(registry.get(name), said)
    seqio_tasks.check_rates(registry.get("said_mix"), {"said_red": 30, "other": 7})
    message = r"rates 1 said_blue : 3 said_red, of tasks with 90 said_blue, 30 said_red"
    with pytest.raises(errors.ConfigError, match=message):
        seqio_tasks.check_rates(registry.get("said_mix"), said)
    # A cap of ours changes the sizes, and so may a filter.
    with pytest.raises(errors.ConfigError, match="in proportion"):
        seqio_tasks.check_rates(registry.get("said_by_size"), {**said, "said_blue": 30})
    with pytest.raises(errors.ConfigError, match="unknown: AttributeError"):
        seqio_tasks.check_rates(registry.get("said_oddly"), said)


@pytest.mark.parametrize("module", ["seqio", "tensorflow", "tensorflow_datasets"])
def test_what_an_installation_without_tensorflow_lacks_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.MissingExtraError, match=f"no module {module} in"):
        tensorflow_imports.import_seqio()
        tensorflow_imports.import_tfds()
