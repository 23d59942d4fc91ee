"""The page of first-class merge methods, made of their docstrings and of our study.

    python -m tests.merging.methods_page

writes it. Options are those of the classes, scores those of the README's tables.
"""

import inspect
import pathlib
import re
import textwrap

from elm_jax import fields
from elm_jax.cli import help_text, selectors
from elm_jax.merging import combining, methods
from elm_jax.runs import merge_searches
from tests import readmes

README = pathlib.Path(combining.__file__).with_name("README.md")
PAGE = README.with_name("METHODS.md")

# Name: when to take it, and the rows of each of the study's tables; "" for none.
FIRST_CLASS = {
    "uniform": (
        "Take it first. It needs nothing but the experts, and of three retrieved prompt"
        " experts no method is shown to beat it. Of three LoRAs, whose A and B it"
        " averages apart, `fisher` and `regmean` do.",
        ("uniform (the mean)",) * 5,
    ),
    "weighted": (
        "Take it where something tells which experts matter, such as the votes of"
        " retrieval: of many experts that is what helps. It needs no base.",
        ("weighted 3 : 1", *("weighted by votes",) * 4),
    ),
    "task_arithmetic": (
        "Take it to add what few experts have learnt, or to subtract it by a negative"
        " weight, with a scale that validation rows choose. Of adapters it is the exact"
        " sum of what they do, which grows as wide as all of them.",
        (
            "task arithmetic",
            "task arithmetic, scale 0.5",
            "task arithmetic, scale 0.05",
            "task arithmetic, scale 1",
            "task arithmetic, scale 0.1",
        ),
    ),
    "low_rank_sum": (
        "Take it for LoRAs: their exact sum, or the nearest one of a rank, with a scale"
        " that validation rows choose. A cut to the rank of one expert is not shown to"
        " take anything away here.",
        (
            "",
            "",
            "",
            ("low_rank_sum, all ranks, scale 1", "low_rank_sum, rank of one, scale 1"),
            (
                "low_rank_sum, all ranks, scale 0.1",
                "low_rank_sum, rank of one, scale 0.3",
            ),
        ),
    ),
    "ties": (
        "Take it where a sum is too much and signs disagree, with a density and a scale"
        " that validation rows choose. It did not beat the mean here, and takes"
        " something from a single expert, too.",
        (
            "TIES",
            "TIES, scale 1",
            "TIES, scale 0.5",
            "TIES, scale 1",
            "TIES, scale 0.5",
        ),
    ),
    "regmean": (
        "Take it for few experts whose own tasks are to be kept, if there are rows of"
        " these tasks, with their targets, to measure with each of them.",
        ("regmean",) * 5,
    ),
    "fisher": (
        "Take it as `regmean`, for all parameters. It stays nearer to the mean, and had"
        " the highest score of all merges of three retrieved LoRAs.",
        ("fisher",) * 5,
    ),
    "covariance": (
        "Take it where there are no rows to measure with, and compare it with `wudi`"
        " and the mean on validation rows: here its scores were mostly lower than"
        " theirs.",
        ("covariance",) * 5,
    ),
    "wudi": (
        "Take it where there are no rows to measure with, for few experts whose own"
        " tasks are to be kept.",
        ("wudi",) * 5,
    ),
    "ace": (
        "Take it as `wudi`, where some experts change the base much more than others.",
        ("ace",) * 5,
    ),
    "greedy_soup": (
        "Take it where there are labelled rows of the task itself. It chooses experts"
        " rather than merging them: most of its soups here are one expert alone.",
        ("greedy_soup", "greedy soup", "greedy soup", "", ""),
    ),
    "lorahub": (
        "Take it where there are a few labelled rows of the task itself. Without"
        " gradients, as by default, it had about the score of a greedy soup among three"
        " retrieved prompt experts here, and beat the best voted of three LoRAs. Choose"
        " few experts first: of all 20 it found nothing in 40 steps.",
        (*("lorahub, without gradients",) * 2, "", "", ""),
    ),
    "adamerging": (
        "Take it with care where there are rows without labels: here it made the model"
        " sure of its answers and took from it what its experts know.",
        (*("adamerging",) * 3, "", ""),
    ),
}
STUDY = {
    "the two parts of the composed task": "**The two parts of the composed task**",
    "three retrieved prompt experts": "**Three retrieved prompt experts of",
    "all 20 prompt experts": "**All 20 prompt experts**",
    "three retrieved LoRA experts": "**Three retrieved LoRA experts of",
    "all 20 LoRA experts": "**All 20 LoRA experts**",
}
SEARCHES = {
    search.kind: search
    for search in (
        merge_searches.GreedySoup,
        merge_searches.LoraHub,
        merge_searches.AdaMerging,
    )
}
_HEAD = """# First-class merge methods

*Made by `python -m tests.merging.methods_page` of docstrings and of the tables in
[README.md](README.md#what-methods-are-worth), which tells all methods and their use.*

Scores are percent of test rows of tasks that no expert was trained on, with 95 %
intervals, over three trainings of the pocket world, a small world of made-up texts. A
star marks differences whose interval excludes 0 also where all of a column's are to
hold together. The gin files are run in the folder of the project, and merge experts of
`gin/pocket/dataset_experts.gin`: `elm_merge --gin_file=FILE
--gin.MODEL_DIR=runs/pocket`.
"""


def text():
    """The page."""
    return "\n".join([_HEAD, *(_section(name) for name in FIRST_CLASS)])


def part_of(name):
    """The class of a method or a search."""
    return SEARCHES.get(name) or methods.METHODS[name]


def gin_of(name):
    """A gin file that merges two experts of the embedded suite by it."""
    part = part_of(name)
    method, modules = part, {"elm_jax.runs.merge"}
    fields_of, bindings = {}, {}
    if name in SEARCHES:
        is_mean = name == "greedy_soup"
        method = methods.METHODS["uniform" if is_mean else "task_arithmetic"]
        fields_of["search"] = f"@{selectors.of(part)}()"
        bindings[f"{selectors.of(part)}.rows"] = "@search_rows.Rows()"
        bindings["search_rows.Rows.tasks"] = '"pocket_composed"'
        modules |= {"elm_jax.runs.search_rows", part.__module__}
    elif method.needs_statistics:
        fields_of["measuring"] = "@measuring.Measuring()"
        modules.add("elm_jax.runs.measuring")
    needs_rows = bool(fields_of)
    fields_of["method"] = f"@{selectors.of(method)}()"
    if needs_rows:
        fields_of["data"] = "@task_data.TaskData()"
        modules.add("elm_jax.runs.task_data")
    if name in _EXAMPLES:
        option, value = _EXAMPLES[name]
        bindings[f"{selectors.of(part)}.{option}"] = value
    imports = sorted(modules | {method.__module__})
    suite = 'include "gin/parts/suites/pocket.gin"\n'
    lines = [
        "from __gin__ import dynamic_registration\n",
        *([suite] if needs_rows else []),
        *("from {} import {}".format(*module.rsplit(".", 1)) for module in imports),
        *([] if needs_rows else ["\nMODEL_DIR = %gin.REQUIRED"]),
        _MERGE.format(name=name),
        *(f"  {field} = {value}" for field, value in fields_of.items()),
        *([""] if bindings else []),
        *(f"{field} = {value}" for field, value in bindings.items()),
    ]
    return "\n".join(lines)


_MERGE = """
merge.Merge:
  model_dir = %MODEL_DIR
  initial_checkpoint_path = "{{MODEL_DIR}}/base"
  experts = (
      "{{MODEL_DIR}}/dataset_experts/pocket_topics",
      "{{MODEL_DIR}}/dataset_experts/pocket_reviews",
  )
  expert_name = "merged_by_{name}\""""
# An option that people set, and a value.
_EXAMPLES = {
    "weighted": ("weights", "(3.0, 1.0)"),
    "task_arithmetic": ("scale", "0.5"),
    "ties": ("density", "0.2"),
    "regmean": ("shrink", "0.9"),
    "lorahub": ("max_steps", "40"),
    "adamerging": ("by", "'expert'"),
}


def _section(name):
    part = part_of(name)
    when, rows = FIRST_CLASS[name]
    body = inspect.getdoc(part).partition("\nAttributes:")[0]
    title, _, explained = body.partition("\n\n")
    explained, _, reference = explained.partition("Reference:")
    reference = " ".join((reference or part.reference).split()).removesuffix(".")
    return "\n".join(
        [
            f"## `{name}`\n",
            f"{title}\n",
            f"{explained.strip()}\n",
            f"{_wrapped(f'*When to take it.* {when}')}\n",
            f"{_wrapped(f'*Paper.* {_linked(reference)}.')}\n",
            _options(part),
            _scores(rows),
            f"```\n{gin_of(name)}\n```\n",
        ]
    )


def _wrapped(paragraph):
    return textwrap.fill(paragraph, 88, break_long_words=False, break_on_hyphens=False)


def _linked(reference):
    return re.sub(
        r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", reference
    )


def _options(part):
    documented = help_text.documented(part)
    lines = [
        f"| `{field.name}` | `{_shown(field.default)}` | {documented[field.name]} |"
        for field in fields.of(part)
    ]
    if not lines:
        return "It has no options.\n"
    return "\n".join(["| option | default | |", "|---|---|---|", *lines, ""])


def _shown(default):
    is_part = hasattr(default, "__dataclass_fields__")
    return f"@{selectors.of(type(default))}()" if is_part else repr(default)


def _scores(rows):
    text = README.read_text("utf-8")
    lines = []
    for (study, title), labels in zip(STUDY.items(), rows, strict=True):
        table = readmes.table_after(text, title)
        for label in filter(None, [labels] if isinstance(labels, str) else labels):
            (cells,) = [cells for cells in table if cells[0] == label]
            lines.append(
                f"| {study}: {label} | {cells[1]} | {cells[2] or 'it is the mean'} |"
            )
    if not lines:
        return ""
    return "\n".join(
        ["| in our study | score | against the mean |", "|---|---|---|", *lines, ""]
    )


if __name__ == "__main__":
    PAGE.write_text(text(), "utf-8")
