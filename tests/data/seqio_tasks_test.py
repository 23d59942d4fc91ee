import numpy as np
import pytest

from elm_jax.data import seqio_tasks, tasks

FEATURES = tasks.Features(inputs_length=30, targets_length=4)
LENGTHS = {"inputs": 30, "targets": 4}


@pytest.fixture(scope="module")
def seqio():
    return seqio_tasks.import_seqio()


def test_a_task_gives_seqio_texts_and_tokens_with_end_tokens(
    seqio, colours, vocab, places
):
    task = seqio_tasks.to_seqio(
        colours, vocabulary=vocab, features=FEATURES, places=places
    )
    assert isinstance(task, seqio.Task)
    assert list(task.splits) == ["train", "validation", "test"]
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


def test_seqio_trims_and_keeps_the_end_token(seqio, colours, vocab, places):
    task = seqio_tasks.to_seqio(
        colours, vocabulary=vocab, features=FEATURES, places=places
    )
    for example in task.get_dataset(
        LENGTHS, "train", shuffle=False
    ).as_numpy_iterator():
        assert len(example["inputs"]) == 30
        assert example["inputs"][-1] == 1


def test_registered_tasks_and_mixtures_feed_seqio_and_t5x(
    seqio, registry, colours, variant, vocab, places
):
    def accuracy(targets, predictions):
        return {"accuracy": 1.0}

    one, other = variant(colours, "registered_one"), variant(colours, "registered_two")
    registry.add(
        one, other, tasks.Mixture("registered_both", (one.name, other.name), 20)
    )
    options = {"vocabulary": vocab, "features": FEATURES, "places": places}
    names = seqio_tasks.register_with_seqio(
        "registered_both", metric_fns={"accuracy": accuracy}, **options
    )
    assert names == ["registered_one", "registered_two", "registered_both"]
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
    assert batch["encoder_input_tokens"].shape == (2, 30)
    assert batch["decoder_loss_weights"].shape == (2, 4)


def test_plain_text_has_targets_alone_and_no_end_token(seqio, vocab, places):
    from elm_jax.data import sources

    source = sources.GeneratedRows(lambda split: [{"text": "red apple"}], version="1")
    task = seqio_tasks.to_seqio(
        tasks.TextTask("documents", source),
        vocabulary=vocab,
        features=FEATURES,
        places=places,
    )
    (example,) = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    assert "inputs" not in example
    np.testing.assert_array_equal(example["targets"], vocab.encode("red apple"))
