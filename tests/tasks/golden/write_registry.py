"""Writes registry_names.txt: every registered task and mixture, by module of tasks/.

    python tests/tasks/golden/write_registry.py

Names may be added. Experts and results name tasks, so one that is gone breaks them: a
changed task gets a new name.
"""

import importlib
import pathlib
import pkgutil

import tasks
from elm_jax.data.tasks import registry

PATH = pathlib.Path(__file__).parent / "registry_names.txt"
# Others import these, and so come later.
FIRST = ("t0", "own", "pocket", "bigbench", "generative", "compositional")


def names_by_module() -> dict[str, list[str]]:
    """What each module adds; only true in a process that has imported none of them."""
    added: dict[str, list[str]] = {}
    before: set[str] = set()
    modules = [module.name for module in pkgutil.iter_modules(tasks.__path__)]
    for module in (*FIRST, *sorted(set(modules) - set(FIRST))):
        importlib.import_module(f"tasks.{module}")
        names = set(registry.match("*"))
        if names - before:
            added[module] = sorted(names - before)
        before = names
    return added


def main() -> None:
    added = names_by_module()
    lines = [f"{module} {name}" for module, names in added.items() for name in names]
    PATH.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
