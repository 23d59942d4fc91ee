"""Writes official_examples.csv: a hash of every official task's rendered examples.

    python tests/tasks/golden/write_official.py TEMPLATES_DIR

Rows are the made ones of tasks/tables/examples.json; templates PromptSource 0.2.3's.
Only hashes are kept: the texts are PromptSource's. Run it again only if a template is
meant to render otherwise, and say so in the change's message.
"""

import csv
import hashlib
import pathlib
import sys

from elm_jax.data import rendering, tasks
from tasks import t0

PATH = pathlib.Path(__file__).parent / "official_examples.csv"


def render(task: tasks.Task, templates_dir: str) -> rendering.RenderedSplit:
    data_options = tasks.DataOptions(
        "", templates_dir=templates_dir, sources=("examples",)
    )
    split = "validation"
    return rendering.render_split(task, split, data_options)


def digest(rendered: rendering.RenderedSplit) -> str:
    columns = (
        rendered.example_ids,
        rendered.inputs,
        rendered.targets,
        rendered.choices,
    )
    text = repr([list(row) for row in zip(*columns, strict=True)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(templates_dir: str) -> None:
    with PATH.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "num_examples", "sha256"])
        for task in t0.TASKS:
            rendered = render(task, templates_dir)
            writer.writerow([task.name, len(rendered), digest(rendered)])


if __name__ == "__main__":
    main(sys.argv[1])
