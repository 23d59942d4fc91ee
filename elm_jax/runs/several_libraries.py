"""Libraries of several trainings of the same experts, which are asked alike."""

import dataclasses
from collections.abc import Sequence

from elm_jax import errors, paths
from elm_jax.runs import queries
from elm_jax.runs.run import Run


def retrievals(
    retrieval: queries.Queries, patterns: paths.Patterns, run: Run
) -> list[queries.Queries]:
    """Returns how each library is asked; its votes go into its own folder.

    Args:
      retrieval: How one library is asked; returned alone where there is no pattern.
      patterns: Of the folders of libraries.
      run: Whose paths these are.

    Raises:
      LibraryError: A pattern matches nothing.
    """
    pattern_list = (patterns,) if isinstance(patterns, str) else patterns
    retrieval_list = []
    for pattern in pattern_list:
        folders = run.find(pattern)
        if not folders:
            raise errors.LibraryError(
                found=f"no folder that matches {run.path(pattern)}",
                expected="folders of libraries, one for each training",
                do="Make them (gin/pocket/library.gin), or correct the pattern",
            )
        for folder in folders:
            votes = f"{folder / 'votes.jsonl'}"
            of_library = {"library_dir": f"{folder}", "votes_path": votes}
            retrieval_list.append(dataclasses.replace(retrieval, **of_library))
    return retrieval_list or [retrieval]


def check(retrieval_list: Sequence[queries.Queries], run: Run) -> None:
    """Raises LibraryError unless libraries differ in the training seed alone.

    Args:
      retrieval_list: How each library is asked; a single one is not compared.
      run: Whose paths these are.
    """
    if len(retrieval_list) == 1:
        return
    trained = [retrieval.training_of(run) for retrieval in retrieval_list]
    seeds = [seed for _, seed in trained]
    if len({recipes for recipes, _ in trained}) > 1 or len({*seeds}) < len(seeds):
        libraries = [
            f"{retrieval.library_dir} (seed {seed})"
            for retrieval, seed in zip(retrieval_list, seeds, strict=True)
        ]
        raise errors.LibraryError(
            found=f"the libraries {', '.join(libraries)}",
            expected="the same experts, trained with another seed in each, and keys"
            " that were made alike",
            do="Name libraries that differ in the training seed alone",
        )
