"""Rows that are made of several rows of another source, or of only some of them.

For example: dialogues of which the source has one utterance per row, splits that are
the end of a longer one, and rows that a filter drops.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

from elm_jax import errors
from elm_jax.data import records, sources

RegroupFn = Callable[[Iterator[sources.Record], str], Iterable[sources.Record]]
"""`(all rows of the source's split, our split) -> rows`, a function of a module."""


@dataclasses.dataclass(frozen=True)
class Regrouped:
    """Another source's rows, grouped in another way.

    Attributes:
      source: Gives the rows.
      fn: Groups the rows. Equal input must give equal output.
      splits: The source's split for each of ours; two of ours may come from one.
    """

    source: sources.Source
    fn: RegroupFn
    splits: Mapping[str, str]

    @property
    def name(self) -> str:
        """What a manifest records of the source: its name or where it is from."""
        return getattr(self.source, "origin", "") or getattr(self.source, "name", "")

    def rows(self, split: str, *, data_dir: str) -> Iterator[sources.Record]:
        """Yields the rows of a split.

        Raises:
          DataError: `fn` cannot put them together, such as for a field without a value.
        """
        rows_of_source = self.source.rows(self.splits[split], data_dir=data_dir)
        try:
            yield from self.fn(rows_of_source, split)
        except records.ROW_ERRORS as error:
            raise errors.DataError(
                found=f"{self.splits[split]} of {self.name or 'a source'}, not to "
                f"be put together by {sources.name_of(self.fn)}: "
                f"{type(error).__name__}: {error}",
                expected="rows with the fields and types that it knows",
                do="Use another source (DATA_SOURCES), or another version of it",
            ) from error

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of the source's fingerprint and the function's module."""
        of_source = self.source.fingerprint(self.splits[split], data_dir=data_dir)
        return sources.hash_of("regrouped", split, sources.code_of(self.fn), of_source)

    def missing(self, split: str, *, data_dir: str) -> str:
        """Returns what the source lacks of the split, "" if nothing."""
        missing_fn = getattr(self.source, "missing", None)
        source_split = self.splits[split]
        return missing_fn(source_split, data_dir=data_dir) if missing_fn else ""
