"""Rows of the tables of prompts as tasks: source, template, splits."""

from collections.abc import Mapping

from elm_jax.data import serving, tasks, template_files
from tasks import places, table_rows

# The template offers four letters; of five choices the fifth is right for a fifth of
# the questions. Those rows are dropped and counted.
_MAX_BAD_SHARE = {"commonsense_qa_question_to_answer_index": 0.25}
_NUM_SEEN_ROWS, _SEED = 300, 42


def task_of(prompt: table_rows.Prompt, *, folder: str | None = None) -> tasks.Task:
    """Returns the task of a row.

    Args:
      prompt: The row.
      folder: Where its template lies; None for PromptSource's templates, which the
        user has unpacked.
    """
    dataset = table_rows.datasets()[prompt.dataset]
    name, subset = dataset.folder
    return tasks.Task(
        name=prompt.task,
        dataset=prompt.dataset,
        prompt=prompt.prompt,
        cluster=dataset.cluster,
        source=places.source_of(
            dataset, prompt.fields, p3_task=prompt.task if folder is None else ""
        ),
        template=template_files.TemplateRef(
            name,
            prompt.prompt,
            subset,
            folder,
            jinja_sha256=prompt.jinja_sha256,
            choices=prompt.choices,
        ),
        metrics=prompt.metrics,
        splits=_splits(dataset, prompt),
        role=dataset.role,
        note=dataset.note,
        licence=table_rows.licence(prompt.dataset),
        num_choices=prompt.num_choices,
        max_bad_share=_MAX_BAD_SHARE.get(prompt.task, 0.05),
    )


def _splits(
    dataset: table_rows.Dataset, prompt: table_rows.Prompt
) -> Mapping[str, str]:
    """Returns our split names to parts of the dataset's own splits."""
    splits = dict(dataset.splits)
    if dataset.role != "train" or not prompt.elm:
        return splits
    validation = serving.Part.parse(splits["validation"]).split
    seen = f"{validation}[:{_NUM_SEEN_ROWS}]~{_SEED}"
    cap, rows = prompt.max_examples, dataset.rows["train"]
    train = f"train[:{cap}]~{_SEED}" if cap is not None and cap < rows else "train"
    return splits | {
        "validation_300": seen,
        "validation_300@elm": dataset.elm.get("validation", seen),
        "train@elm": dataset.elm.get("train", train),
        "validation@elm": dataset.elm.get("validation", seen),
    }
