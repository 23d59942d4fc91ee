"""Checkpoints of a training under way: few verbs over Orbax's manager.

A state is written in the background while training goes on. Only what is whole on
disk counts as saved: `latest_step`, `restore` and `close` wait for what is under way.
"""

import contextlib
import json
import pathlib
import shutil
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from elm_jax import errors, fields, paths, trees
from elm_jax.checkpoints import (
    checksums,
    experts,
    one_process,
    orbax_logs,
    recipes,
)
from elm_jax.disk import json_files
from elm_jax.partitioning import processes

_STATE, _CONFIG, _SUMS, _CHECKSUMS = "state", "config", "sums", "checksums"
_PARTIAL = ".orbax-checkpoint-tmp"  # ends the name of what Orbax has not finished


class TrainStateStore:
    """The newest few states of one training, each with the configuration behind it.

    States are any pytree of arrays. What is restored has the bits of what was
    saved, on the devices of the state it is restored into, however many devices and
    processes there were before. Several processes call every verb together; those
    that work apart (`processes.apart`) have stores of their own.

    Args:
      folder: Of this training alone. Nothing is read or written before a verb.
      config: What shaped the training, JSON values by name, nested or not; a
        training goes on only under the configuration it began with.
      completed_fn: Returns a configuration with the fields that it leaves out because
        they change nothing, so that both sides of a change can be told; None for one
        that leaves nothing out.
      bindings: What sets a field where a run may have left it open, by its name.
      keep_last: How many of the newest states stay on disk.
      keep_every_steps: States after a multiple of so many steps stay, too; 0 for none.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        config: Mapping[str, Any] | None = None,
        completed_fn: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        bindings: Mapping[str, str] = types.MappingProxyType({}),
        keep_last: int = 1,
        keep_every_steps: int = 0,
    ) -> None:
        if keep_last < 1:
            raise errors.ConfigError(
                found=f"keep_last = {keep_last}",
                expected="1 or more",
                do="Keep at least the newest state, or save none",
            )
        self._folder = paths.absolute(folder)
        # Through JSON, so that tuples compare equal to the lists that come back.
        self._config: dict[str, Any] = json.loads(json.dumps(dict(config or {})))
        self._completed_fn, self._bindings = completed_fn or dict, bindings
        self._keep_last, self._keep_every_steps = keep_last, keep_every_steps
        self._manager: ocp.CheckpointManager | None = None

    def save(
        self,
        step: int,
        state: Any,
        sums: Mapping[str, float] = types.MappingProxyType({}),
    ) -> None:
        """Begins to write the state after `step` steps, as soon as the last is whole.

        Returns when the state may be donated: it is copied from an accelerator; of a
        CPU's arrays Orbax holds views, and JAX then gives their memory to no one.
        Once the new state is whole, the oldest over the limit is dropped.

        Args:
          step: Steps that were taken.
          state: Any pytree of arrays.
          sums: Of metrics that were not reported yet, for `read_sums`.

        Raises:
          CheckpointError: The disk is full or the folder cannot be written, by this
            save or the one before; states that were whole are still there.
        """
        self.wait()
        self._remove_partial()  # what a killed save may have left
        digests = checksums.of_leaves(_name_leaves(state))
        if processes.are_apart():  # of its devices alone Orbax saves no arrays
            state = jax.device_get(state)
        tree = trees.unflatten(_name_leaves(state))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(tree),
            config=ocp.args.JsonSave(self._config),
            sums=ocp.args.JsonSave(dict(sums)),
            checksums=ocp.args.JsonSave(digests),
        )
        with self._writing():
            self._open().save(step, args=args)

    def wait(self) -> None:
        """Waits until what was given to `save` is on disk.

        Raises:
          CheckpointError: It could not be written; states before it are still there.
        """
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """Returns the step of the newest state on disk, None if there is none."""
        self.wait()
        if not self._folder.is_dir():
            return None
        with self._explained("read", do="Correct the permission"):
            return self._open().latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of all states on disk, in order."""
        if self.latest_step() is None:
            return []
        with self._explained("read", do="Correct the permission"):
            return sorted(self._open().all_steps())

    def name_last_good(self, most: int) -> str:
        """Names the newest state of at most this many steps, and states that are newer.

        Args:
          most: Steps after which no state can be gone on from.
        """
        steps = self.steps()
        good = [step for step in steps if step <= most]
        text = str(good[-1]) if good else "none was saved"
        newer = [str(self._folder / str(step)) for step in steps if step > most]
        start = "go on from it" if good else "begin anew"
        return f"{text}; remove {', '.join(newer)} to {start}" if newer else text

    def read_sums(self) -> dict[str, float] | None:
        """Returns what `save` was given beside the newest state.

        None if there is no state, or if release 0.1 saved it, which kept no sums.

        Raises:
          CheckpointError: It cannot be read.
        """
        step = self.latest_step()
        if step is None or not (self._folder / f"{step}" / _SUMS).is_dir():
            return None
        with self._explained("read", do=self._repair(step)):
            args = ocp.args.Composite(sums=ocp.args.JsonRestore())
            sums = self._open().restore(step, args=args)[_SUMS]
            if not json_files.fits(sums, dict[str, fields.Finite]):
                raise ValueError(f"sums of metrics are {json_files.shown(sums)}")
            return sums

    def restore(self, target: Any, *, allow_changed_config: bool = False) -> Any | None:
        """Returns the newest state, or None if there is none.

        Args:
          target: A state of the same structure, for names, shapes and devices.
          allow_changed_config: Whether to go on although the configuration is not
            the one of the state.

        Raises:
          CheckpointError: The configuration changed (each change is named), the
            state has other tensors or values than were saved (all are named), or it
            cannot be read.
        """
        step = self.latest_step()
        if step is None:
            return None
        repair = self._repair(step)
        with self._explained("read", do=repair):
            manager = self._open()
            args = ocp.args.Composite(config=ocp.args.JsonRestore())
            saved_config = manager.restore(step, args=args)[_CONFIG]
        if not allow_changed_config:
            self._check_config(saved_config)
        shapes = _name_leaves(jax.tree.map(ocp.utils.to_shape_dtype_struct, target))
        with self._explained("read", do=repair):
            saved_tree = manager.item_metadata(step)[_STATE].tree
        experts.check_same_tensors(
            saved_tree, trees.unflatten(shapes), of=f"step {step} in {self._folder}"
        )
        with self._explained("read", do=repair):
            args = ocp.args.StandardRestore(trees.unflatten(shapes))
            restored = manager.restore(step, args=ocp.args.Composite(state=args))
        leaves = trees.flatten(restored[_STATE])
        self._check_values(step, leaves)
        return jax.tree.unflatten(
            jax.tree.structure(target), [leaves[name] for name in _name_leaves(target)]
        )

    def _check_values(self, step: int, leaves: Mapping[str, Any]) -> None:
        """Raises CheckpointError unless the tensors have the digests of the saved ones.

        States that release 0.1 saved have no checksums.
        """
        if not (self._folder / f"{step}" / _CHECKSUMS).is_dir():
            return
        with self._explained("read", do=self._repair(step)):
            args = ocp.args.Composite(checksums=ocp.args.JsonRestore())
            saved = self._open().restore(step, args=args)[_CHECKSUMS]
            if not json_files.fits(saved, dict[str, int]):
                raise ValueError(f"checksums are {json_files.shown(saved)}")
        sums = checksums.of_leaves(leaves)
        wrong = [name for name in sums if sums[name] != saved.get(name)]
        if wrong:
            raise errors.CheckpointError(
                found=f"step {step} in {self._folder} has other values than were"
                f" saved: {', '.join(wrong)}",
                expected="the values of the training: these are damaged",
                do=self._repair(step),
            )

    def close(self) -> None:
        """Waits as `wait` does and frees what the store holds; states stay on disk."""
        self.wait()
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _repair(self, step: int) -> str:
        return f"Remove {self._folder / str(step)} to go on from the state before"

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            orbax_logs.silence()
            options: dict[str, Any] = {}
            who = ocp.options.MultiprocessingOptions()
            if processes.are_apart():
                who = one_process.options()
                self._folder.mkdir(parents=True, exist_ok=True)
                # Threads that make folders tell the others so, by names that stores
                # of other processes have, too.
                folders = ocp.AsyncOptions(create_directories_asynchronously=False)
                options = {"create": False, "async_options": folders}
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep_last,
                    keep_period=self._keep_every_steps or None,
                    enable_async_checkpointing=True,
                    multiprocessing_options=who,
                    **options,
                ),
                item_handlers={
                    _STATE: ocp.StandardCheckpointHandler(multiprocessing_options=who),
                    _CONFIG: ocp.JsonCheckpointHandler(multiprocessing_options=who),
                    _SUMS: ocp.JsonCheckpointHandler(multiprocessing_options=who),
                    _CHECKSUMS: ocp.JsonCheckpointHandler(multiprocessing_options=who),
                },
            )
        return self._manager

    def _remove_partial(self) -> None:
        """Removes what a dead or failed save has left; all processes wait for it."""
        if processes.is_main():
            self._remove_partial_here()
        processes.barrier("unfinished states are removed")

    def _remove_partial_here(self) -> None:
        for partial in self._folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(partial, ignore_errors=True)

    def _check_config(self, saved: Mapping[str, Any]) -> None:
        saved_config = self._completed_fn(saved)
        config = self._completed_fn(self._config)
        changes = recipes.find_changes(saved_config, config)
        if changes:
            as_before = [
                f"set {binding} = {saved_config.get(name)!r}, "
                for name, binding in self._bindings.items()
                if saved_config.get(name) != config.get(name)
            ]
            do = "".join((*as_before, "undo the change, choose another MODEL_DIR"))
            raise errors.CheckpointError(
                found=f"{self._folder} holds a training with another "
                f"configuration: {'; '.join(changes)}",
                expected="the configuration that the training began with",
                do=f"{do[0].upper()}{do[1:]}, or allow the change,"
                " as with --gin.options.Saving.resume_changed_config=True",
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Explains errors of writing, and leaves nothing of what failed."""
        try:
            with self._explained("written", do="Free space or correct the permission"):
                yield
        except errors.CheckpointError:
            manager, self._manager = self._manager, None
            if manager is not None:
                with contextlib.suppress(*experts.IO_ERRORS):
                    manager.close()
            if processes.is_main():
                self._remove_partial_here()  # the others may not come here
            raise

    @contextlib.contextmanager
    def _explained(self, verb: str, *, do: str) -> Iterator[None]:
        try:
            yield
        except experts.IO_ERRORS as error:
            reason = errors.reason(error)
            raise errors.CheckpointError(
                found=f"{self._folder} cannot be {verb}: {reason}",
                expected="a folder with whole states, space and permission",
                do=do,
            ) from error


def _name_leaves(state: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by `/`-joined path, in the pytree's order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in paths
    }
