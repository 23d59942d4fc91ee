"""Where finished experts of a training go, and whether they are the ones asked for."""

import functools
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence

from elm_jax import errors, trees
from elm_jax.checkpoints import manifest, recipes
from elm_jax.library import catalogue
from elm_jax.partitioning import processes
from elm_jax.runs.loaded import Expert
from elm_jax.runs.run import Plan
from elm_jax.runs.training import publishing, record
from elm_jax.runs.training.spec import TrainingSpec

Failures = dict[str, errors.ElmError]
"""Why experts could not be trained, listed or published, by name."""


class Landing:
    """Saves finished experts, lists them in a catalogue, publishes them to a bucket.

    An expert is finished once it is saved. A run that is killed before it has listed
    and published it leaves that to the next, which begins with it.

    Args:
      spec: The training.
    """

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec = spec

    @functools.cached_property
    def publisher(self) -> publishing.Publisher:
        """Hands finished experts to a bucket; None in processes that save none."""
        return publishing.Publisher(self._spec.publish_url if self._lands else "")

    def check_possible(self, names: Sequence[str]) -> None:
        """Raises CheckpointError unless experts can land where they are to.

        Finished ones must be those that are asked for, and nothing else may lie where
        others are to go.
        """
        self.publisher.check(names)
        self.check_unchanged(names)
        self.check_free(names)

    def describe(self, names: Sequence[str]) -> Plan:
        """Returns what a plan says of experts; looks into the bucket."""
        count = len(names) - len(self.unfinished(names))
        return {"finished already": count, **self.publisher.describe(names)}

    def land(self, name: str, expert: Expert) -> None:
        """Saves, lists and publishes a finished expert; removes its states.

        Raises:
          CheckpointError: A run in another MODEL_DIR saved another expert there.
        """
        folder = self._spec.experts[name].folder
        recipes.make_once(
            lambda: expert.save(folder),
            lambda: self._is_same(name),
        )
        for problem in self.list_and_publish((name,)).values():
            text = f"{name} is finished, but not listed: {problem}\n"
            sys.stderr.write(text)  # `finish` tries again

    def _is_same(self, name: str) -> bool:
        if not self._is_finished(name):
            return False
        self.check_unchanged((name,))
        self.check_rows((name,))
        return True

    def list_and_publish(self, names: Sequence[str]) -> Failures:
        """Lists and publishes finished experts that are not listed or published yet.

        Returns:
          Reasons why some could not be listed; publishing goes on meanwhile.
        """
        failures: Failures = {}
        if not self._lands:
            return failures
        finished = [name for name in names if self._is_finished(name)]
        for name in finished:
            try:
                self._list(name)
            except errors.ElmError as error:
                failures[name] = error
            self._remove_states(name)
        self.publisher.put({n: self._folder(n) for n in finished})
        return failures

    def finish(self, names: Sequence[str]) -> Failures:
        """Lists and publishes what is left; returns those that failed, with reasons."""
        return self.list_and_publish(names) | self.publisher.finish()

    def unfinished(self, names: Sequence[str]) -> list[str]:
        """Returns the experts that are neither here nor in the bucket."""
        names = [name for name in names if not self._is_finished(name)]
        published = self.publisher.published(names) if names else ()
        return [name for name in names if name not in published]

    def check_unchanged(self, names: Sequence[str]) -> None:
        """Raises CheckpointError if finished experts have other settings than this run.

        The settings of an expert's training are compared with those of this run, where
        both have them; versions of packages are not. `check_rows` compares the rows.
        """
        spec = self._spec
        if not self._compares:
            return
        local_names = [name for name in names if self._is_finished(name)]
        self.publisher.check_same({name: self._folder(name) for name in local_names})
        changed: dict[str, list[str]] = {}  # names by what changed
        tokens = {}
        for name, info in self._manifests(names):
            tokens = tokens or record.of_tokens(spec, spec.open_data())
            expert = spec.experts[name]
            settings = record.completed(record.settings(spec, expert)) | tokens
            training = record.completed(info.training)
            if not spec.batching.num_parts:  # any number will do that fitted then
                del settings["num_parts"]
            saved = trees.flatten(training | {"tasks": list(info.tasks)})
            requested = trees.flatten(settings | {"tasks": list(expert.tasks)})
            shared_keys = saved.keys() & requested.keys()
            changes = recipes.find_changes(
                {key: saved[key] for key in shared_keys},
                {key: requested[key] for key in shared_keys},
            )
            if changes:
                changed.setdefault("; ".join(changes), []).append(name)
        if changed:
            lines = "\n".join(
                f"  {', '.join(n)}: {text}" for text, n in changed.items()
            )
            raise errors.CheckpointError(
                found="finished experts that were trained with another"
                f" configuration\n{lines}",
                expected="the configuration that they were trained with",
                do="Undo the change, choose another experts_dir (or MODEL_DIR),"
                " remove these experts, also from a PUBLISH_URL, to train them"
                " again, or keep them as they are with"
                " --gin.options.Saving.resume_changed_config=True",
            )

    def check_rows(self, names: Sequence[str]) -> None:
        """Raises CheckpointError if finished experts were trained on other rows.

        Rows are compared by the fingerprints of their token caches, as far as these
        are there; a run that trains anything has built them all.
        """
        if not self._compares:
            return
        data, changed = None, set[str]()
        for name, info in self._manifests(names):
            for task in info.tasks:
                saved = manifest.data_fingerprint(info, task)
                data = data or self._spec.open_data()
                current = data.fingerprint_if_cached(task, "train")
                if None not in (saved, current) and saved != current:
                    changed.add(f"{name} (rows of {task})")
        if changed:
            raise errors.CheckpointError(
                found="finished experts that were trained on other rows than the"
                f" tasks have now: {', '.join(sorted(changed))}",
                expected="the rows that they were trained on",
                do="Name the data they were trained on, choose another experts_dir"
                " (or MODEL_DIR), remove these experts to train them again, or keep"
                " them with --gin.options.Saving.resume_changed_config=True",
            )

    def check_free(self, names: Sequence[str]) -> None:
        """Raises CheckpointError if other files are where an expert is to be saved."""
        for name in names:
            folder = self._folder(name)
            if folder.exists() and not self._is_finished(name):
                raise errors.CheckpointError(
                    found=f"{folder} has no {manifest.FILE_NAME}",
                    expected="a finished expert, or no such folder",
                    do="Remove the folder, or choose another experts_dir",
                )
            self._check_old_state(name)

    def _check_old_state(self, name: str) -> None:
        """Refuses to begin anew beside states where release 0.1 kept them."""
        old = self._spec.model_dir / "work" / name
        new = self._spec.experts[name].work_dir
        begun = any((old / "state").glob("[0-9]*")) and not new.exists()
        if begun and not self._is_finished(name):
            raise errors.CheckpointError(
                found=f"saved states of an expert {name!r} in {old}, the place of"
                " release 0.1",
                expected=f"them in {new}",
                do="Move the folder there to go on from them, or remove it to"
                " begin anew",
            )

    @property
    def _compares(self) -> bool:
        """Whether finished experts are compared with what is asked for.

        Without its base nothing can be trained, but all may be finished.
        """
        folder = self._spec.base_dir or self._spec.model_dir
        return folder.is_dir() and not self._spec.saving.resume_changed_config

    @property
    def _lands(self) -> bool:
        return self._spec.is_fleet or processes.is_main()

    def _manifests(
        self, names: Sequence[str]
    ) -> Iterator[tuple[str, manifest.Manifest]]:
        """Yields the manifests of experts that are here or in the bucket, by name."""
        local_names = [name for name in names if self._is_finished(name)]
        for name in local_names:
            yield name, manifest.read_manifest(self._folder(name))
        bucket_names = sorted({*names} - {*local_names})
        if bucket_names:
            yield from self.publisher.manifests(bucket_names)

    def _folder(self, name: str) -> pathlib.Path:
        return self._spec.experts[name].folder

    def _is_finished(self, name: str) -> bool:
        return self._spec.experts[name].is_finished

    def _list(self, name: str) -> None:
        if self._spec.library_dir is not None:
            library = catalogue.Catalogue(self._spec.library_dir)
            library.list_once(self._folder(name))

    def _remove_states(self, name: str) -> None:
        """Removes states from before the expert was saved.

        Newer ones belong to another training, such as one with another `experts_dir`.
        """
        states = self._spec.experts[name].work_dir / "state"
        saved = self._folder(name) / manifest.FILE_NAME
        if not self._spec.saving.keep_every_steps and _is_older(states, saved):
            shutil.rmtree(states, ignore_errors=True)


def _is_older(path: pathlib.Path, than: pathlib.Path) -> bool:
    try:
        return path.stat().st_mtime_ns <= than.stat().st_mtime_ns
    except FileNotFoundError:
        return False
