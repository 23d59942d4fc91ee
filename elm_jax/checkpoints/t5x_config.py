"""What the `config.gin` beside a T5X checkpoint says of its network.

T5X writes its settings into the folder that holds the checkpoints. Tensors show all of
a network of T5X but which activations it has, so these are held against the file, where
there is one. A field that T5X's own networks lack is refused by name: a fork may
compute something else because of it.

Reference:
  google-research/t5x: gin_utils.summarize_gin_config, T5Config of examples/t5 and
  examples/scalable_t5.
"""

import ast
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.checkpoints import stores, t5x

FILE_NAME = "config.gin"
# T5X's own default.
_ACTIVATIONS = ("relu",)
_KNOWN = (
    *("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "mlp_activations"),
    *("num_encoder_layers", "num_decoder_layers", "logits_via_embedding"),
    # They shape a training, or how it is computed.
    *("dtype", "dropout_rate", "float32_attention_logits", "remat_policy"),
    *("scan_layers", "param_scan_axis"),
)
# A binding as gin writes it: its value may go on over lines that are indented.
_BINDING = re.compile(r"^([\w./]+) = ((?:\\\n)?.*(?:\n[ \t)\]}].*)*)", re.MULTILINE)


def network_fields(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns the fields of T5Config in the file beside a checkpoint, {} for none.

    Args:
      path: The checkpoint's folder or URL.

    Raises:
      CheckpointError: The file cannot be read.
    """
    parent = stores.as_url(path).rstrip("/").rpartition("/")[0]
    with t5x.reading(path):
        content = stores.read_bytes(f"{parent}/", FILE_NAME)
    if content is None:
        return {}
    try:
        bound = dict(_BINDING.findall(content.decode()))
    except UnicodeError as error:
        raise errors.CheckpointError(
            found=f"{FILE_NAME} beside {path} cannot be read: {error}",
            expected="what T5X wrote there",
            do="Copy the file again, or move the checkpoint away from it",
        ) from error
    fields = {}
    for name, text in bound.items():
        owner, _, field = name.rpartition(".")
        if re.search(r"(^|[./])T5Config$", owner):
            macro = bound.get(text.removeprefix("%"), text)
            fields[field] = _value(macro if text.startswith("%") else text)
    return fields


def _value(text: str) -> Any:
    """Returns the value of a literal, and the text of anything else."""
    text = text.replace("\\\n", " ").strip()
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def check(
    path: str | pathlib.Path,
    activations: Sequence[str],
    ignored_fields: Collection[str] = (),
) -> None:
    """Raises CheckpointError if the file beside a checkpoint tells another network.

    Args:
      path: The checkpoint's folder or URL.
      activations: `mlp_activations` of the model that it is read as.
      ignored_fields: Names of fields that no T5 of T5X has and that may be ignored.
    """
    fields = network_fields(path)
    problems = [
        f"T5Config.{name} = {fields[name]!r}"
        for name in sorted(fields.keys() - {*_KNOWN, *ignored_fields})
    ]
    found = fields.get("mlp_activations", _ACTIVATIONS)
    is_same = isinstance(found, list | tuple) and [*found] == [*activations]
    if fields and not is_same:
        problems.append(f"T5Config.mlp_activations = {found!r}")
    if problems:
        raise errors.CheckpointError(
            found=f"{FILE_NAME} beside {path}: {'; '.join(problems)}",
            expected=f"mlp_activations {tuple(activations)!r}, as the model has"
            " them, and no field that no T5 of T5X has",
            do="Correct config.T5Config.mlp_activations. A field that changes"
            " nothing may be named in ImportT5X.ignored_fields",
        )
