"""Our tasks as real SeqIO tasks; everything here imports TensorFlow when called."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.data import records, rendering, tasks, tensorflow_imports
from elm_jax.data import vocabulary as vocabularies

SCORE_EVAL = tasks.SCORE_EVAL
RenderFn = Callable[[str], rendering.RenderedSplit]


def to_seqio(
    task: tasks.Task | tasks.TextTask,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    data_options: tasks.DataOptions,
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
      data_options: Where data and templates are.
      render_fn: Gives the texts of a split; reads and renders them if None.
      metric_fns: SeqIO metric functions of the task.
    """
    seqio = tensorflow_imports.import_seqio()

    render = render_fn or functools.partial(
        rendering.render_split, task, data_options=data_options
    )
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
        source=_source(
            task, functools.partial(_text_dataset, render_fn=render, is_text=is_text)
        ),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),  # for SeqIO's own `seqio_cache_tasks`
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=output_features,
        metric_fns=list(metric_fns),
    )


def to_seqio_score_eval(
    task: tasks.Task,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    data_options: tasks.DataOptions,
    render_fn: RenderFn | None = None,
    metric_fns: Iterable[Callable[..., Any]] = (),
) -> Any:
    """Returns the `seqio.Task` that ranks a task's answer choices; registers nothing.

    It is named `<name>_score_eval`, as T0 names it, and has one example per choice:
    `inputs`, `targets` (the choice), `is_correct` (bool), `idx` (int32: the number of
    the row and of the choice), `weight` (float32, 1) and `example_id`. That is what
    `t5.evaluation.metrics.rank_classification`, and so T5X's evaluation, expects; the
    task's postprocessor gives that metric its targets.

    Args:
      task: A prompted task whose rows have answer choices.
      vocabulary: Of inputs and targets.
      features: Tells whether inputs end with the end token; its lengths are not used.
      data_options: Where data and templates are.
      render_fn: Gives the texts of a split; None reads and renders the task's rows.
      metric_fns: SeqIO metric functions of `(targets, scores)`.
    """
    seqio = tensorflow_imports.import_seqio()

    render = render_fn or functools.partial(
        rendering.render_split, task, data_options=data_options
    )
    sp = vocabulary.seqio()
    return seqio.Task(
        f"{task.name}{SCORE_EVAL}",
        source=_source(task, functools.partial(_choices_dataset, render_fn=render)),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),  # for SeqIO's own `seqio_cache_tasks`
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={
            "inputs": seqio.Feature(sp, add_eos=features.inputs_eos),
            "targets": seqio.Feature(sp, add_eos=True),
        },
        postprocess_fn=score_targets,
        metric_fns=list(metric_fns),
    )


def score_targets(
    score: Any,
    example: Mapping[str, Any] | None = None,
    is_target: bool = False,
    **_: Any,
) -> Any:
    """Returns what `t5`'s rank classification metric compares a choice's score with.

    Args:
      score: The choice's log-probability, or its text when `is_target`.
      example: The example of the choice.
      is_target: Whether the target is wanted and not the prediction.

    Returns:
      `(idx, is_correct, weight, number of target tokens)`, or the score itself.
    """
    if not is_target or example is None:
        return score
    return (
        tuple(example["idx"]),
        example["is_correct"],
        example["weight"],
        len(example["targets"]),
    )


def register_with_seqio(
    names: str | Iterable[str],
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    data_options: tasks.DataOptions,
    metric_fns: Mapping[str, Callable[..., Any]] | None = None,
) -> list[str]:
    """Adds our tasks and mixtures to SeqIO's registries, for SeqIO and T5X users.

    A mixture's rates are its tasks' training sizes, capped as the mixture says. Every
    task with answer choices comes once more as `<name>_score_eval`, and the ones of a
    mixture as the mixture `<mixture>_score_eval`, at equal rates.
    What SeqIO already has under a name is left alone.

    Args:
      names: Names or patterns of tasks and mixtures; a mixture brings its tasks.
      vocabulary: Of inputs and targets.
      features: Tells whether inputs end with the end token; its lengths are not used.
      data_options: Where data and templates are.
      metric_fns: SeqIO metric functions by the names that tasks use; those not
        given are left out. `rank_classification` is that of the ranking tasks.

    Returns:
      The names now registered: tasks, mixtures, then the ranking ones of both.
    """
    seqio = tensorflow_imports.import_seqio()

    task_names = tasks.registry.expand(names)
    ranking: list[str] = []
    for name in task_names:
        task = tasks.registry.task(name)
        if isinstance(task, tasks.Task) and _has_choices(task, data_options):
            ranking.append(f"{name}{SCORE_EVAL}")
            if ranking[-1] not in seqio.TaskRegistry.names():
                rank_fn = (metric_fns or {}).get("rank_classification")
                provider = to_seqio_score_eval(
                    task,
                    vocabulary=vocabulary,
                    features=features,
                    data_options=data_options,
                    metric_fns=[rank_fn] if rank_fn else [],
                )
                seqio.TaskRegistry.add_provider(ranking[-1], provider)
        if isinstance(task, tasks.SeqioTask) or name in seqio.TaskRegistry.names():
            continue
        metric_names = task.metrics if isinstance(task, tasks.Task) else ()
        fns = [metric_fns[m] for m in metric_names if metric_fns and m in metric_fns]
        provider = to_seqio(
            task,
            vocabulary=vocabulary,
            features=features,
            data_options=data_options,
            metric_fns=fns,
        )
        seqio.TaskRegistry.add_provider(name, provider)
    mixtures = tasks.registry.mixtures(names)
    ranking_mixtures: list[str] = []
    for mixture in mixtures:
        names_here = set(seqio.MixtureRegistry.names())
        ranked = [n for t in mixture.tasks if (n := f"{t}{SCORE_EVAL}") in ranking]
        if ranked:
            ranking_mixtures.append(f"{mixture.name}{SCORE_EVAL}")
            if ranking_mixtures[-1] not in names_here:
                seqio.MixtureRegistry.add(ranking_mixtures[-1], ranked, default_rate=1)
        if mixture.name not in names_here:
            rates = [
                (
                    n,
                    functools.partial(
                        _size_rate, data_options=data_options, cap=mixture.cap(n)
                    ),
                )
                for n in mixture.tasks
            ]
            seqio.MixtureRegistry.add(mixture.name, rates)
    mixed = [mixture.name for mixture in mixtures]
    return [*task_names, *mixed, *ranking, *ranking_mixtures]


def user_task(task: tasks.SeqioTask) -> Any:
    """Returns the `seqio.Task` that a user's module registered."""
    seqio = tensorflow_imports.import_seqio()

    return seqio.TaskRegistry.get(task.name)


def check_rates(mixture: tasks.Mixture, sizes: Mapping[str, int]) -> None:
    """Raises a ConfigError unless a SeqIO mixture's rates are those of the sizes.

    Args:
      mixture: SeqIO's own.
      sizes: Examples of the tasks that are mixed, by name; others are left out.
    """
    seqio = tensorflow_imports.import_seqio()
    seqio_mixture = seqio.MixtureRegistry.get(mixture.name)
    names = [name for name in mixture.tasks if name in sizes]
    try:
        rates = {n: seqio_mixture.get_rate(seqio.TaskRegistry.get(n)) for n in names}
    except records.ROW_ERRORS as error:  # of a function that a user wrote
        rates = {}
        rates_text = f"unknown: {type(error).__name__}: {error}"
    else:
        rates_text = " : ".join(f"{rates[n]:g} {n}" for n in names)
    total, size = sum(rates.values()), sum(sizes[n] for n in names)
    shares = ((rates.get(n, 0) / (total or 1), sizes[n] / size) for n in names)
    if all(math.isclose(*pair, rel_tol=1e-3) for pair in shares):
        return
    raise errors.ConfigError(
        found=f"SeqIO's mixture {mixture.name!r} with rates {rates_text}, of tasks "
        f"with {', '.join(f'{sizes[n]} {n}' for n in names)} examples",
        expected="rates in proportion to the examples: one model is trained on "
        "every example of its tasks equally often",
        do="Name the tasks instead to have it so; or register an "
        "`elm_jax.data.tasks.Mixture` with caps",
    )


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


def _choices_dataset(
    split: str,
    shuffle_files: bool,
    seed: int | None = None,
    *,
    render_fn: RenderFn,
) -> Any:
    """Returns one element per answer choice of a split, as a tf.data.Dataset."""
    import tensorflow as tf

    dataset: Any = tf.data.Dataset
    del shuffle_files, seed
    rendered = render_fn(split)
    flat = [
        (row, number, choice, number == rendered.labels[row])
        for row, choices in enumerate(rendered.choices)
        for number, choice in enumerate(choices)
    ]
    return dataset.from_tensor_slices(
        {
            "inputs": [rendered.inputs[row] for row, *_ in flat],
            "targets": [choice for *_, choice, _ in flat],
            "is_correct": [is_correct for *_, is_correct in flat],
            "idx": np.asarray([item[:2] for item in flat], np.int32).reshape(-1, 2),
            "weight": np.ones(len(flat), np.float32),
            "example_id": [rendered.example_ids[row] for row, *_ in flat],
        }
    )


def _source(task: tasks.Task | tasks.TextTask, dataset_fn: Callable[..., Any]) -> Any:
    """Returns SeqIO's source of a task's splits, those of other protocols left out."""
    seqio = tensorflow_imports.import_seqio()
    splits = tuple(split for split in task.splits if "@" not in split)
    return seqio.FunctionDataSource(dataset_fn, splits=splits)


def _has_choices(task: tasks.Task, data_options: tasks.DataOptions) -> bool:
    if task.num_choices is not None:
        return task.num_choices != 0
    return task.template.load(data_options.templates_dir).answer_choices is not None


def _size_rate(task: Any, *, data_options: tasks.DataOptions, cap: int | None) -> float:
    """Returns the number of training examples of a registered task, capped."""
    size = _train_size(task.name, data_options)
    return float(size if cap is None else min(size, cap))


@functools.lru_cache(maxsize=4096)
def _train_size(name: str, data_options: tasks.DataOptions) -> int:
    task = tasks.registry.task(name)
    if isinstance(task, tasks.SeqioTask):
        return user_task(task).num_input_examples("train")
    return len(rendering.render_split(task, "train", data_options))
