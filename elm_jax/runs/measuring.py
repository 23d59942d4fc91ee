"""Statistics of experts that merge methods need: on which rows, and where they lie."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors, fields, paths, trees
from elm_jax.checkpoints import manifest, tensors
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.data import token_store
from elm_jax.disk import sealed_arrays
from elm_jax.evaluation import answers
from elm_jax.merging import aligning
from elm_jax.merging.method import MergeMethod, Statistics
from elm_jax.peft import effects
from elm_jax.runs import bases, loaded, measured_sums
from elm_jax.runs.progress import Progress
from elm_jax.types import LAYERS

# Not as where choices of one text counted apart: such statistics are not taken.
_WHAT = {"fisher": "fisher by answers"}
OpenSplit = Callable[[str, str], token_store.TokenizedDataset]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring:
    """On which rows experts are measured for a merge method that needs it.

    Each expert reads rows of the tasks that it was trained on. What is measured is
    kept, by a hash of all that decides it, and compared when it is read again. The
    rows of `hidden` are those of all experts, in equal parts.

    Attributes:
      split: The split of the experts' own tasks whose rows they read.
      num_rows: Rows for each expert, drawn by the seed among those of all its tasks.
      num_positions: For narrowing: tokens of inputs, and of targets, that are kept.
      batch_size: Rows at once.
      random_seed: The seed by which rows and tokens are chosen.
      statistics_dir: Where statistics are kept.
    """

    split: str = "train"
    num_rows: fields.Count = 256
    num_positions: fields.Count = 4096
    batch_size: fields.Count = 32
    random_seed: fields.Seed = 42
    statistics_dir: paths.Path = "{MODEL_DIR}/statistics"

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that cannot be."""
        fields.check(self)

    def recipe(self) -> dict[str, Any]:
        """Returns what decides statistics, as JSON values."""
        names = ("split", "num_rows", "num_positions", "random_seed")
        return {name: getattr(self, name) for name in names}


class Measured(NamedTuple):
    """An expert that needs statistics; it is loaded only if it must be measured.

    Attributes:
      info: The expert's manifest.
      mark: The fingerprint of its parameters.
      load: Loads the expert.
    """

    info: manifest.Manifest
    mark: str
    load: Callable[[], loaded.Expert]


class Source(NamedTuple):
    """Where the statistics of experts come from.

    Attributes:
      settings: Which rows experts are measured on.
      open_split: Gives the tokens of a task's split.
      folder: Where statistics are kept.
      base_model: What the base's manifest tells of its model, such as the dtype in
        which it computes; None to leave it out of the recipe of who asks.
    """

    settings: Measuring
    open_split: OpenSplit
    folder: pathlib.Path
    base_model: Mapping[str, Any] | None = None

    def recipe(
        self, method: MergeMethod, infos: Sequence[manifest.Manifest]
    ) -> dict[str, Any]:
        """Returns the settings that decide the statistics of experts, for manifests.

        Where rows have choices of one text, Fisher information is not what it was
        before these counted once, and the recipe tells it. Other recipes are as before.

        Raises:
          ConfigError: An expert does not tell its tasks.
          DataError: Rows are missing.
        """
        tasks = sorted({task for info in infos for task in _tasks(info)})
        rows = {t: self.open_split(t, self.settings.split).fingerprint for t in tasks}
        model = {} if self.base_model is None else {"base_model": {**self.base_model}}
        choices = {}
        if method.measures == "fisher" and any(map(self._reads_equal_choices, infos)):
            choices = {"choices": "by text"}
        return self.settings.recipe() | {"tasks": rows} | choices | model

    def measure(
        self, method: MergeMethod, experts: Sequence[loaded.Expert], base: loaded.Base
    ) -> list[Statistics]:
        """Returns a method's statistics of each expert; stored ones are not made again.

        Raises:
          ConfigError: An expert does not tell its tasks.
          DataError: Rows are missing, or what was kept is damaged.
        """
        every = [
            Measured(
                expert.manifest,
                trees.fingerprint(expert.params),
                functools.partial(_same, expert),
            )
            for expert in experts
        ]
        about = {"base": base.fingerprint, "base_model": base.manifest.model}
        return [
            trees.unflatten({n: tensors.read(x) for n, x in _leaves(*stored).items()})
            for stored in self._stored_statistics(method, every, about, lambda: base)
        ]

    def open(
        self, method: MergeMethod, experts: Sequence[Measured], base_dir: pathlib.Path
    ) -> list[dict[str, Leaf]]:
        """Returns what `measure` does, as leaves by name that are not in memory.

        Experts that were not measured yet are loaded, one at a time, with the base.
        Damaged statistics are found before the next expert is measured.

        Raises:
          ElmError: As for `measure`; leaves raise DataError when they are read.
        """
        info = bases.read_manifest(base_dir)
        about = {"base": info.base_fingerprint, "base_model": info.model}
        base = functools.cache(functools.partial(loaded.Base.load, base_dir))
        return [
            _leaves(*stored)
            for stored in self._stored_statistics(method, experts, about, base)
        ]

    def _stored_statistics(
        self,
        method: MergeMethod,
        experts: Sequence[Measured],
        about: Mapping[str, Any],
        base: Callable[[], loaded.Base],
    ) -> Iterator[tuple[pathlib.Path, Mapping[str, Any]]]:
        """Yields where the statistics of each expert lie by now, and their recipe."""
        progress = Progress(f"measure {method.measures}", total=len(experts), unit="")
        for done, expert in enumerate(experts, 1):
            with errors.during(f"measuring {expert.info.name}"):
                sources = [expert.info]
                if method.measures == "hidden":
                    infos = [each.info for each in experts]
                    sources = sorted(infos, key=lambda info: info.fingerprint)
                rows = [self._rows(source, len(sources)) for source in sources]
                recipe = {
                    "what": _WHAT.get(method.measures, method.measures),
                    "expert": expert.info.fingerprint,
                    "params": expert.mark,
                    **about,
                    "settings": self.settings.recipe(),
                    "rows": [[part.recipe for part in several] for several in rows],
                }
                folder = sealed_arrays.folder_of(self.folder, expert.info.name, recipe)
                if not folder.exists():
                    arrays = self._of(method, expert.load(), base(), rows)
                    sealed_arrays.write(folder, arrays, recipe)
            yield folder, recipe
            progress(done)

    def _of(
        self,
        method: MergeMethod,
        expert: loaded.Expert,
        base: loaded.Base,
        rows: Sequence[Sequence["_Rows"]],
    ) -> Mapping[str, np.ndarray]:
        examples = [
            part.dataset[row]
            for several in rows
            for part in several
            for row in part.places
        ]
        measured = measured_sums.Measured(
            expert, base, examples, self.settings.batch_size
        )
        return self._measured(method, measured)

    def _measured(
        self, method: MergeMethod, measured: measured_sums.Measured
    ) -> Mapping[str, np.ndarray]:
        if method.measures == "grams":
            return measured_sums.grams(measured)
        if method.measures == "fisher":
            return measured_sums.fisher(measured)
        sides = effects.beside(measured.expert.params)
        places = aligning.places(sides, is_linear=False).values()
        names = [name for group in places for name in group if sides[name].takes_factor]
        count, seed = self.settings.num_positions, self.settings.random_seed
        return measured_sums.hidden(measured, names, count, seed) if names else {}

    def _reads_equal_choices(self, info: manifest.Manifest) -> bool:
        return any(part.has_equal_choices for part in self._rows(info, 1))

    def _rows(self, info: manifest.Manifest, num_sharing: int) -> list["_Rows"]:
        """Returns the rows of an expert's tasks, by task."""
        split = self.settings.split
        datasets = [self.open_split(task, split) for task in _tasks(info)]
        ends = np.cumsum([len(dataset) for dataset in datasets])
        draw = np.random.default_rng(self.settings.random_seed).permutation(ends[-1])
        count = -(-self.settings.num_rows // num_sharing)
        chosen = np.sort(draw[:count])
        parts = []
        for dataset, end in zip(datasets, ends, strict=True):
            start = end - len(dataset)
            places = chosen[(chosen >= start) & (chosen < end)] - start
            parts.append(_Rows(dataset, tuple(places.tolist())))
        return parts


class _Rows(NamedTuple):
    dataset: token_store.TokenizedDataset
    places: tuple[int, ...]

    @property
    def has_equal_choices(self) -> bool:
        """Whether choices of one of these rows are one answer."""
        texts = (self.dataset[place].choices_text for place in self.places)
        return any(map(answers.are_equal_among, texts))

    @property
    def recipe(self) -> list[Any]:
        """The settings that identify these rows, as JSON values."""
        dataset = self.dataset
        return [dataset.name, dataset.split, dataset.fingerprint, list(self.places)]


def _same(expert: loaded.Expert) -> loaded.Expert:
    return expert


def _leaves(folder: pathlib.Path, recipe: Mapping[str, Any]) -> dict[str, Leaf]:
    """Returns arrays in parts: a stack layer by layer, another array as a whole."""
    leaves = {}
    for name, array in sealed_arrays.opened(folder, recipe).items():
        is_whole = array.shape and f"/{LAYERS}/" not in name
        rows = max(1, array.shape[0]) if is_whole else 1
        parts = functools.partial(array.parts, rows)
        leaves[name] = Leaf(array.shape, array.dtype, rows, parts)
    return leaves


def _tasks(info: manifest.Manifest) -> tuple[str, ...]:
    if not info.tasks:
        raise errors.ConfigError(
            found=f"expert {info.name!r}, which does not tell its tasks",
            expected="the tasks whose rows it is to be measured on",
            do="Import it again with `tasks`, or take a method without statistics",
        )
    return tuple(sorted(info.tasks))


def check(method: MergeMethod, source: object) -> None:
    """Raises ConfigError for a method that needs statistics without a source of them.

    Args:
      method: How experts are merged.
      source: Where statistics come from; None for nowhere.
    """
    if method.needs_statistics and source is None:
        raise errors.ConfigError(
            found=f"{method.name} without rows to measure experts on",
            expected=f"{method.needs_statistics}, measured with each expert",
            do="Set `measuring = @measuring.Measuring()`, for elm_merge with `data`; or"
            " take a method without statistics",
        )


def settings_text(source: Source | None) -> str:
    """Returns what decides statistics of given experts, as a text; "" without any."""
    return "" if source is None else json.dumps(source.settings.recipe())
