"""What a finished expert says of itself to people: `card.md` beside its manifest."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from elm_jax.checkpoints.manifest import Manifest
from elm_jax.runs import licences

FILE_NAME = "card.md"


def text(info: Manifest, templates: Mapping[str, str]) -> str:
    """Returns an expert's card as Markdown: the same for the same arguments.

    Scores are not in it: these come later, and a finished expert does not change.

    Args:
      info: The expert's manifest.
      templates: Text of the template by task, of those that have one at hand.
    """
    vocabulary = info.vocabulary.get("fingerprint", "not known")
    facts = {
        "kind": info.kind,
        "base": info.base_label,
        "adapter": (info.adapter or {}).get("kind", "none"),
        "trained parameters": _code(info.trainable_pattern),
        "vocabulary": f"fingerprint {vocabulary}",
        "steps": info.steps,
        "seed": info.seed,
        **{f"{name} at the end": f"{info.metrics[name]:.4g}" for name in info.metrics},
        "licence of the data": licences.of(info),
        "made with": ", ".join(
            f"{name} {version}" for name, version in info.versions.items()
        ),
    }
    parts = [
        f"# {info.name}",
        _table(("", ""), facts.items()),
        "## Training rows",
        _table(("task", "rows", "fingerprint", "licence"), _rows(info)),
        "## Settings",
        _table(("setting", "value"), _flat(info.training)),
        "## Templates",
        *(_template(task, templates.get(task, "")) for task in info.tasks),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(info: Manifest) -> Iterator[tuple[Any, ...]]:
    for task in info.tasks:
        facts = info.data.get(task, {})
        of_data = (facts.get(name, "") for name in ("num_examples", "fingerprint"))
        yield (task, *of_data, licences.of_task(info, task))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name != "model":
            yield f"{prefix}{name}", _code(f"{value}")


def _template(task: str, template: str) -> str:
    if not template:
        return f"{task}: none, or not at hand."
    longest = max(map(len, re.findall("`+", template)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{task}:\n\n{fence}jinja\n{template}\n{fence}"


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _table(heads: tuple[str, ...], rows: Any) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    cells = ([f"{cell}".replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
