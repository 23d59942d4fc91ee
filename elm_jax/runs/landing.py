"""Where finished experts of a training go, and whether they are the ones asked for."""

import functools
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, recipes
from elm_jax.library import catalogue
from elm_jax.partitioning import processes
from elm_jax.runs import publishing, training_config
from elm_jax.runs.run import Plan

if TYPE_CHECKING:
    from elm_jax.runs import train, trainer

Failures = dict[str, errors.ElmError]


class Landing:
    """Saves finished experts, lists them in a catalogue, publishes them to a bucket.

    An expert is finished once it is saved. A run that is killed before it has listed
    and published it leaves that to the next, which begins with it.

    Args:
      run: The training.
    """

    def __init__(self, run: "train.Train") -> None:
        self._run = run

    @functools.cached_property
    def publisher(self) -> publishing.Publisher:
        """What hands finished experts to a bucket, in processes that land any."""
        run = self._run
        return publishing.Publisher(run.place(run.publish_url) if self._lands else "")

    def describe(self, names: Sequence[str]) -> Plan:
        """Returns what a plan says of experts; looks into the bucket."""
        count = len(names) - len(self.unfinished(names))
        return {"finished already": count, **self.publisher.describe(names)}

    def land(self, name: str, result: "trainer.Finished") -> None:
        """Saves a finished expert and hands it on; its states on the way go.

        Raises:
          CheckpointError: A run in another MODEL_DIR saved another expert there.
        """
        folder = self._run.expert_dir(name)
        recipes.make_once(
            lambda: experts.save_expert(
                folder, result.params, result.manifest, attached=result.attached
            ),
            lambda: self._is_same(name),
        )
        for problem in self.hand_on((name,)).values():
            text = f"{name} is finished, but not listed: {problem}\n"
            sys.stderr.write(text)  # `finish` tries again

    def _is_same(self, name: str) -> bool:
        if not self._run.is_finished(name):
            return False
        self.check_unchanged((name,))
        self.check_rows((name,))
        return True

    def hand_on(self, names: Sequence[str]) -> Failures:
        """Lists and publishes those that are finished, unless that has been done.

        Returns:
          Reasons why some could not be listed; publishing goes on meanwhile.
        """
        failures: Failures = {}
        if not self._lands:
            return failures
        own = [name for name in names if self._run.is_finished(name)]
        for name in own:
            try:
                self._list(name)
            except errors.ElmError as error:
                failures[name] = error
            self._remove_states(name)
        self.publisher.put({name: self._run.expert_dir(name) for name in own})
        return failures

    def finish(self, names: Sequence[str]) -> Failures:
        """Lists and publishes what is left; returns those that failed, with reasons."""
        return self.hand_on(names) | self.publisher.finish()

    def unfinished(self, names: Sequence[str]) -> list[str]:
        """Returns the experts that are neither here nor in the bucket."""
        names = [name for name in names if not self._run.is_finished(name)]
        there = self.publisher.published(names) if names else ()
        return [name for name in names if name not in there]

    def check_unchanged(self, names: Sequence[str]) -> None:
        """Raises CheckpointError if finished experts are not those that are asked for.

        What shaped an expert is compared with what the run says now, by the settings
        that both know; versions of packages are not. `check_rows` compares the rows.
        """
        run = self._run
        if not self._compares:
            return
        here = [name for name in names if run.is_finished(name)]
        self.publisher.check_same({name: run.expert_dir(name) for name in here})
        changed: dict[str, list[str]] = {}  # names by what changed
        tasks, tokens = run.experts(), {}
        for name, info in self._manifests(names):
            tokens = tokens or training_config.of_tokens(run, run.open_data())
            settings = training_config.settings(run.of_expert(name)) | tokens
            before = trees.flatten(info.training | {"tasks": list(info.tasks)})
            now = trees.flatten(settings | {"tasks": tasks[name]})
            both = before.keys() & now.keys()
            found = recipes.find_changes(
                {key: before[key] for key in both}, {key: now[key] for key in both}
            )
            if found:
                changed.setdefault("; ".join(found), []).append(name)
        if changed:
            told = "\n".join(f"  {', '.join(n)}: {text}" for text, n in changed.items())
            raise errors.CheckpointError(
                found="finished experts that were trained with another"
                f" configuration\n{told}",
                expected="the configuration that they were trained with",
                do="Undo the change, choose another experts_dir (or MODEL_DIR),"
                " remove these experts, also from a PUBLISH_URL, to train them"
                " again, or keep them as they are with"
                " --gin.train.Train.resume_changed_config=True",
            )

    def check_rows(self, names: Sequence[str]) -> None:
        """Raises CheckpointError if finished experts were trained on other rows.

        Rows are compared by the fingerprints of their token caches, as far as these
        are there; a run that trains anything has built them all.
        """
        run = self._run
        if not self._compares:
            return
        data, changed = None, set[str]()
        for name, info in self._manifests(names):
            for task in info.tasks:
                before = manifest.data_fingerprint(info, task)
                data = data or run.open_data()
                now = data.fingerprint_if_cached(task, "train")
                if None not in (before, now) and before != now:
                    changed.add(f"{name} (rows of {task})")
        if changed:
            raise errors.CheckpointError(
                found="finished experts that were trained on other rows than the"
                f" tasks have now: {', '.join(sorted(changed))}",
                expected="the rows that they were trained on",
                do="Name the data they were trained on, choose another experts_dir"
                " (or MODEL_DIR), remove these experts to train them again, or keep"
                " them with --gin.train.Train.resume_changed_config=True",
            )

    def check_free(self, names: Sequence[str]) -> None:
        """Raises CheckpointError if what is no expert lies where one is to be saved."""
        for name in names:
            folder = self._run.expert_dir(name)
            if folder.exists() and not self._run.is_finished(name):
                raise errors.CheckpointError(
                    found=f"{folder} has no {manifest.FILE_NAME}",
                    expected="a finished expert, or no such folder",
                    do="Remove the folder, or choose another experts_dir",
                )
            self._check_old_state(name)

    def _check_old_state(self, name: str) -> None:
        """Refuses to begin anew beside states where release 0.1 kept them."""
        run = self._run
        old, new = run.path(f"{{MODEL_DIR}}/work/{name}"), run.work_dir(name)
        begun = any((old / "state").glob("[0-9]*")) and not new.exists()
        if begun and not run.is_finished(name):
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
        run = self._run
        base = run.path(run.initial_checkpoint_path or run.model_dir)
        return base.is_dir() and not run.resume_changed_config

    @property
    def _lands(self) -> bool:
        return self._run.is_fleet or processes.is_main()

    def _manifests(
        self, names: Sequence[str]
    ) -> Iterator[tuple[str, manifest.Manifest]]:
        """Yields what experts say of themselves, here or in the bucket."""
        here = [name for name in names if self._run.is_finished(name)]
        for name in here:
            yield name, manifest.read_manifest(self._run.expert_dir(name))
        elsewhere = sorted({*names} - {*here})
        if elsewhere:
            yield from self.publisher.manifests(elsewhere)

    def _list(self, name: str) -> None:
        if self._run.library_dir:
            library = catalogue.Catalogue(self._run.path(self._run.library_dir))
            library.list_once(self._run.expert_dir(name))

    def _remove_states(self, name: str) -> None:
        """Removes the states that an expert had before it was saved.

        Newer ones are of another training, such as one with another `experts_dir`.
        """
        states = self._run.work_dir(name) / "state"
        saved = self._run.expert_dir(name) / manifest.FILE_NAME
        if not self._run.keep_every_steps and _is_older(states, saved):
            shutil.rmtree(states, ignore_errors=True)


def _is_older(path: pathlib.Path, other: pathlib.Path) -> bool:
    try:
        return path.stat().st_mtime_ns <= other.stat().st_mtime_ns
    except FileNotFoundError:
        return False
