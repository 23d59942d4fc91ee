"""Several trainings of each expert, which differ in nothing but the seed."""

from collections.abc import Mapping, Sequence

from elm_jax.runs import expert_settings
from elm_jax.runs.training import options


def by_folder(random_seed: int | Sequence[int]) -> dict[str, int]:
    """Returns seeds, by the folder below `experts_dir` for the experts of each.

    >>> by_folder(42), by_folder((42, 43))
    ({'': 42}, {'seed42/': 42, 'seed43/': 43})

    Args:
      random_seed: One, whose experts lie in no folder of their own, or several.
    """
    if isinstance(random_seed, int):
        return {"": random_seed}
    return {f"seed{seed}/": seed for seed in random_seed}


def problems(
    random_seed: int | Sequence[int],
    results: options.Results,
    per_expert: Mapping[str, expert_settings.ExpertSettings],
) -> dict[str, str]:
    """Returns what would be right instead of fields that do not go with the seeds.

    Args:
      random_seed: One or several.
      results: Where experts go.
      per_expert: Settings by patterns of names.
    """
    if isinstance(random_seed, int):
        return {}
    wrong = {}
    if not random_seed or len({*random_seed}) < len(random_seed):
        wrong["random_seed"] = "a seed, or one or more different ones"
    if results.publish_url or results.library_dir:
        wrong["results"] = (
            "no publish_url or library_dir with several seeds, as a bucket or a library"
            " holds one expert of each name: build a library for each seed"
        )
    if any(settings.random_seed is not None for settings in per_expert.values()):
        wrong["per_expert"] = "no random_seed where the run has several"
    return wrong
