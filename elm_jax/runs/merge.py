"""elm_merge: experts into an expert."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

from elm_jax import fields, paths
from elm_jax.checkpoints import manifest, recipes, streaming
from elm_jax.disk import unfinished
from elm_jax.evaluation import naming
from elm_jax.merging import averages, methods
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import (
    bases,
    expert_checks,
    finished_merges,
    loaded,
    merge_cost,
    merge_peft,
    merged_files,
    merged_leaves,
    merged_params,
    merged_ranks,
    moved_fields,
    search_problems,
    search_rows,
    searched_recipes,
    searches,
    task_data,
    vocabularies,
)
from elm_jax.runs import measuring as measuring_lib
from elm_jax.runs.run import Plan, Run

_BEFORE = merged_params.OPTIONS_BEFORE


@moved_fields.takes_old_names(
    {name: f"method.{name}" for name in _BEFORE}, by_name=methods.of, silent=_BEFORE
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge(Run):
    """Merges experts of one base and kind into `<experts_dir>/<expert_name>`.

    Averages are of parameters, the paper's way for adapters too. Task arithmetic adds
    up what experts change: whole models' differences from the base, and adapters'
    effects, whose base is an adapter that adds nothing. The sum of n LoRAs or
    bottlenecks is n times as wide (`peft.effects` has the definitions); experts whose
    weight is 0 take no place in it.

    Attributes:
      experts: Folders of experts, or of LoRAs that PEFT saved, or shell patterns of
        them. Those of PEFT are imported first, to `{MODEL_DIR}/imported/<name>`.
      expert_name: Name of the result.
      initial_checkpoint_path: Folder of the base.
      experts_dir: Where the result goes.
      method: How, such as `@task_arithmetic.TaskArithmetic()`; or the name of a
        method, such as `uniform`, for one with the options that it has by default.
      measuring: For methods that need statistics of each expert, such as `regmean`:
        on which rows of its own tasks it is measured, `@measuring.Measuring()`.
      search: How coefficients of the method are chosen by what merges get on rows of
        validation, such as `@merge_searches.Sweep()`; None for the method as it is.
      data: Vocabulary, lengths and folders of the tokens that are measured or choose.
      peft_dir: Where a merged LoRA also goes as a folder of PEFT, `<peft_dir>/<name>`;
        "" for nowhere.
    """

    experts: tuple[paths.Pattern, ...]
    expert_name: paths.Name
    initial_checkpoint_path: paths.Path
    experts_dir: paths.Path = "{MODEL_DIR}/merged"
    method: MergeMethod | str = averages.Uniform()
    measuring: measuring_lib.Measuring | None = None
    search: searches.Search | None = None
    data: task_data.TaskData | None = None
    peft_dir: paths.OptionalPath = ""

    def check(self) -> None:
        """Raises ConfigError if the method or the name of the result cannot be."""
        naming.check_is_no_label(self.expert_name, "merged")
        has_rows = self.measuring is not None and self.data is not None
        measuring_lib.check(self.chosen_method(), has_rows or None)
        if self.search is not None:
            self.search.check(self.chosen_method())
            if self.data is None:
                fields.refuse(self, {"data": "a TaskData, whose rows choose"})

    def chosen_method(self) -> MergeMethod:
        """Returns the method; raises ConfigError if there is none of its name."""
        return methods.of(self.method) if isinstance(self.method, str) else self.method

    def plan(self) -> Plan:
        """Returns what would be merged, and what it costs; reads a little of the files.

        Raises:
          ElmError: As `run` before it reads parameters.
        """
        with self._expert_folders(writes=False) as folders:
            infos = self._read_infos(folders)
            finished = self._planned(infos)
            search_lines = self.search.plan(len(folders)) if self.search else {}
            if finished is True:
                search_lines.pop("search scores", None)
            if repeated := merge_peft.repeated(self, self.experts):
                search_lines = {"named several times": repeated} | search_lines
            lines = {
                "experts": f"{len(folders)}: {', '.join(f.name for f in folders)}",
                "method": self.chosen_method(),
                **search_lines,
                "finished already": finished,
                "files": self.folder,
            }
            base_dir = self.path(self.initial_checkpoint_path)
            measuring = self.measuring or measuring_lib.Measuring()
            cost = merge_cost.estimate(
                self.chosen_method(),
                folders,
                base_dir,
                num_positions=measuring.num_positions,
            )
        return lines | cost.plan()

    def run(self) -> None:
        """Merges, unless the same merge is there already, or is by then.

        Raises:
          ElmError: Experts do not fit each other, the base or the method, or another
            merge is there under this name.
        """
        self.merge(operative_config=self.operative_config())

    def merge(self, *, operative_config: str) -> None:
        """Does what `run` does.

        Args:
          operative_config: Text of the configuration that asked for it.

        Raises:
          CheckpointError: Another merge is there under this name.
          ElmError: Experts do not fit each other, the base or the method.
        """
        with self._expert_folders(writes=True) as folders:
            if repeated := merge_peft.repeated(self, self.experts):
                print(f"named several times, merged once: {', '.join(repeated)}")  # noqa: T201
            self._merge(folders, operative_config)
        if self.peft_dir:
            sources = merge_peft.sources_of(self, self.experts)
            merge_peft.export(self, self.folder, self.peft_dir, sources)

    def _expert_folders(
        self, *, writes: bool
    ) -> contextlib.AbstractContextManager[list[pathlib.Path]]:
        base_dir = self.initial_checkpoint_path
        return merge_peft.experts(self, self.experts, base_dir, writes=writes)

    def _merge(self, folders: list[pathlib.Path], operative_config: str) -> None:
        infos = self._read_infos(folders)
        if self._is_finished(infos):
            unfinished.remove_left(self.folder)
            print(f"finished already: {self.folder}")  # noqa: T201
            return
        method, search_facts = self._searched(folders)
        is_own = recipes.make_once(
            lambda: merged_files.write(
                method,
                folders,
                self.path(self.initial_checkpoint_path),
                self.folder,
                name=self.expert_name,
                operative_config=operative_config,
                source=self._source(),
                search_facts=search_facts,
            ),
            lambda: self._is_finished(infos),
        )
        done = f"merged {len(folders)} experts" if is_own else "finished already"
        print(f"{done}: {self.folder}")  # noqa: T201

    def _searched(
        self, folders: list[pathlib.Path]
    ) -> tuple[MergeMethod, dict[str, Any]]:
        """Returns the method with the chosen coefficients, and facts of the search."""
        if self.search is None:
            return self.chosen_method(), {}
        problem = search_problems.Problem.of(
            self.chosen_method(),
            folders,
            loaded.Base.load(self.path(self.initial_checkpoint_path)),
            self.search.rows,
            self._opened(),
            self._source(),
        )
        best = self.search.find(problem)
        print(f"{self.search.kind}: {best.method}")  # noqa: T201
        search_request = finished_merges.search_told(self.search, self.chosen_method())
        search_facts = (
            search_request
            | {"rows": searched_recipes.rows_as_json(self.search, problem.parts)}
            | best.facts
        )
        return best.method, {"search": json.loads(json.dumps(search_facts))}

    def _source(self) -> measuring_lib.Source | None:
        """Returns where statistics come from; None for methods that need none."""
        if not self.chosen_method().needs_statistics:
            return None
        assert self.measuring is not None  # noqa: S101 - `check` has looked
        folder = self.path(self.measuring.statistics_dir)
        model = bases.read_manifest(self.path(self.initial_checkpoint_path)).model
        return measuring_lib.Source(self.measuring, self._opened().open, folder, model)

    def _opened(self) -> task_data.OpenedData:
        assert self.data is not None  # noqa: S101 - `check` has looked
        return self.data.opened(self.place)

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the merged expert."""
        return self.path(f"{self.experts_dir}/{self.expert_name}")

    def _planned(self, infos: list[manifest.Manifest]) -> object:
        """Returns whether this very merge is there, as far as is known; builds nothing.

        Raises:
          CheckpointError: Another one is.
        """
        knows_rows = self.search is None or search_rows.are_cached(
            self.search.rows, self._opened()
        )
        is_finished = self._is_finished(infos, knows_rows=knows_rows)
        if is_finished and not knows_rows:
            return "run to compare its rows"
        return is_finished

    def _is_finished(
        self, infos: list[manifest.Manifest], *, knows_rows: bool = True
    ) -> bool:
        request = finished_merges.Asked(
            self.chosen_method(),
            infos,
            self._source(),
            self.search,
            self._opened() if self.search is not None and knows_rows else None,
        )
        return finished_merges.is_there(self.folder, request)

    def _read_infos(self, folders: list[pathlib.Path]) -> list[manifest.Manifest]:
        """Returns the experts' manifests, if experts, base and method fit.

        Raises:
          ConfigError: The method is unknown, or the experts are of several kinds or
            vocabularies.
          FingerprintError: An expert is of another base, or the data of another
            vocabulary.
        """
        if self.peft_dir:
            merge_peft.check_can_export(folders)
        infos = [manifest.read_manifest(folder) for folder in folders]
        self.chosen_method().check(len(infos))
        base = bases.read_manifest(self.path(self.initial_checkpoint_path))
        leaves, _ = streaming.open_expert(folders[0])
        merged_leaves.check_names(self.chosen_method(), leaves)
        if self.search is not None or self.chosen_method().needs_statistics:
            opened = self._opened()
            for info in (base, *infos):
                vocabularies.check(info, opened.vocabulary)
        for folder, info in zip(folders, infos, strict=True):
            bases.check_fits(info, base)
            expert_checks.check_same_function(info, base)
            expert_checks.check_tensors(folder, base)
        shown = merged_ranks.infos_in_one_spec(self.chosen_method(), infos)
        expert_checks.check_alike(shown, base)
        return infos
