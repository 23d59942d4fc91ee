"""Result rows in columns: some hundred bytes each, and made when somebody asks.

A field of many rows has few values, such as the names of experts. So a column holds,
for each row, the place of its value among those that occur. What is asked of all rows
is asked once for each value, or for each combination of values that occurs.
"""

import dataclasses
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from elm_jax.evaluation.results import ResultRow

FIELDS = tuple(field.name for field in dataclasses.fields(ResultRow))
_MOST_KEY = 2**62
_field_values = operator.attrgetter(*FIELDS)


class Coded(NamedTuple):
    """A field of many rows.

    Attributes:
      codes: int [rows], the place of each row's value.
      values: Those that occur, each once; some may be of no row.
    """

    codes: np.ndarray
    values: Sequence[Any]

    @classmethod
    def of(cls, values: Iterable[Any]) -> "Coded":
        """Returns values, one for each row; `1` and `1.0` are two."""
        keys = [*map(_key, values)]
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        codes = np.fromiter(map(places.__getitem__, keys), np.int32, len(keys))
        return cls(codes, [_value(key) for key in places])

    def take(self, places: np.ndarray) -> "Coded":
        """Returns the field of some of the rows."""
        return Coded(self.codes[places], self.values)

    def listed(self) -> list[Any]:
        """Returns the value of each row."""
        return [*map(self.values.__getitem__, self.codes.tolist())]

    def array(self) -> np.ndarray:
        """Returns the value of each row, of numbers alone: float64 [rows]."""
        return np.array([*self.values], np.float64)[self.codes]

    def are(self, test: Callable[[Any], bool]) -> np.ndarray:
        """Returns bool [rows], what a function says of each row's value."""
        is_true = np.fromiter(map(test, self.values), bool, len(self.values))
        return is_true[self.codes] if len(is_true) else np.zeros(len(self.codes), bool)


class Groups(NamedTuple):
    """Rows that are equal in something, numbered as they come first.

    Attributes:
      of: int64 [rows], the group of each row.
      firsts: int64 [groups], the first row of each.
    """

    of: np.ndarray
    firsts: np.ndarray

    @property
    def lasts(self) -> np.ndarray:
        """The last row of each group: int64 [groups]."""
        places = np.zeros(len(self.firsts), np.int64)
        places[self.of] = np.arange(len(self.of))  # of equal places the last one stays
        return places

    @property
    def counts(self) -> np.ndarray:
        """Number of rows of each group: int64 [groups]."""
        return np.bincount(self.of, minlength=len(self.firsts))

    def have(self, is_true: np.ndarray) -> np.ndarray:
        """Returns bool [groups]: whether a mask is true for a row of the group."""
        return np.bincount(self.of, is_true, minlength=len(self.firsts)) > 0

    def members(self) -> list[np.ndarray]:
        """Returns the rows of each group, in their order."""
        order = np.argsort(self.of, kind="stable")
        return np.split(order, np.cumsum(self.counts)[:-1]) if len(order) else []


def group(*codes: np.ndarray) -> Groups:
    """Returns the groups of rows that are equal in all of some columns.

    Args:
      codes: int [rows] each, at least one.
    """
    number = len(codes[0])
    if not number:
        return Groups(np.zeros(0, np.int64), np.zeros(0, np.int64))
    keys, bound = np.zeros(number, np.int64), 1
    for column in codes:
        least = int(column.min())
        width = int(column.max()) - least + 1
        if bound * width > _MOST_KEY:
            _, keys = np.unique(keys, return_inverse=True)
            bound = number
        keys, bound = keys * width + (column - least), bound * width
    _, firsts, group_of = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(firsts, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return Groups(ranks[group_of], firsts[order])


class RowColumns(Sequence[ResultRow]):
    """Rows whose fields lie in columns; never changed.

    Args:
      num_rows: Number of the rows.
      make: Returns a field by its name, when it is asked for first.
    """

    def __init__(self, num_rows: int, make: Callable[[str], Coded]) -> None:
        self._num_rows, self._make = num_rows, make
        self._fields: dict[str, Coded] = {}
        self._open: dict[str, tuple[memoryview, Sequence[Any]]] = {}

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, index: int) -> ResultRow: ...
    @overload
    def __getitem__(self, index: slice) -> "RowColumns": ...
    def __getitem__(self, index: int | slice) -> "ResultRow | RowColumns":
        places = range(self._num_rows)[index]
        if isinstance(places, range):
            return self.take(np.arange(self._num_rows)[index])
        return _lazy_row(self, places)

    def __iter__(self) -> Iterator[ResultRow]:
        return (_lazy_row(self, place) for place in range(self._num_rows))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(map(operator.eq, self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"RowColumns({[*self]!r})"

    def coded(self, name: str) -> Coded:
        """Returns a field."""
        if name not in self._fields:
            self._fields[name] = self._make(name)
        return self._fields[name]

    def open(self, name: str) -> tuple[memoryview, Sequence[Any]]:
        """Returns a field, as it is read one row at a time."""
        if name not in self._open:
            codes, values = self.coded(name)
            whole = np.ascontiguousarray(codes, np.int32)
            self._open[name] = whole.data, values
        return self._open[name]

    def take(self, places: np.ndarray) -> "RowColumns":
        """Returns the rows at these places, or where a mask is true."""
        if places.dtype == bool:
            (places,) = np.nonzero(places)
        return RowColumns(len(places), lambda name: self.coded(name).take(places))

    def where(self, **values: Any) -> "RowColumns":
        """Returns the rows whose fields have these values."""
        mask = np.ones(len(self), bool)
        for name, value in values.items():
            mask &= self.coded(name).are(lambda field, value=value: field == value)
        return self if mask.all() else self.take(mask)

    def among(self, name: str, values: Collection[Any]) -> "RowColumns":
        """Returns the rows one of whose fields has one of these values."""
        mask = self.coded(name).are(values.__contains__)
        return self if mask.all() else self.take(mask)

    def replaced(self, **fields: Coded) -> "RowColumns":
        """Returns the rows with other fields."""
        columns = RowColumns(len(self), self.coded)
        columns._fields.update(fields)
        return columns

    def groups(self, *names: str) -> Groups:
        """Returns the groups of rows that are equal in these fields."""
        return group(*(self.coded(name).codes for name in names))

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """Returns the combinations of these fields' values, as they come first."""
        firsts = self.groups(*names).firsts
        columns = [self.coded(name).take(firsts).listed() for name in names]
        return [*zip(*columns, strict=True)]

    def derived(self, make: Callable[[ResultRow], Any], *names: str) -> Coded:
        """Returns what a function says of each row.

        Args:
          make: It looks at these fields alone, and returns what can be hashed.
          names: The fields.
        """
        groups = self.groups(*names)
        of_groups = Coded.of([make(self[place]) for place in groups.firsts.tolist()])
        return of_groups.take(groups.of)

    def split(self, name: str) -> dict[Any, "RowColumns"]:
        """Returns the rows by the values of a field, as these come first."""
        groups = self.groups(name)
        values = self.coded(name).take(groups.firsts).listed()
        parts = map(self.take, groups.members())
        return dict(zip(values, parts, strict=True))

    def packed(self) -> "RowColumns":
        """Returns the rows with all columns made, so that nothing else is kept."""
        columns = {name: self.coded(name) for name in FIELDS}
        return RowColumns(len(self), columns.__getitem__)


def of(rows: Iterable[ResultRow]) -> RowColumns:
    """Returns rows in columns; `RowColumns` are returned unchanged."""
    if isinstance(rows, RowColumns):
        return rows
    every = [*rows]
    return RowColumns(
        len(every), lambda name: Coded.of([getattr(r, name) for r in every])
    )


def joined(parts: Sequence[RowColumns]) -> RowColumns:
    """Returns the rows of all parts."""
    if len(parts) == 1:
        return parts[0]
    return RowColumns(
        sum(map(len, parts)), lambda name: _joined([part.coded(name) for part in parts])
    )


def _joined(parts: Sequence[Coded]) -> Coded:
    places: dict[Any, int] = {}
    codes = [np.zeros(0, np.int32)]
    for part in parts:
        numbers = [places.setdefault(_key(value), len(places)) for value in part.values]
        codes.append(np.array(numbers, np.int32)[part.codes])
    return Coded(np.concatenate(codes), [*map(_value, places)])


def roles(rows: RowColumns) -> Coded:
    """Returns `ResultRow.role` of each row."""
    return rows.derived(lambda row: row.role, "kind", "expert")


def are_experts(rows: RowColumns) -> np.ndarray:
    """Returns `ResultRow.is_expert` of each row: bool [rows]."""
    is_expert = rows.derived(lambda row: row.is_expert, "kind", "expert")
    return is_expert.are(bool)


def are_single_experts(rows: RowColumns) -> np.ndarray:
    """Returns `ResultRow.is_single_expert` of each row: bool [rows]."""
    is_single = rows.derived(lambda row: row.is_single_expert, "kind", "expert")
    return is_single.are(bool)


def _key(value: Any) -> tuple[type, Any]:
    """Returns a hashable key of a field's value; for a mapping, of its items."""
    if isinstance(value, Mapping):
        return Mapping, tuple(value.items())
    return type(value), value


def _value(key: tuple[type, Any]) -> Any:
    kind, value = key
    return dict(value) if kind is Mapping else value


class _LazyRow(ResultRow):
    """A row whose fields are read in their columns; equal to a row that holds them."""

    __slots__ = ("_of", "_place")
    _of: RowColumns
    _place: int

    def __new__(cls, **fields: Any) -> ResultRow:  # pyright: ignore
        """Returns a row that holds its fields: what `dataclasses.replace` makes."""
        return ResultRow(**fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ResultRow):
            return NotImplemented
        return _field_values(self) == _field_values(other)

    __hash__ = ResultRow.__hash__


def _reader(name: str) -> Callable[[_LazyRow], Any]:
    def read(row: _LazyRow) -> Any:
        codes, values = row._of.open(name)
        return values[codes[row._place]]

    return read


for _name in FIELDS:
    setattr(_LazyRow, _name, property(_reader(_name)))

_set_of = _LazyRow.__dict__["_of"].__set__
_set_place = _LazyRow.__dict__["_place"].__set__


def _lazy_row(rows: RowColumns, place: int) -> ResultRow:
    row = object.__new__(_LazyRow)
    _set_of(row, rows)
    _set_place(row, place)
    return row


EMPTY = of(())
