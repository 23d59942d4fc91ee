"""In which proportion one model is trained on its tasks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from elm_jax.data import seqio_tasks, token_store
from elm_jax.data import tasks as task_registry

if TYPE_CHECKING:
    from elm_jax.runs import train

Examples = Sequence[token_store.TokenizedDataset]


def caps(run: "train.Train", examples: Examples) -> dict[str, int]:
    """Returns the most examples to use, by task, of those that have a limit."""
    found = task_registry.registry.caps(run.tasks)
    limit = run.max_examples
    if limit:
        return {d.name: min(limit, found.get(d.name, limit)) for d in examples}
    return {d.name: found[d.name] for d in examples if d.name in found}


def check_rates(run: "train.Train", examples: Mapping[str, Examples]) -> None:
    """Raises ConfigError if a mixture asks for rates that no model here is trained at.

    Args:
      run: The training.
      examples: Data by expert; an expert of one task mixes nothing.
    """
    for mixture in task_registry.registry.mixtures_of(run.tasks):
        for datasets in examples.values():
            if not mixture.has_rates or len(datasets) < 2:
                continue
            most = caps(run, datasets)
            sizes = {d.name: min(len(d), most.get(d.name, len(d))) for d in datasets}
            seqio_tasks.check_rates(mixture, sizes)
