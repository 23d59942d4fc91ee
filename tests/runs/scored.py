"""A base of random parameters, and small tasks with doubts that a score can have."""

import contextlib
import functools
import pathlib
from unittest import mock

import numpy as np

import tasks as our_tasks
from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.data import sources, tasks, templates
from elm_jax.model import config, t5
from elm_jax.runs import bases, evaluate, task_data

MODEL = pathlib.Path(our_tasks.__file__).parent / "pocket_world" / "pocket.model"
LONG = " ".join(["the dog sees the cat"] * 20)
SHAPE = config.T5Config(
    vocab_size=1024,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
# Name: (prompt, choices, answer) of each row.
ROWS = {
    "plain": [(f"Row {i} ?", ("yes", "no"), "yes") for i in range(8)],
    "twice": [(f"Row {i} ?", ("yes", "no", "no"), "no") for i in range(8)],
    "signs": [
        *((f"{i} and {i + 1} ?", ("<", ">", "="), "<") for i in range(2)),
        *((f"Row {i} ?", ("yes", "no"), "yes") for i in range(6)),
    ],
    "alike": [(f"{i} and {i + 1} ?", ("<", ">", "="), ">") for i in range(4)],
    "long": [(f"{LONG} {i} ?", ("yes", "no"), "yes") for i in range(4)]
    + [(f"Row {i} ?", ("yes", "no"), "no") for i in range(4)],
    # Alike up to the greatest length of a choice; half of all choices may be cut.
    "ends": [
        (
            f"Row {i} ?",
            (f"{LONG} yes", f"{LONG} no") if i % 2 else ("yes", "no"),
            answer,
        )
        for i in range(8)
        for answer in [f"{LONG} no" if i % 2 else "no"]
    ],
    "foreign": [(f"Row {i} ?", ("猫", "狗"), "狗") for i in range(4)],
    "written": [(f"Row {i} ?", (), f"dog {i}") for i in range(4)],
}


def rows_of(name, split):
    for prompt, choices, answer in ROWS[name]:
        yield {"text": prompt, "choices": list(choices), "answer": answer}


def make_tasks():
    toy_tasks = []
    for name, rows in ROWS.items():
        ranked = bool(rows[0][1])
        template = templates.Template(
            name="ask",
            id=name,
            jinja="{{text}} ||| {{answer}}",
            answer_choices='{{ choices | join("|||") }}' if ranked else None,
        )
        toy_tasks += tasks.prompted_tasks(
            name,
            [template],
            source=sources.GeneratedRows(functools.partial(rows_of, name), version="1"),
            cluster="Toy",
            metrics=("accuracy",) if ranked else ("rouge",),
        )
    return toy_tasks


@contextlib.contextmanager
def registered():
    """Has a registry of these tasks alone."""
    before, tasks.registry = tasks.registry, tasks.Registry()
    tasks.registry.add(*make_tasks())
    try:
        yield
    finally:
        tasks.registry = before


def save_base(folder, change=lambda params: params):
    """Writes a base of random parameters, or of what `change` makes of them.

    Also of what is never saved: files may have come from elsewhere.
    """
    params = change(t5.init_params(t5.T5(SHAPE), seed=0))
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=bases.describe(SHAPE),
        trainable_pattern=".*",
    )
    with mock.patch.object(experts.tensors, "check_finite"):
        experts.save_expert(folder / "base", params, info)


def broken(params):
    """Returns parameters with one value that is not a number."""
    flat = trees.flatten(params)
    name = next(n for n in flat if n.startswith("decoder") and "norm" in n)
    scale = np.array(flat[name])
    scale[..., 0] = np.nan
    return trees.replace(params, trees.unflatten({name: scale}))


def make_data():
    return task_data.TaskData(
        vocabulary_path=str(MODEL), feature_lengths={"inputs": 24, "targets": 8}
    )


def make_run(folder, *names, **changes):
    fields = {
        "model_dir": str(folder),
        "data": make_data(),
        "initial_checkpoint_path": "{MODEL_DIR}/base",
        "tasks": tuple(f"{name}_ask" for name in names),
        "strategies": ("base",),
        "batch_size": 8,
    }
    return evaluate.Evaluate(**(fields | changes))


def score(folder, *names, **changes):
    make_run(folder, *names, **changes).start(config="", operative_config="")
