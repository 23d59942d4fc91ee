"""Small libraries, what they are asked, and evaluations with them."""

import dataclasses

import jax
import numpy as np

from elm_jax.checkpoints import experts
from elm_jax.library import retrieval
from elm_jax.runs import embedders, evaluate, library, queries
from tests.runs import scored

DATA = scored.make_data()
ENCODER = embedders.EmbedderSpec(kind="encoder", max_length=24)
TASKS = ("plain_ask", "signs_ask")


def save_expert(folder, name, seed, training_seed=None):
    base, info = experts.load_expert(folder / "base")
    noise = jax.random.PRNGKey(seed)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(noise, x.shape), base)
    info = dataclasses.replace(
        info, name=name, kind="dataset", tasks=(f"{name}_ask",), steps=1
    )
    training_seed = seed if training_seed is None else training_seed
    info = dataclasses.replace(info, seed=training_seed)
    experts.save_expert(folder / "experts" / name, params, info)


def make_library(folder, save=save_expert, **of_experts):
    """Writes a base, the experts `plain` and `twice` as `save` does, and a library."""
    scored.save_base(folder)
    for seed, name in enumerate(("plain", "twice"), start=1):
        save(folder, name, seed, **of_experts)
    build(folder).run()


def build(folder, **changes):
    fields = {
        "model_dir": str(folder),
        "experts": ("{MODEL_DIR}/experts/plain", "{MODEL_DIR}/experts/twice"),
        "data": DATA,
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "embedder": ENCODER,
        "num_keys": 4,
    }
    return library.BuildLibrary(**(fields | changes))


def ask(folder, **changes):
    fields = {
        "model_dir": str(folder),
        "tasks": TASKS,
        "data": DATA,
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "embedder": ENCODER,
        "num_queries": 2,
    }
    return library.Retrieve(**(fields | changes))


def score(folder, **changes):
    fields = {
        "model_dir": str(folder),
        "data": DATA,
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "tasks": TASKS,
        "experts": ("{MODEL_DIR}/experts/twice",),
        "strategies": ("base", "retrieved"),
        "retrieval": ask(folder),
        "batch_size": 8,
    }
    return evaluate.Evaluate(**(fields | changes))


RESULT = retrieval.Retrieval(
    votes=(("a", 2), ("b", 2), ("c", 1)),
    nearest=("a", "b", "c", "b", "a"),
    scores=np.array([0.25, 0.5, 3.0, 0.5, 0.25], np.float32),
    num_ties=0,
)


def question(tmp_path):
    folders = {name: tmp_path / name for name in "abc"}
    return queries.Question("task", None, (), RESULT, folders)  # type: ignore[arg-type]
