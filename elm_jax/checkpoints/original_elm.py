"""Reads prompt experts of the paper's own code: a folder of one `.pt` file per tensor.

A file is named after its parameter in that code's T5, and adapters' names hold the
name of the training task.

Reference:
  joeljang/ELM, seq2seq/run_seq2seq.py, adapters/ and third_party/models/t5/.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import experts, huggingface, layers, tensors, torch_files
from elm_jax.types import LAYERS, Params

# The number of the sub-layer that has the adapter, within a block.
_SUB_LAYERS = {
    ("encoder", "attention_adapter"): 0,
    ("encoder", "mlp_adapter"): 1,
    ("decoder", "self_attention_adapter"): 0,
    ("decoder", "mlp_adapter"): 2,
}
_PARTS = {"kernel": "weight", "bias": "bias"}
_ADAPTER = re.compile(
    rf"(encoder|decoder)/{LAYERS}_(\d+)/(\w+_adapter)/(down|up)/(kernel|bias)"
)
_TASK = re.compile(r"\.adapter_controller\.adapters\.(.+)\.(?:down|up)_sampler\.\w+")


class ElmExpert(NamedTuple):
    """An expert by our names.

    Attributes:
      task: The name of the training task in the tensors' names.
      params: Float32 arrays, layers stacked.
    """

    task: str
    params: dict[str, Any]


def load_elm(folder: str | pathlib.Path, expected: Params) -> ElmExpert:
    """Returns the expert of a folder, usually `.../<dataset>/<prompt>/adapter_params`.

    Args:
      folder: With one `.pt` file per tensor.
      expected: What the expert must hold by our names: adapters after self-attention
        and feed-forward, and layer norms; leaves need only a `shape`.

    Raises:
      CheckpointError: There is no such file, one cannot be read, or tensors are
        missing, extra or misshapen; all are named.
      MissingExtraError: torch is not installed.
    """
    path = paths.absolute(folder)
    # Below the folder, as a task's name may have a slash.
    files = {
        p.relative_to(path).as_posix(): p
        for p in sorted(path.rglob("*.pt"))
        if p.is_file()
    }
    if not files:
        raise errors.CheckpointError(
            found=f"no .pt file in {path}",
            expected="the folder adapter_params of an expert of the ELM code",
            do="Correct the path, or unpack the archive of experts",
        )
    named = {
        n.removesuffix(".pt"): torch_files.read_tensor(p) for n, p in files.items()
    }
    return from_tensors(named, expected, of=str(path))


def from_tensors(
    named: Mapping[str, np.ndarray], expected: Params, *, of: str
) -> ElmExpert:
    """Returns the expert of tensors by the original code's names.

    Args:
      named: One expert's tensors.
      expected: What the expert must hold, by our names; leaves need only a `shape`.
      of: Where the tensors are from, for the messages.

    Raises:
      CheckpointError: The tensors are of several tasks, or some are missing, extra or
        misshapen; all are named.
    """
    tasks = sorted({match[1] for name in named if (match := _TASK.search(name))})
    if len(tasks) > 1:
        raise errors.CheckpointError(
            found=f"{of} with adapters of the tasks {', '.join(tasks)}",
            expected="the adapters of one",
            do="Import a folder per expert",
        )
    task = tasks[0] if tasks else "<task>"
    leaves = tensors.plain_shapes(trees.flatten(expected))
    original_names = {name: original_name(name, task) for name in leaves}
    shapes = {
        original_names[name]: tensors.ShapeOnly(leaf.shape[::-1])
        for name, leaf in leaves.items()
    }
    experts.check_same_tensors(named, shapes, of=of)
    arrays = {n: tensors.cast(named[original_names[n]], np.float32) for n in leaves}
    tensors.check_finite(arrays, of=of)
    plain = {n: array.T for n, array in arrays.items()}
    return ElmExpert(task, layers.stack_layers(trees.unflatten(plain)))


def original_name(name: str, task: str) -> str:
    """Returns the original code's name of one of our plain tensors.

    Matrices are the other way round there.

    >>> original_name("encoder/layers_3/mlp_adapter/up/bias", "dream")
    'encoder.block.3.layer.1.adapter_controller.adapters.dream.up_sampler.bias'

    Raises:
      CheckpointError: It has no such tensor, such as an adapter's after
        cross-attention.
    """
    match = _ADAPTER.fullmatch(name)
    if match is None:
        return huggingface.place(name).name
    stack, number, adapter, side, part = match.groups()
    if (stack, adapter) not in _SUB_LAYERS:
        raise errors.CheckpointError(
            found=f"tensor {name}",
            expected="adapters after self-attention and feed-forward only",
            do="Leave Bottleneck.points as it is by default",
        )
    return (
        f"{stack}.block.{number}.layer.{_SUB_LAYERS[stack, adapter]}"
        f".adapter_controller.adapters.{task}.{side}_sampler.{_PARTS[part]}"
    )
