"""BIG-bench's `task.json` files as rows, and the prompt that the paper makes of a row.

What the files say, and how programs read it:

- *Choices are shown* unless the file says otherwise. `logic_grid_puzzle` has the text
  "false" instead of a truth value; BIG-bench's own program and the original ELM code
  read it as true, and so do we.
- *Repeated examples* (one in `strategyqa`, three in `winowhy`) are left out, as by
  BIG-bench's own program; the original ELM code kept them, and so does the split `elm`.
- *Order.* Choices are shown and ranked in the file's order. BIG-bench's own program
  shuffles what it shows, and its choice prefix has a space more.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elm_jax.data import rendering, row_files, sources, templates

ALL, ELM = "all", "elm"  # the splits
TWO_CORRECT = "more than one correct choice"
REPEATED = sources.Skipped("an earlier example again")
PREFIXES: Mapping[str, str] = {
    "task_prefix": "",
    "example_input_prefix": "\nQ: ",
    "choice_prefix": "\n choice: ",
    "example_output_prefix": "\nA: ",
}
"""Fields of a file that go into every prompt of it, and what they are if left out."""


def task_json(paths: Sequence[pathlib.Path], split: str) -> Iterator[Any]:
    """Yields one row per example of files, one after another.

    Bytes that are not UTF-8 become characters that rendering refuses, row by row.

    Args:
      paths: Files `task.json`; those of a task with subtasks are the subtasks'.
      split: `all`, or `elm` for repeated examples too.

    Raises:
      ValueError, KeyError, TypeError, AttributeError, RecursionError: A file is not a
        multiple-choice task.
    """
    for path in paths:
        yield from rows(row_files.read_json(path), split)


def rows(content: Mapping[str, Any], split: str) -> Iterator[Any]:
    """Yields one row per example of a file's content; see `task_json`."""
    shared: dict[str, Any] = {}
    for name, default in PREFIXES.items():
        shared[name] = content.get(name, default)
        if not isinstance(shared[name], str):
            raise TypeError(f"{name} is {shared[name]!r:.80}, no text")
    shown = content.get("append_choices_to_input", True)
    if not isinstance(shown, (bool, str)):
        raise TypeError(f"append_choices_to_input is {shown!r:.80}, no truth value")
    shared["append_choices_to_input"] = bool(shown)
    if not isinstance(content["examples"], list):
        raise TypeError("examples is no list")
    seen: set[str] = set()
    for example in content["examples"]:
        as_text = json.dumps(example, sort_keys=True)
        if as_text in seen and split != ELM:
            yield REPEATED
            continue
        seen.add(as_text)
        if not isinstance(example, Mapping):
            yield example  # rendering counts it
            continue
        fields = {name: example[name] for name in _FIELDS if name in example}
        yield {**shared, **fields}


_FIELDS = ("input", "target_scores")


def zero_shot(row: sources.Row) -> tuple[str, str, tuple[str, ...]]:
    r"""Returns a row's prompt, its correct choice and its choices.

    The prompt is task prefix, input prefix, input, every choice after the choice prefix
    if choices are shown, and output prefix, with nothing between.

    >>> row = {**PREFIXES, "append_choices_to_input": True, "input": "1 + 1?"}
    >>> zero_shot({**row, "target_scores": {"3": 0, "2": 1}})
    ('\nQ: 1 + 1?\n choice: 3\n choice: 2\nA: ', '2', ('3', '2'))

    Raises:
      RowError: Not exactly one choice has the score 1.
      KeyError, TypeError: A field is missing or of another type.

    Reference: joeljang/ELM, `retrieval/make_benchmarks.py`.
    """
    scores = row["target_scores"]
    if not isinstance(scores, Mapping) or not isinstance(row["input"], str):
        raise TypeError("input is no text, or target_scores no mapping")
    for choice, score in scores.items():
        if not isinstance(score, (int, float)) or isinstance(score, bool):
            raise TypeError(f"the score of {choice!r:.80} is {score!r:.80}, no number")
    correct = [choice for choice, score in scores.items() if score == 1]
    if len(correct) != 1:
        reason = TWO_CORRECT if correct else rendering.NO_CORRECT_CHOICE
        raise templates.RowError(reason, f"{dict(scores)!r:.200}")
    shown = scores if row["append_choices_to_input"] else ()
    parts = (
        row["task_prefix"],
        row["example_input_prefix"],
        row["input"],
        *(row["choice_prefix"] + choice for choice in shown),
        row["example_output_prefix"],
    )
    return "".join(parts), correct[0], tuple(scores)
