"""What a merge will read, write, hold in memory and take, told before it begins."""

import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from elm_jax import trees
from elm_jax.checkpoints import streaming
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merge_sizes, merge_sources, merged_leaves
from elm_jax.runs.progress import show_bytes
from elm_jax.runs.run import Plan

_PROCESS_BYTES = 1 << 29  # The program itself, and parts that are read ahead.
_SAMPLE_BYTES, _SAMPLE_SECS = 1 << 28, 2.0
_AT_ONCE_BYTES = 1 << 22


class Cost(NamedTuple):
    """What a merge costs.

    Attributes:
      read_bytes: Of files of the experts, and of the base where it is needed.
      written_bytes: Of the result, at most: files are compressed.
      peak_bytes: Of memory, by the sizes of the parts that are held; what the reader
        and the allocator keep beside them is not known.
      read_rate: Bytes a second that a part of the experts' files was read in just now.
    """

    read_bytes: int
    written_bytes: int
    peak_bytes: int
    read_rate: float

    def plan(self) -> Plan:
        """Returns it as lines of a plan."""
        secs = (self.read_bytes + self.written_bytes) / self.read_rate
        return {
            "reads": show_bytes(self.read_bytes),
            "writes at most": show_bytes(self.written_bytes),
            "memory, about": f"{show_bytes(self.peak_bytes)}, not measured: leave"
            " room for twice as much",
            "time": f"about {max(1.0, secs):.0f} s, if all is as fast as reading was"
            f" just now, {show_bytes(round(self.read_rate))}/s",
        }


def estimate(
    method: MergeMethod, folders: Sequence[pathlib.Path], base_dir: pathlib.Path
) -> Cost:
    """Returns what a merge costs; reads some of the experts' files to time it.

    Args:
      method: How.
      folders: Of the experts.
      base_dir: Folder of their base.

    Raises:
      CheckpointError: An expert or the base is missing or torn.
    """
    sources = merge_sources.open_sources(method, folders)
    start = merge_sources.open_base(base_dir) if method.needs_base else {}
    is_streamed = merged_leaves.can_merge(method, sources[0].info)
    like = trees.count_bytes(trees.unflatten(sources[0].leaves))
    if is_streamed:
        peak = max(
            merge_sizes.peak_bytes(method, name, sources, start.get(name))
            for name in sources[0].leaves
        )
    else:
        base, _ = streaming.open_expert(base_dir)
        peak = 4 * trees.count_params(trees.unflatten(base)) + (len(folders) + 2) * like
    read = [*folders, *([base_dir] if start or not is_streamed else [])]
    files = [file for folder in read for file in folder.rglob("*") if file.is_file()]
    return Cost(
        sum(file.stat().st_size for file in files),
        like,
        peak + _PROCESS_BYTES,
        _read_rate(max(files, key=lambda file: file.stat().st_size)),
    )


def _read_rate(file: pathlib.Path) -> float:
    """Returns bytes a second in reading a file, or a part of it, from disk."""
    handle = os.open(file, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        begun, num_bytes = time.monotonic(), 0
        while num_bytes < _SAMPLE_BYTES and time.monotonic() - begun < _SAMPLE_SECS:
            part = os.read(handle, _AT_ONCE_BYTES)
            if not part:
                break
            num_bytes += len(part)
        return max(1, num_bytes) / max(1e-6, time.monotonic() - begun)
    finally:
        os.close(handle)
