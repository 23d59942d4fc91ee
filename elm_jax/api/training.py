"""Training an expert on rows from Python, by the machinery of `elm_train`."""

import contextlib
import dataclasses
import json
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

from elm_jax import errors, paths
from elm_jax.api import pieces, rows
from elm_jax.data import sources, tasks
from elm_jax.disk import files
from elm_jax.peft import adapters, bottleneck
from elm_jax.runs import loaded, task_data, train, vocabularies
from elm_jax.training import optimizers

LENGTHS = {"inputs": 512, "targets": 64}
_ORIGIN = "the call of elm_jax.train"


def train_expert(
    base: loaded.Base,
    examples: Sequence[rows.Row],
    *,
    name: str,
    steps: int = 300,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    adapter: adapters.AdapterSpec | None = None,
    lengths: Mapping[str, int] | None = None,
    seed: int = 42,
    vocabulary: str | pathlib.Path | None = None,
    folder: str | pathlib.Path | None = None,
    licence: str = "",
) -> loaded.Expert:
    """Returns a prompt expert of a base: adapters and layer norms.

    Args:
      base: What it is trained on; stays as it is.
      examples: Mappings with the texts `inputs` and `targets`, and `choices` if the
        target is one of several.
      name: The name of the expert, and of the task in its manifest.
      steps: Updates, by AdamW with linear decay.
      batch_size: Examples per update, over all devices.
      learning_rate: The rate of the first step.
      adapter: By default the paper's bottleneck adapters, of a width of 1/32 of the
        model's, or of the least greater share that divides it.
      lengths: Tokens of `inputs` and `targets` above which they are cut; by default
        512 and 64.
      seed: The seed of initialisation and batches.
      vocabulary: A SentencePiece model, for a base that brings none.
      folder: Where rows, token cache, states and the expert lie; the same call goes on
        there if it was stopped. None for one that is removed.
      licence: The rows' licence, for the expert's manifest and card; "" if not known.

    Raises:
      ConfigError: A value is out of range, or the adapter does not fit the base.
      DataError: Rows are empty or wrong.
      TrainingError: The loss is not finite.
    """
    with contextlib.ExitStack() as entered:
        is_scratch = folder is None
        if folder is None:
            folder = entered.enter_context(
                tempfile.TemporaryDirectory(prefix="elm_jax-")
            )
        home = paths.absolute(folder)
        task = _task(name, has_choices=rows.have_choices(examples), licence=licence)
        _write_rows(home / "rows" / f"{name}.jsonl", examples)
        _register(task)
        job = train.Train(
            model_dir=f"{home}",
            kind="prompt",
            tasks=name,
            data=_data(base, home, vocabulary, lengths or LENGTHS),
            optimizer=optimizers.AdamW(learning_rate=learning_rate),
            train_steps=steps,
            batch_size=batch_size,
            initial_checkpoint_path=f"{_base_dir(base, home)}",
            adapter=adapter or _default_adapter(base.config.emb_dim),
            random_seed=seed,
        )
        job.run()
        expert = loaded.Expert.load(job.expert_dir(name))
        return dataclasses.replace(expert, folder=None) if is_scratch else expert


def _default_adapter(emb_dim: int) -> bottleneck.Bottleneck:
    """Returns the paper's adapters; wider ones where 32 does not divide the width."""
    return bottleneck.Bottleneck(reduction_factor=math.gcd(32, emb_dim))


def _write_rows(path: pathlib.Path, examples: Sequence[rows.Row]) -> None:
    """Writes rows as lines of JSON; raises DataError if others are there."""
    text = "".join(f"{json.dumps(dict(row))}\n" for row in examples)
    if path.is_file() and files.read_text(path) != text:
        raise errors.DataError(
            found=f"other rows of {path.stem!r} in {path}",
            expected="the rows with which the training there began",
            do="Choose another name or folder, or remove the folder",
        )
    files.write_text(path, text)


def _task(name: str, *, has_choices: bool, licence: str) -> tasks.Task:
    return tasks.Task(
        name=name,
        dataset=name,
        prompt="as_given",
        cluster="Own rows",
        source=sources.FileRows(
            sources.json_lines,
            {"train": (f"{name}.jsonl",)},
            origin=_ORIGIN,
        ),
        template=rows.template(has_choices),
        metrics=("accuracy",) if has_choices else ("rouge",),
        splits={"train": "train"},
        licence=licence,
    )


def _register(task: tasks.Task) -> None:
    """Registers a task, in place of one that an earlier call made by the name.

    Raises:
      ConfigError: Somebody else's task has the name.
    """
    old_task = tasks.registry.find(task.name)
    source = old_task.source if isinstance(old_task, tasks.Task) else None
    if isinstance(source, sources.FileRows) and source.origin == _ORIGIN:
        tasks.registry.remove(task.name)
    tasks.registry.add(task)


def _data(
    base: loaded.Base,
    home: pathlib.Path,
    vocabulary: str | pathlib.Path | None,
    lengths: Mapping[str, int],
) -> task_data.TaskData:
    sentence_piece = pieces.of_base(base, vocabulary)
    path = f"{vocabulary}"
    if vocabulary is None:
        content = base.attached[vocabularies.FILE_NAME]
        path = f"{home / vocabularies.FILE_NAME}"
        files.write_bytes(pathlib.Path(path), content)
    return task_data.TaskData(
        vocabulary_path=path,
        extra_ids=sentence_piece.extra_ids,
        feature_lengths=dict(lengths),
        data_dir=f"{home / 'rows'}",
        sources=("files",),
    )


def _base_dir(base: loaded.Base, home: pathlib.Path) -> pathlib.Path:
    """Returns a folder that holds the base; one below `home` is made if none does."""
    if base.folder is not None:
        return base.folder
    folder = home / "base"
    if not folder.exists():
        base.save(folder)
    return folder
