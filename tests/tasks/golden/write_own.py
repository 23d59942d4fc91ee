"""Writes own_examples.json: the first made row under every prompt in our own words.

    python tests/tasks/golden/write_own.py

Run it again only if a prompt is meant to read otherwise; such a prompt gets a new name.
"""

import json
import pathlib
from typing import Any

from elm_jax.data import rendering, tasks
from tasks import own

PATH = pathlib.Path(__file__).parent / "own_examples.json"
PLACES = tasks.DataOptions("", sources=("examples",))


def first_example(task: tasks.Task) -> dict[str, Any]:
    rendered = rendering.render_split(task, "validation", PLACES)
    return {
        "inputs": rendered.inputs[0],
        "targets": rendered.targets[0],
        "choices": list(rendered.choices[0]),
    }


def main() -> None:
    content = {task.name: first_example(task) for task in own.TASKS}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    PATH.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
