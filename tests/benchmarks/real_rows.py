"""Tokens of real rows for benchmarks: DREAM, CoS-E and Rotten Tomatoes as prompted."""

import pathlib
from collections.abc import Sequence

from elm_jax.data import (
    cache,
    promptsource,
    rendering,
    tasks,
    token_store,
    vocabulary,
    vocabulary_training,
)
from tasks import original, original_text, pocket  # noqa: F401 - they register

TASKS = (
    "dream_read_the_following_conversation_and_answer_the_question",
    "cos_e_v1.11_question_option_description_text",
    "rotten_tomatoes_Reviewer_Enjoyment_Yes_No",
)
POCKET_TASKS = ("pocket_kinds_which_is", "pocket_reviews_good_or_bad")
VOCAB_SIZE = 1024  # of the 10 M shape


def open_real(
    folder: pathlib.Path,
    *,
    data_dir: str,
    templates_dir: str = "",
    features: tasks.Features,
    names: Sequence[str] = TASKS,
) -> list[token_store.TokenizedDataset]:
    """Returns training splits in a vocabulary of 1,024 pieces made from their text.

    Args:
      folder: Of caches and what else is made.
      data_dir: The authors' files.
      templates_dir: PromptSource's templates; fetched from the package index if "".
      features: Lengths.
      names: Tasks.
    """
    templates = templates_dir or str(promptsource.fetch_templates(folder))
    data_options = tasks.DataOptions(
        cache_dir=str(folder / "cache"), data_dir=data_dir, templates_dir=templates
    )
    path = folder / f"{VOCAB_SIZE}.model"
    if not path.is_file():
        texts: dict[str, None] = {}
        for name in tasks.registry.expand("original_text"):
            rendered = rendering.render_split(
                tasks.registry.task(name), "train", data_options
            )
            texts.update(
                dict.fromkeys(filter(None, (*rendered.inputs, *rendered.targets)))
            )
        vocabulary_training.train_vocabulary(texts, path, vocab_size=VOCAB_SIZE)
    pieces = vocabulary.SentencePiece(str(path), 0)
    return [
        cache.open_cache(
            name,
            "train",
            vocabulary=pieces,
            features=features,
            data_options=data_options,
        )
        for name in names
    ]


def open_pocket(
    folder: pathlib.Path, *, features: tasks.Features
) -> list[token_store.TokenizedDataset]:
    """Returns training splits of two tasks of the embedded suite."""
    data_options = tasks.DataOptions(cache_dir=str(folder / "cache"))
    return [
        cache.open_cache(
            name,
            "train",
            vocabulary=pocket.VOCABULARY,
            features=features,
            data_options=data_options,
        )
        for name in POCKET_TASKS
    ]
