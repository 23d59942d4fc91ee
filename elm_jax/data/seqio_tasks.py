"""Our tasks as real SeqIO tasks; everything here imports TensorFlow when called."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from elm_jax.data import rendering, tasks
from elm_jax.data import vocabulary as vocabularies

RenderFn = Callable[[str], rendering.RenderedSplit]


def import_seqio() -> Any:
    """Returns the module `seqio`, with TensorFlow kept quiet and off accelerators.

    TensorFlow would otherwise take most of a GPU's memory from JAX.
    """
    # Read by TensorFlow while it is imported; leaves a user's own choice alone.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # Else it tells so, twice.
    import seqio
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # Too late if the user's own code has TensorFlow running there already.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return seqio


def to_seqio(
    task: tasks.Task | tasks.TextTask,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    places: tasks.Places,
    render_fn: RenderFn | None = None,
    metric_fns: Iterable[Callable[..., Any]] = (),
) -> Any:
    """Returns the `seqio.Task` of one of our tasks; registers nothing.

    Its examples have `inputs` and `targets` (int32 tokens), both once more as text
    with `_pretokenized` added, and `example_id`. Trimming keeps the end token. A
    plain text task has `targets` alone, without an end token.

    Args:
      task: A prompted task or a plain text task.
      vocabulary: Of both features.
      features: Says whether inputs end with the end token; lengths are given to
        `get_dataset`, as ever in SeqIO.
      places: Where data and templates are.
      render_fn: Gives the texts of a split; reads and renders them if None.
      metric_fns: SeqIO metric functions of the task.
    """
    seqio = import_seqio()

    render = render_fn or functools.partial(rendering.render_split, task, places=places)
    is_text = isinstance(task, tasks.TextTask)
    sp = vocabulary.seqio()
    output_features = {
        "inputs": seqio.Feature(sp, add_eos=features.inputs_eos),
        "targets": seqio.Feature(sp, add_eos=not is_text),
    }
    if is_text:
        del output_features["inputs"]
    return seqio.Task(
        task.name,
        source=seqio.FunctionDataSource(
            functools.partial(_text_dataset, render_fn=render, is_text=is_text),
            splits=tuple(task.splits),
        ),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=output_features,
        metric_fns=list(metric_fns),
    )


def register_with_seqio(
    names: str | Iterable[str],
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    places: tasks.Places,
    metric_fns: Mapping[str, Callable[..., Any]] | None = None,
) -> list[str]:
    """Adds our tasks and mixtures to SeqIO's registries, for SeqIO and T5X users.

    A mixture's rates are its tasks' training sizes, capped as the mixture says.
    What SeqIO already has under a name is left alone.

    Args:
      names: Names or patterns of tasks and mixtures; a mixture brings its tasks.
      vocabulary: Of inputs and targets.
      features: As for `to_seqio`.
      places: Where data and templates are.
      metric_fns: SeqIO metric functions by the names that tasks use; those not
        given are left out.

    Returns:
      The names now registered, tasks first.
    """
    seqio = import_seqio()

    task_names = tasks.registry.expand(names)
    for name in task_names:
        task = tasks.registry.task(name)
        if isinstance(task, tasks.SeqioTask) or name in seqio.TaskRegistry.names():
            continue
        wanted = task.metrics if isinstance(task, tasks.Task) else ()
        fns = [metric_fns[m] for m in wanted if metric_fns and m in metric_fns]
        provider = to_seqio(
            task,
            vocabulary=vocabulary,
            features=features,
            places=places,
            metric_fns=fns,
        )
        seqio.TaskRegistry.add_provider(name, provider)
    mixtures = tasks.registry.mixtures(names)
    for mixture in mixtures:
        if mixture.name in seqio.MixtureRegistry.names():
            continue
        rate = functools.partial(
            _size_rate, places=places, max_examples=mixture.max_examples
        )
        rates = [(name, rate) for name in mixture.tasks]
        seqio.MixtureRegistry.add(mixture.name, rates)
    return task_names + [mixture.name for mixture in mixtures]


def user_task(task: tasks.SeqioTask) -> Any:
    """Returns the `seqio.Task` that a user's module registered."""
    seqio = import_seqio()

    return seqio.TaskRegistry.get(task.name)


def _text_dataset(
    split: str,
    shuffle_files: bool,
    seed: int | None = None,
    *,
    render_fn: RenderFn,
    is_text: bool,
) -> Any:
    """Returns the rendered texts of a split as a tf.data.Dataset."""
    import tensorflow as tf

    dataset: Any = tf.data.Dataset  # its stubs know no dictionaries
    del shuffle_files, seed  # Rows have one order; batches are shuffled by index.
    rendered = render_fn(split)
    columns: dict[str, Any] = {
        "targets": rendered.targets,
        "example_id": rendered.example_ids,
    }
    if not is_text:
        columns["inputs"] = rendered.inputs
    return dataset.from_tensor_slices(columns)


def _size_rate(task: Any, *, places: tasks.Places, max_examples: int | None) -> float:
    """Returns the number of training examples of a registered task, capped."""
    size = _train_size(task.name, places)
    return float(min(size, max_examples or size))


@functools.lru_cache(maxsize=4096)
def _train_size(name: str, places: tasks.Places) -> int:
    task = tasks.registry.task(name)
    if isinstance(task, tasks.SeqioTask):
        return user_task(task).num_input_examples("train")
    return len(rendering.render_split(task, "train", places))
