"""What a user should know of the data before a run trains on it or scores it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from elm_jax import errors
from elm_jax.data import token_store
from elm_jax.partitioning import processes

_NOTABLE_SHARE = 0.05
_MOST_NAMED = 5

Dataset = token_store.TokenizedDataset


def check(datasets: Iterable[Dataset]) -> None:
    """Prints what share of inputs is cut, unreadable or missing, where it is much.

    Raises:
      DataError: Every input of a dataset is cut, so that no example shows the end of
        its template, such as the question.
    """
    unique = list(
        {(dataset.name, dataset.split): dataset for dataset in datasets}.values()
    )
    cut = [dataset for dataset in unique if _cut_share(dataset) == 1]
    if cut:
        name = f"{cut[0].split} of {cut[0].name}"
        more_tasks = f" and of {len(cut) - 1} more tasks" if len(cut) > 1 else ""
        longest = cut[0].manifest["length_percentiles"]["inputs"]
        limit = cut[0].manifest["key"]["inputs_length"]
        raise errors.DataError(
            found=f"every input in {name}{more_tasks} is longer than inputs_length="
            f"{limit} tokens, and cut at its end",
            expected=f"room for most: half have {longest['50']} tokens, 90 % have "
            f"{longest['90']}, the longest {longest['100']}",
            do="Set inputs (TASK_FEATURE_LENGTHS) higher, or choose a prompt with "
            "the question before the text",
        )
    if processes.is_main():
        for doubt, share_fn in _DOUBTS.items():
            line = _line(unique, doubt, share_fn)
            if line:
                print(line)  # noqa: T201


def describe(dataset: Dataset) -> dict[str, Any]:
    """Returns what a manifest records of a dataset's examples."""
    counts = ("num_rows", "dropped", "cut", "unknown", "indistinct")
    return {
        "num_examples": len(dataset),
        "fingerprint": dataset.fingerprint,
        **{name: dataset.manifest[name] for name in counts},
    }


def _line(
    datasets: list[Dataset], doubt: str, share_fn: Callable[[Dataset], float]
) -> str:
    """Returns a line about the datasets with a notable share of a doubt, or ""."""
    shares = {
        f"{dataset.name} {dataset.split}": share_fn(dataset) for dataset in datasets
    }
    notable = {name: share for name, share in shares.items() if share > _NOTABLE_SHARE}
    if not notable:
        return ""
    ordered = sorted(notable.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{100 * share:.1f} % of {name}" for name, share in ordered[:_MOST_NAMED]]
    if len(ordered) > _MOST_NAMED:
        parts.append(
            f"and more than {_NOTABLE_SHARE:.0%} of {len(ordered) - _MOST_NAMED}"
        )
    return f"{doubt}: {', '.join(parts)}"


def _cut_share(dataset: Dataset) -> float:
    return float(dataset.columns.inputs_cut.mean()) if len(dataset) else 0.0


def _dropped_share(dataset: Dataset) -> float:
    num_rows = dataset.manifest["num_rows"]
    return 1 - len(dataset) / num_rows if num_rows else 0.0


def _unknown_share(dataset: Dataset) -> float:
    unknown: Mapping[str, Mapping[str, int]] = dataset.manifest["unknown"]
    most = max(count["examples"] for count in unknown.values())
    return most / len(dataset) if len(dataset) else 0.0


_DOUBTS: Mapping[str, Callable[[Dataset], float]] = {
    "inputs are cut": _cut_share,
    "rows are dropped": _dropped_share,
    "characters are unknown to the vocabulary": _unknown_share,
}
