"""A small vocabulary, small tasks and the folders they need."""

import dataclasses
import importlib
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import sentencepiece

from elm_jax.data import cache, sources, tasks, templates, token_store, vocabulary

COLOURS = ("red", "green", "blue", "white", "black")
THINGS = ("apple", "house", "river", "stone", "window", "garden")


def colour_rows(split: str):
    """Rows whose answer is in the text; choices differ in number over rows."""
    start = {"train": 0, "validation": 1000, "test": 2000}[split]
    for i in range(start, start + 60):
        colour = COLOURS[i % 5]
        others = [c for c in COLOURS if c != colour][: 1 + i % 4]
        choices = sorted([colour, *others])
        text = f"The {THINGS[i % 6]} number {i} is {colour}."
        yield {"text": text, "choices": choices, "answer": colour}


PROMPT = templates.Template(
    name="ask",
    id="1",
    jinja="{{text}} What colour is it? {{ choices | join(', ') }} ||| {{answer}}",
    answer_choices='{{ choices | join("|||") }}',
    metrics=("Accuracy",),
)
SOURCE = sources.GeneratedRows(colour_rows, version="1")


@pytest.fixture(scope="session")
def vocab(tmp_path_factory) -> vocabulary.SentencePiece:
    """A SentencePiece model of 200 pieces and 100 sentinels."""
    prefix = tmp_path_factory.mktemp("vocabulary") / "tiny"
    texts = [row["text"] for row in colour_rows("train")] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *COLOURS, "What colour is it? yes no maybe"]),
        model_prefix=str(prefix),
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return vocabulary.SentencePiece(f"{prefix}.model")


@pytest.fixture
def data_options(tmp_path: pathlib.Path) -> tasks.DataOptions:
    return tasks.DataOptions(cache_dir=str(tmp_path / "caches"))


@pytest.fixture
def registry(monkeypatch) -> tasks.Registry:
    """A registry of this test's own, found by the code under test."""
    fresh = tasks.Registry()
    monkeypatch.setattr(tasks, "registry", fresh)
    seqio = sys.modules.get("seqio")
    if seqio is not None:  # its registries are of the process, too
        monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
        monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    return fresh


@pytest.fixture
def colours(registry: tasks.Registry) -> tasks.Task:
    task = tasks.Task(
        name="colours_ask",
        dataset="colours",
        prompt="ask",
        cluster="Multiple-Choice QA",
        source=SOURCE,
        template=PROMPT,
        metrics=("accuracy",),
    )
    registry.add(task)
    return task


@pytest.fixture
def open_cache(vocab, data_options):
    def run(name, split="train", **changes):
        options = {
            "vocabulary": vocab,
            "features": tasks.Features(inputs_length=64, targets_length=8),
            "data_options": data_options,
        }
        return cache.open_cache(name, split, **(options | changes))

    return run


@pytest.fixture
def variant():
    """Makes the task under another name with some fields changed."""

    def make(task: tasks.Task, name: str, **changes) -> tasks.Task:
        return dataclasses.replace(task, name=name, **changes)

    return make


@pytest.fixture
def make_dataset():
    """Builds a tokenised dataset in memory from token lists."""

    def make(
        inputs, targets, *, name: str = "made", text: bool = False
    ) -> token_store.TokenizedDataset:
        ragged = token_store.Ragged
        empty = [()] * len(targets)
        columns = token_store.Columns(
            inputs=ragged.of(empty if text else inputs),
            targets=ragged.of(targets),
            choices=ragged.of([]),
            choices_of=np.zeros(len(targets) + 1, np.int64),
            labels=np.full(len(targets), -1, np.int32),
            example_ids=np.arange(len(targets)),
            inputs_text=ragged.of_texts([""] * len(targets)),
            targets_text=ragged.of_texts([""] * len(targets)),
            choices_text=ragged.of_texts([]),
            inputs_cut=np.zeros(len(targets), bool),
        )
        manifest = {
            "key": {"task": name, "split": "train"},
            "fingerprint": name,
            "answer_choices": None,
            "num_rows": len(targets),
            "dropped": {},
            "cut": {},
            "unknown": {
                column: {"examples": 0, "tokens": 0}
                for column in ("inputs", "targets", "choices")
            },
            "indistinct": {},
        }
        return token_store.TokenizedDataset(columns, manifest)

    return make


@pytest.fixture
def natural_dataset(make_dataset):
    """Builds examples whose lengths vary as prompts' do; tokens name the example."""

    def make(num_examples: int, *, name: str = "natural", seed: int = 0):
        rng = np.random.default_rng(seed)
        long = np.clip(rng.lognormal(4.5, 0.5, num_examples), 8, 256).astype(int)
        short = np.clip(rng.lognormal(1.2, 0.5, num_examples), 2, 64).astype(int)
        inputs = [[10 + i] * (n - 1) + [1] for i, n in enumerate(long)]
        targets = [[10 + i] * (n - 1) + [1] for i, n in enumerate(short)]
        return make_dataset(inputs, targets, name=name)

    return make


@pytest.fixture(scope="session")
def bring_sentinels(
    vocab: vocabulary.SentencePiece,
) -> Callable[..., str]:
    """Writes the model with sentinels of its own, as T5X's and mT5's files have them.

    The function takes the new file's path, the sentinels' numbers in the order of
    their ids, and what stands before their names.
    """
    model_pb2: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")

    def write(path: pathlib.Path, indices: Iterable[int], start: str = "\u2581") -> str:
        content = pathlib.Path(vocab.path).read_bytes()
        model = model_pb2.ModelProto.FromString(content)
        for index in indices:
            model.pieces.add(
                piece=f"{start}<extra_id_{index}>",
                score=0.0,
                type=model_pb2.ModelProto.SentencePiece.USER_DEFINED,
            )
        path.write_bytes(model.SerializeToString())
        return str(path)

    return write
