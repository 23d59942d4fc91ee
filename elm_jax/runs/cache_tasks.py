"""elm_tasks: render and tokenise tasks into token caches, on all cores."""

import collections
import dataclasses
import pathlib

from elm_jax import errors, fields
from elm_jax.data import cache, cache_build, rendering, seqio_tasks, tasks
from elm_jax.disk import folders
from elm_jax.runs import data_folder, task_data
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheTasks(Run):
    """Builds the token caches of tasks before training needs them.

    Killed and started again, it goes on with the first part that is not there.

    Attributes:
      tasks: Names or patterns of tasks and mixtures.
      data: Vocabulary, lengths and folders; those of the runs that will read.
      splits: Splits to cache, of the tasks that have them; () for all of each task's.
      num_workers: Processes that render and tokenise; 0 for one per core.
    """

    tasks: str | tuple[str, ...]
    data: task_data.TaskData
    splits: tuple[str, ...] = ()
    num_workers: fields.CountOrNone = 0

    def plan(self) -> Plan:
        """Returns which caches would be built, and where."""
        pairs = self._pairs()
        self._check_folder(pairs)
        return {
            "caches": f"{len(pairs)}: {', '.join('/'.join(pair) for pair in pairs)}",
            "files": self.path(self.data.cache_dir),
        }

    def run(self) -> None:
        """Builds missing token caches; fails at the end if some cannot be built."""
        pairs = self._pairs()
        self._check_folder(pairs)
        data = self.data.opened(self.place)
        folders.check_writable(pathlib.Path(data.data_options.cache_dir))
        builds: list[cache_build.CacheBuild] = []
        failed: dict[str, errors.ElmError] = {}
        for name, split in pairs:
            try:
                build = cache.planned(
                    *(name, split),
                    vocabulary=data.vocabulary,
                    features=data.features,
                    data_options=data.data_options,
                )
            except (errors.DataError, errors.TemplateError) as error:
                failed[f"{split} of task {name!r}"] = error
                continue
            if not build.is_built():
                builds.append(build)
        if builds:
            progress = Progress("cache", total=_count_rows(builds), unit="rows")
            failed |= cache_build.build_all(
                builds, num_workers=self.num_workers, progress=progress
            )
        done = len(pairs) - len(failed)
        print(f"caches: {done} of {len(pairs)} in {data.data_options.cache_dir}")  # noqa: T201
        if failed:
            reasons = "\n".join(f"{name}: {error}" for name, error in failed.items())
            raise errors.DataError(
                found=f"{len(failed)} of {len(pairs)} caches failed\n{reasons}",
                expected="data, templates and lengths that serve every task",
                do="Correct what is named, or leave those tasks or splits out; the "
                "other caches are kept",
            )

    def _check_folder(self, pairs: list[tuple[str, str]]) -> None:
        names = dict.fromkeys(name for name, _ in pairs)
        data_folder.check(self.data.data_options(self.place), names, self.splits)

    def _pairs(self) -> list[tuple[str, str]]:
        """Returns the tasks and splits to cache."""
        pairs = []
        for name in tasks.registry.expand(self.tasks):
            task_splits = _splits(tasks.registry.task(name))
            splits = self.splits or task_splits
            pairs += [(name, split) for split in splits if split in task_splits]
        if not pairs:
            raise errors.ConfigError(
                found=f"no task with one of the splits {', '.join(self.splits)}",
                expected="splits that the tasks have",
                do="Correct splits, or leave them out for all",
            )
        return pairs


def _splits(task: tasks.AnyTask) -> tuple[str, ...]:
    if isinstance(task, tasks.SeqioTask):
        return tuple(seqio_tasks.user_task(task).splits)
    return tuple(split for split in task.splits if "@" not in split)


def _count_rows(builds: list[cache_build.CacheBuild]) -> int:
    """Returns the rows of all builds; each dataset is read once for all its prompts."""
    uses: collections.Counter[str] = collections.Counter()
    served = {}
    for build in builds:
        if not isinstance(build.task, tasks.SeqioTask):
            key = f"{build.key['source']}/{build.key['source_split']}"
            served[key] = rendering.served(build.task, build.split, build.data_options)
            uses[key] += 1
    return sum(n * sum(1 for _ in served[key].rows()) for key, n in uses.items())
