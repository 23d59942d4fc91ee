"""What the `config.gin` beside a T5X checkpoint says of its network.

T5X writes its settings into the folder that holds the checkpoints. Tensors show all of
a network of T5X but which activations it has, so these are held against the file, where
there is one. A field that T5X's own networks lack is refused by name: a fork may
compute something else because of it.

Reference:
  google-research/t5x: gin_utils.summarize_gin_config, T5Config of examples/t5 and
  examples/scalable_t5.
"""

import pathlib
import tokenize
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gin import config_parser

from elm_jax import errors
from elm_jax.checkpoints import stores, t5x

FILE_NAME = "config.gin"
# T5X's own default.
_ACTIVATIONS = ("relu",)
KNOWN = (
    *("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "mlp_activations"),
    *("num_encoder_layers", "num_decoder_layers", "logits_via_embedding"),
    # They shape a training, or how it is computed.
    *("dtype", "dropout_rate", "float32_attention_logits", "remat_policy"),
    *("scan_layers", "param_scan_axis"),
)


# What gin's parser raises, and below it Python's own.
_UNREADABLE = (
    *(SyntaxError, tokenize.TokenError, ValueError, TypeError),
    *(RecursionError, MemoryError),
)


class _AsTexts(config_parser.ParserDelegate):
    """Gives macros and references as the texts that they are, and resolves nothing."""

    def configurable_reference(
        self, scoped_configurable_name: str, evaluate: bool
    ) -> Any:
        return f"@{scoped_configurable_name}{'()' if evaluate else ''}"

    def macro(self, macro_name: str) -> Any:
        return f"%{macro_name}"


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
    bound: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    try:
        for statement in config_parser.ConfigParser(content.decode(), _AsTexts()):
            if not isinstance(statement, config_parser.BindingStatement):
                continue
            if not statement.arg_name:
                bound[statement.selector] = statement.value
            elif statement.selector.rpartition(".")[2] == "T5Config":
                fields[statement.arg_name] = statement.value
    except _UNREADABLE as error:
        raise errors.CheckpointError(
            found=f"{FILE_NAME} beside {path} cannot be read:"
            f" {errors.first_line(error)}",
            expected="what T5X wrote there",
            do="Copy the file again, or move the checkpoint away from it",
        ) from error
    return {name: _resolved(value, bound) for name, value in fields.items()}


def _resolved(value: Any, bound: Mapping[str, Any]) -> Any:
    """Returns the value of a macro; any other argument is returned unchanged."""
    is_macro = isinstance(value, str) and value.startswith("%")
    return bound.get(value[1:], value) if is_macro else value


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
        for name in sorted(fields.keys() - {*KNOWN, *ignored_fields})
    ]
    written = fields.get("mlp_activations", _ACTIVATIONS)
    is_same = isinstance(written, list | tuple) and [*written] == [*activations]
    if fields and not is_same:
        problems.append(f"T5Config.mlp_activations = {written!r}")
    if problems:
        raise errors.CheckpointError(
            found=f"{FILE_NAME} beside {path}: {'; '.join(problems)}",
            expected=f"mlp_activations {tuple(activations)!r}, as the model has"
            " them, and no field that no T5 of T5X has",
            do="Correct config.T5Config.mlp_activations. A field that changes"
            " nothing may be named in ImportT5X.ignored_fields",
        )
