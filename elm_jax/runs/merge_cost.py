"""What a merge will read, write, hold in memory and take, told before it begins."""

import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from elm_jax import trees
from elm_jax.checkpoints import streaming
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merge_memory, merge_sources, merged_leaves
from elm_jax.runs.progress import show_bytes
from elm_jax.runs.run import Plan

_PROCESS_BYTES = 1 << 29  # The program itself, and parts that are read ahead.
_SAMPLE_BYTES, _SAMPLE_SECS = 1 << 28, 2.0
_AT_ONCE_BYTES = 1 << 22


class Cost(NamedTuple):
    """Bytes and time of a merge.

    Attributes:
      read_bytes: Of files of the experts, and of the base where it is needed; twice
        those of experts that may have to be measured first.
      written_bytes: Of the parameters of the result; files hold little more, or less.
      peak_bytes: Of memory, by the sizes of the parts that are held; what the reader
        and the allocator keep beside them is not known, nor are activations of
        experts that are measured.
      read_rate: Bytes a second that a part of the experts' files was read in just now.
      is_measured: Whether the merge needs statistics of the experts.
    """

    read_bytes: int
    written_bytes: int
    peak_bytes: int
    read_rate: float
    is_measured: bool

    def plan(self) -> Plan:
        """Returns the cost as lines of a plan."""
        secs = (self.read_bytes + self.written_bytes) / self.read_rate
        return {
            "reads": show_bytes(self.read_bytes),
            "writes, about": show_bytes(self.written_bytes),
            "memory, about": f"{show_bytes(self.peak_bytes)}, not measured: leave"
            " room for twice as much",
            "time": f"about {max(1.0, secs):.0f} s, if all is as fast as reading was"
            f" just now, {show_bytes(round(self.read_rate))}/s"
            + ("; measuring experts takes its own time" if self.is_measured else ""),
        }


def estimate(
    method: MergeMethod,
    folders: Sequence[pathlib.Path],
    base_dir: pathlib.Path,
    *,
    num_positions: int = 0,
) -> Cost:
    """Returns what a merge costs; reads some of the experts' files to time it.

    Args:
      method: The merge method.
      folders: Of the experts.
      base_dir: Folder of their base.
      num_positions: Of `measuring.Measuring`, for a method that needs it.

    Raises:
      CheckpointError: An expert or the base is missing or torn.
      ConfigError: The method needs more memory at once than it may take.
    """
    # LoRAs of several ranks are written in that of the largest first.
    sources = sorted(
        merge_sources.open_sources(method, folders),
        key=lambda source: merge_memory.num_bytes(source.leaves.values()),
        reverse=True,
    )
    specs = {json.dumps(source.info.adapter, sort_keys=True) for source in sources}
    is_streamed = len(specs) == 1 and merged_leaves.can_merge(method, sources[0].info)
    start = merge_sources.open_base(base_dir) if method.needs_base else {}
    largest = sources[0].leaves
    measured = merge_memory.measured_leaves(method, largest, num_positions)
    written = merge_memory.num_bytes(merged_leaves.likes(method, sources).values())
    peak = 0
    if method.measures or not is_streamed:
        base, _ = streaming.open_expert(base_dir)
        if method.measures:
            peak = merge_memory.of_measuring(base, largest, measured)
        if not is_streamed:
            expert_bytes = merge_memory.num_bytes(
                [*largest.values(), *measured.values()]
            )
            whole = 4 * trees.count_params(trees.unflatten(base))
            beside = merge_memory.of_whole(method, sources)
            peak = max(peak, whole + len(folders) * expert_bytes + 2 * written + beside)
    if is_streamed:
        peak = max(peak, merge_memory.of_leaves(method, sources, start, measured))
    reads_base = bool(start or method.measures or not is_streamed)
    read = [*folders, *([base_dir] if reads_base else [])]
    if method.measures:
        read = [*folders, *read]
    files = [file for folder in read for file in folder.rglob("*") if file.is_file()]
    return Cost(
        sum(file.stat().st_size for file in files),
        written,
        peak + _PROCESS_BYTES,
        _read_rate(max(files, key=lambda file: file.stat().st_size)),
        is_measured=bool(method.measures),
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
