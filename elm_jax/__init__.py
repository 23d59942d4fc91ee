"""Trainer, library and evaluator for expert language models in JAX.

The public names are imported when they are first asked for:

| name | is |
|---|---|
| `Base` | a whole model; `Base.load(place)`, `.save(place)` |
| `Expert` | what was trained on one; `Expert.load(place)`, `.save(place)` |
| `Model(base, expert)` | `.score(text, choices)`, `.choose(...)`, `.generate(text)` |
| `Library(folder)` | `.retrieve(texts)`, `.route(texts, choices)`, `.load(name)` |
| `merge(experts, base, name=...)` | the expert that several are together |
| `train(base, rows, name=...)` | an expert trained on a list of dicts |
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elm_jax.api.libraries import Library
    from elm_jax.api.merging import merge_experts as merge
    from elm_jax.api.models import Model
    from elm_jax.api.training import train_expert as train
    from elm_jax.runs.loaded import Base, Expert

__version__ = "0.2.0.dev0"

_HOMES = {
    "Base": ("elm_jax.runs.loaded", "Base"),
    "Expert": ("elm_jax.runs.loaded", "Expert"),
    "Library": ("elm_jax.api.libraries", "Library"),
    "Model": ("elm_jax.api.models", "Model"),
    "merge": ("elm_jax.api.merging", "merge_experts"),
    "train": ("elm_jax.api.training", "train_expert"),
}

__all__ = ["Base", "Expert", "Library", "Model", "merge", "train"]


def __getattr__(name: str) -> Any:
    """Returns a name of the public surface, and imports what it needs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """Returns the public names beside the module's own."""
    return sorted({*globals(), *_HOMES})
