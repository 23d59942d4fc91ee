"""In which proportion one model is trained on its tasks."""

from collections.abc import Mapping, Sequence

from elm_jax.data import seqio_tasks, token_store
from elm_jax.data import tasks as task_registry

Examples = Sequence[token_store.TokenizedDataset]


def caps(
    tasks: str | tuple[str, ...], max_examples: int, examples: Examples
) -> dict[str, int]:
    """Returns the most examples to use, by task, of those that have a limit.

    Args:
      tasks: Names or patterns of tasks and mixtures, some of which have limits.
      max_examples: Limit of each task; 0 for none.
      examples: Data of one expert.
    """
    limits = task_registry.registry.caps(tasks)
    most = max_examples
    if most:
        return {d.name: min(most, limits.get(d.name, most)) for d in examples}
    return {d.name: limits[d.name] for d in examples if d.name in limits}


def check_rates(
    tasks: str | tuple[str, ...], max_examples: int, examples: Mapping[str, Examples]
) -> None:
    """Raises ConfigError if a mixture asks for rates that no model here is trained at.

    Args:
      tasks: Names or patterns of tasks and mixtures.
      max_examples: Limit of each task; 0 for none.
      examples: Data by expert; an expert of one task mixes nothing.
    """
    for mixture in task_registry.registry.mixtures_of(tasks):
        for datasets in examples.values():
            if not mixture.has_rates or len(datasets) < 2:
                continue
            most = caps(tasks, max_examples, datasets)
            sizes = {d.name: min(len(d), most.get(d.name, len(d))) for d in datasets}
            seqio_tasks.check_rates(mixture, sizes)
