"""Chooses where a dataset is read from, and which part of a split is used.

A dataset may be in its authors' files, in TFDS, on the Hub or in P3's cache. `AnyOf`
lists these places; `serve` takes the first one, in the user's order, that has the
split. A part of a split is written like this:

    train             all of it
    train[:50000]     the first 50,000 rows, in the source's order
    train[300:]~42    a random part: the rows are numbered by a permutation with seed
                      42, and those from number 300 on are taken

Rows always come in the source's order. The permutation is `torch.randperm`'s, so that
`validation[:300]~42` holds the very rows that the original ELM code scored.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from elm_jax import errors
from elm_jax.data import records, sources

DEFAULT_ORDER = ("files", "tfds", "p3", "hub")
KINDS = (*DEFAULT_ORDER, "examples")
"""`examples`: a few rows made by hand, to look at; only if the user names it."""

NOT_CONVERTED = "fields of another form than its source should have"
_PART = re.compile(r"([\w.\-]+)(?:\[(\d*):(\d*)\](?:~(\d+))?)?")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a split.

    Attributes:
      split: The whole split.
      start: First number taken, from 0.
      stop: First number not taken, or None for the end.
      seed: Of the permutation that numbers the rows; None for the source's order.
    """

    split: str
    start: int = 0
    stop: int | None = None
    seed: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Returns the part that a text such as `train[:300]~42` stands for.

        >>> Part.parse("train[:300]~42")
        Part(split='train', start=0, stop=300, seed=42)

        Raises:
          ConfigError: The text has another form.
        """
        match = _PART.fullmatch(text)
        if match is None:
            raise errors.ConfigError(
                found=f"the split {text!r}",
                expected="a name, name[start:stop] or name[start:stop]~seed",
                do="Correct the task's splits",
            )
        split, start, stop, seed = match.groups()
        return cls(
            split,
            int(start or 0),
            int(stop) if stop else None,
            None if seed is None else int(seed),
        )

    def of(
        self, rows_fn: Callable[[], Iterator[sources.Record]]
    ) -> Iterator[sources.Record]:
        """Yields the part's rows; a skipped record belongs to the row after it.

        Args:
          rows_fn: Gives the rows of the whole split; called twice for random parts.
        """
        mask: np.ndarray | None = None
        if self.seed is not None:
            count = sum(not isinstance(row, sources.Skipped) for row in rows_fn())
            mask = np.zeros(count + 1, bool)
            mask[torch_permutation(count, self.seed)[self.start : self.stop]] = True
        number = 0
        for row in rows_fn():
            if mask is None and self.stop is not None and number >= self.stop:
                return
            if number >= self.start if mask is None else mask[number]:
                yield row
            number += not isinstance(row, sources.Skipped)


def torch_permutation(count: int, seed: int) -> np.ndarray:
    """Returns int64 [count]: `torch.randperm(count)` of a CPU generator with the seed.

    A Fisher-Yates shuffle on the 32-bit outputs of the Mersenne twister, which NumPy
    has too.

    >>> torch_permutation(5, 42).tolist()
    [2, 4, 3, 0, 1]

    Reference: PyTorch, `randperm_cpu` in `aten/src/ATen/native/TensorFactories.cpp`.
    """
    twister = np.random.MT19937()
    # The seeding that both share; NumPy's constructor would hash the seed first.
    twister._legacy_seeding(seed)  # pyright: ignore[reportAttributeAccessIssue]
    order = list(range(count))
    draws = twister.random_raw(max(count - 1, 0)) if count > 1 else ()
    for place, draw in enumerate(draws):
        drawn = place + int(draw) % (count - place)
        order[place], order[drawn] = order[drawn], order[place]
    return np.asarray(order, np.int64)


@dataclasses.dataclass(frozen=True)
class Option:
    """One place that may have a dataset.

    Attributes:
      kind: One of `KINDS`.
      source: The place.
      splits: Our split names to the place's; it has no others.
      convert: Brings a row of the place into the dataset's own fields.
    """

    kind: str
    source: sources.Source
    splits: Mapping[str, str]
    convert: Callable[[sources.Row], sources.Record] | None = None


@dataclasses.dataclass(frozen=True)
class AnyOf:
    """A dataset that may be read from several places.

    Attributes:
      dataset: Its name, for messages.
      options: The places.
      fields: Fields that every row must have, whatever place it is from.
      advice: Where a user gets the data, if no place has it.
    """

    dataset: str
    options: tuple[Option, ...]
    fields: tuple[str, ...] = ()
    advice: str = ""

    def rows(self, split: str, *, data_dir: str) -> Iterator[sources.Record]:
        """Yields the rows of a split from the first place of the default order."""
        return serve(self, split, data_dir=data_dir).rows()

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns the fingerprint of the first place of the default order."""
        return serve(self, split, data_dir=data_dir).fingerprint()


@dataclasses.dataclass(frozen=True)
class Served:
    """A part of a split and the place that gives it.

    Attributes:
      kind: One of `KINDS`, or `own` for a source that is the only one.
      option: The place.
      part: Of our split.
      data_dir: The user's data folder.
      fields: Fields that the first row is checked for.
    """

    kind: str
    option: Option
    part: Part
    data_dir: str
    fields: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a manifest records: the kind, and the place's own name if it has one."""
        source = self.option.source
        place = getattr(source, "origin", "") or getattr(source, "name", "")
        return f"{self.kind}: {place}" if place else self.kind

    @property
    def is_prompted(self) -> bool:
        """Whether rows are prompts and targets already, and no template is needed."""
        return bool(getattr(self.option.source, "is_prompted", False))

    def rows(self) -> Iterator[sources.Record]:
        """Yields the rows in the dataset's own fields."""
        return self.part.of(self._all_rows)

    def fingerprint(self) -> str:
        """Returns a hash that changes whenever the rows may change."""
        option = self.option
        split = option.splits[self.part.split]
        fingerprint = option.source.fingerprint(split, data_dir=self.data_dir)
        if option.convert is not None:
            fingerprint = f"{fingerprint}-{sources.code_of(option.convert)}"
        return fingerprint

    def _all_rows(self) -> Iterator[sources.Record]:
        option = self.option
        source_split = option.splits[self.part.split]
        checked = False
        for row in option.source.rows(source_split, data_dir=self.data_dir):
            if not isinstance(row, Mapping):
                yield row  # skipped, prompted, or no row at all: rendering counts it
                continue
            converted = self._converted(row)
            if not checked and isinstance(converted, Mapping):
                self._check_fields(converted)
                checked = True
            yield converted

    def _converted(self, row: sources.Row) -> sources.Record:
        if self.option.convert is None:
            return row
        try:
            return self.option.convert(row)
        except records.ROW_ERRORS as error:
            return sources.Bad(NOT_CONVERTED, f"{type(error).__name__}: {error}")

    def _check_fields(self, row: sources.Row) -> None:
        present = {key.replace("-", "_") for key in row}
        lacking = [field for field in self.fields if field not in present]
        if lacking:
            raise errors.DataError(
                found=f"{self.name}: rows without {', '.join(lacking)}, only with "
                f"{', '.join(sorted(row))}",
                expected=f"the fields {', '.join(self.fields)}",
                do="Use another source (DATA_SOURCES), or another version of it",
            )


def serve(
    source: sources.Source,
    split: str,
    *,
    data_dir: str,
    order: tuple[str, ...] = DEFAULT_ORDER,
) -> Served:
    """Returns the first place, in the order given, that has a part of a split.

    Args:
      source: An `AnyOf`, or a source that is the only place of its rows.
      split: A split or a part of one, such as `validation[:300]~42`.
      data_dir: The user's data folder.
      order: Kinds of places, the preferred one first; kinds left out are not used.

    Raises:
      ConfigError: The order names an unknown kind.
      DataError: No place has it; the message says how to get it for each.
    """
    part = Part.parse(split)
    if not isinstance(source, AnyOf):
        option = Option("own", source, {part.split: part.split})
        return Served("own", option, part, data_dir)
    check_order(order)
    reasons = []
    for kind in order:
        for option in source.options:
            if option.kind != kind:
                continue
            reason = _missing(option, part.split, data_dir)
            if not reason:
                # The few examples made by hand have no parts.
                chosen = Part(part.split) if kind == "examples" else part
                return Served(kind, option, chosen, data_dir, source.fields)
            reasons.append(f"{kind}: {reason}")
    raise errors.DataError(
        found=f"no source has {part.split} of {source.dataset}"
        + "".join(f"\n  {reason}" for reason in reasons),
        expected=f"one of {', '.join(order)}, below the data folder {data_dir!r}",
        do=source.advice or "Get it as one of the lines above says",
    )


def missing(
    source: sources.Source,
    split: str,
    *,
    data_dir: str,
    order: tuple[str, ...] = DEFAULT_ORDER,
) -> str:
    """Returns "" if a place has a part of a split, else what the first lacks.

    Also "" if no place knows the split; then `serve` raises an error.

    Args:
      source: An `AnyOf`, or a source that is the only place of its rows.
      split: A split or a part of one, such as `validation[:300]~42`.
      data_dir: The user's data folder.
      order: Kinds of places that are used, the preferred one first.
    """
    part = Part.parse(split)
    options = [Option("own", source, {part.split: part.split})]
    if isinstance(source, AnyOf):
        options = [o for kind in order for o in source.options if o.kind == kind]
    having = [option for option in options if part.split in option.splits]
    reasons = [_missing(option, part.split, data_dir) for option in having]
    return reasons[0] if reasons and all(reasons) else ""


def check_order(order: tuple[str, ...]) -> None:
    """Raises a ConfigError if an order of sources names an unknown kind."""
    for kind in order or ("",):
        if kind not in KINDS:
            raise errors.ConfigError(
                found=f"the kind of source {kind!r}",
                expected=f"one or more of {', '.join(KINDS)}",
                do=errors.did_you_mean(kind, KINDS),
            )


def _missing(option: Option, split: str, data_dir: str) -> str:
    if split not in option.splits:
        return f"has no split {split}, only {', '.join(option.splits)}"
    missing_fn = getattr(option.source, "missing", None)
    return missing_fn(option.splits[split], data_dir=data_dir) if missing_fn else ""
