"""The embedded suite: prompted tasks of a small generated world, without downloads.

Ten training datasets in seven clusters, five held-out datasets, one that is added
to a library later, and one whose answers need two trained skills at once. Everything
is a pure function of fixed seeds: no row, template or token depends on the machine.

Mixtures: one per dataset under its own name (`pocket_kinds`), `pocket_train`,
`pocket_unseen`, `pocket_continual` and `pocket_composed` by role; `pocket_text` is
unlabelled prose for pre-training.
"""

import functools
import hashlib
import pathlib
from typing import NamedTuple

from elm_jax.data import sources, tasks, vocabulary
from tasks.pocket_world import prose, rows

LICENCE = "Apache-2.0"  # the project's: its rows are made here
FOLDER = pathlib.Path(__file__).parent / "pocket_world"
VOCABULARY = vocabulary.SentencePiece(str(FOLDER / "pocket.model"))
TEMPLATES_DIR = str(FOLDER / "templates")

# A token cache notices changes of the modules that make rows, but not of the word
# tables.
WORLD_VERSION = hashlib.sha256((FOLDER / "words.py").read_bytes()).hexdigest()[:8]


class Dataset(NamedTuple):
    """One dataset of the suite: a function in `rows`, and the names of its prompts."""

    name: str
    cluster: str
    role: str
    metrics: tuple[str, ...]
    prompts: tuple[str, ...]


def _dataset(name: str, cluster: str, role: str, metrics: str, prompts: str) -> Dataset:
    return Dataset(name, cluster, role, tuple(metrics.split()), tuple(prompts.split()))


DATASETS = (
    _dataset("kinds", "Multiple-Choice QA", "train", "accuracy", "which_is what_are"),
    _dataset("work", "Multiple-Choice QA", "train", "accuracy", "needs goes_with"),
    _dataset("people", "Extractive QA", "train", "accuracy", "which_one who_is_it"),
    _dataset("rooms", "Extractive QA", "train", "squad", "where_is answer_from_text"),
    _dataset("reviews", "Sentiment", "train", "accuracy", "good_or_bad sentiment"),
    _dataset("moods", "Sentiment", "train", "accuracy", "how_did_they_feel was"),
    _dataset(
        "paraphrases",
        "Paraphrase",
        "train",
        "accuracy",
        "same_meaning in_other_words",
    ),
    _dataset("topics", "Topic Classification", "train", "accuracy", "about topic"),
    _dataset("headlines", "Summarization", "train", "rouge", "headline in_short"),
    _dataset(
        "notes", "Structure-to-Text", "train", "bleu rouge", "write_sentence tell"
    ),
    _dataset("endings", "Completion", "unseen", "accuracy", "what_next go_on"),
    _dataset("referents", "Coreference", "unseen", "accuracy", "who_was stands_for"),
    _dataset(
        "inferences",
        "Inference",
        "unseen",
        "accuracy",
        "what_follows which_claim",
    ),
    _dataset(
        "senses", "Word Sense", "unseen", "accuracy", "kind_of_thing in_this_sentence"
    ),
    _dataset("causes", "Cause", "unseen", "accuracy", "must_have_been why"),
    _dataset("opposites", "Word Relation", "continual", "accuracy", "opposite not_but"),
    _dataset(
        "digests",
        "Composed",
        "composed",
        "accuracy",
        "about_and_verdict topic_then_verdict",
    ),
)


def source(dataset: str) -> sources.GeneratedRows:
    """Returns where the rows of a dataset of the world come from."""
    return sources.GeneratedRows(functools.partial(rows.rows, dataset), WORLD_VERSION)


def all_tasks() -> list[tasks.Task]:
    """Returns every prompted task of the suite; registers none."""
    return [
        task
        for dataset in DATASETS
        for task in tasks.prompted_tasks(
            f"pocket_{dataset.name}",
            dataset.prompts,
            source=source(dataset.name),
            cluster=dataset.cluster,
            metrics=dataset.metrics,
            folder=TEMPLATES_DIR,
            role=dataset.role,
            licence=LICENCE,
        )
    ]


def all_mixtures() -> list[tasks.Mixture]:
    """Returns one mixture per dataset and one per role; registers none."""
    members: dict[str, list[str]] = {}
    for task in all_tasks():
        for name in (task.dataset, f"pocket_{task.role}"):
            members.setdefault(name, []).append(task.name)
    return [tasks.Mixture(name, tuple(names)) for name, names in members.items()]


TEXT = tasks.TextTask(
    "pocket_text",
    sources.GeneratedRows(prose.rows, WORLD_VERSION),
    splits={"train": "train", "validation": "validation"},
)

tasks.registry.add(*all_tasks(), *all_mixtures(), TEXT)
