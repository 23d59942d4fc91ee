"""Formats of T5X: legacy checkpoints, Orbax checkpoints, the settings beside them."""

import gzip
import json
import pathlib
import shutil
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts
from gin import config_parser

from elm_jax import trees
from elm_jax.checkpoints import t5x_config, t5x_export, tensors
from elm_jax.model import config, t5
from elm_jax.runs import bases, convert, loaded
from tests.checkpoints import in_memory
from tests.fuzz.contract import Format, Valid, same
from tests.peft.sample import random_params

_MODEL = config.T5Config(
    vocab_size=11,
    emb_dim=6,
    num_heads=2,
    head_dim=4,
    mlp_dim=10,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
_ACTIVATIONS = ("gelu", "linear")
_SETTINGS = """from __gin__ import dynamic_registration
from t5x.examples.t5 import network

# Macros:
# ==============================================================================
ACTIVATIONS = ('gelu', 'linear')
DROPOUT_RATE = 0.{variant}

# Parameters for network.T5Config:
# ==============================================================================
network.T5Config.dropout_rate = %DROPOUT_RATE
network.T5Config.dtype = 'bfloat16'
network.T5Config.emb_dim = 6
network.T5Config.mlp_activations = \\
    ('gelu',
     'linear')
network.Transformer.config = @network.T5Config()
utils.SaveCheckpointConfig.fns = [@first(), {{'x': %DROPOUT_RATE}}]
"""


def _make(file_format: t5x_export.Format) -> Any:
    def make(folder: pathlib.Path, variant: int) -> None:
        t5x_export.save(
            folder / "checkpoint",
            in_memory.leaves_of(random_params(t5.T5(_MODEL), variant)),
            step=10 + variant,
            file_format=file_format,
            dtype=np.dtype((np.float32, ml_dtypes.bfloat16)[variant]),
            on_bytes=lambda done: None,
        )
        (folder / "config.gin").write_text(_SETTINGS.format(variant=variant))

    return make


def _read(folder: pathlib.Path) -> Any:
    shutil.rmtree(folder / "out", ignore_errors=True)
    convert.ImportT5X(
        model_dir=str(folder / "out"),
        t5x_path=str(folder / "checkpoint"),
        model=_MODEL,
        base_name="base",
    ).run()
    base = loaded.Base.load(folder / "out/base")
    named = dict(tensors.unstack(in_memory.leaves_of(base.params)))
    return (named, bases.read_manifest(folder / "out/base").steps)


def _judge_legacy(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    del valid
    content = (folder / "checkpoint/checkpoint").read_bytes()
    tree = msgpack.unpackb(content, strict_map_key=False)["optimizer"]
    leaves = trees.flatten(_with_arrays(folder / "checkpoint", tree["target"]))
    step = _with_arrays(folder / "checkpoint", tree["state"]["step"])
    return _compared(value, leaves, int(step))


def _with_arrays(folder: pathlib.Path, node: Any) -> Any:
    """Returns the tree of a msgpack file with the arrays that it holds or names."""
    if isinstance(node, msgpack.ExtType):
        content = msgpack.unpackb(node.data)
        dtype = content[1] if isinstance(content[1], str) else content[1].decode()
        array = np.frombuffer(content[2], np.dtype(dtype))
        return array.reshape(content[0]) if node.code == 1 else array[0]
    if not isinstance(node, dict):
        return node
    if "driver" in node:
        return _zarr(folder / pathlib.PurePosixPath(node["kvstore"]["path"]).name)
    return {name: _with_arrays(folder, child) for name, child in node.items()}


def _zarr(folder: pathlib.Path) -> np.ndarray:
    """Returns a zarr array of one chunk, by the published layout."""
    facts = json.loads((folder / ".zarray").read_text("utf-8"))
    shape, chunks = facts["shape"], facts["chunks"]
    separator = facts.get("dimension_separator", ".")
    content = (folder / (separator.join("0" * len(shape)) or "0")).read_bytes()
    if facts["compressor"] is not None:
        content = gzip.decompress(content)
    kind = facts["dtype"]
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    whole = np.frombuffer(content, dtype).reshape(chunks, order=facts["order"])
    return whole[tuple(slice(0, size) for size in shape)]


def _judge_orbax(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Compares with all arrays that the store lists; values have no checksums."""
    del valid
    root = (folder / "checkpoint/state").as_uri()
    store = ts.KvStore.open({"driver": "ocdbt", "base": root}).result()
    names = {key.decode().rpartition("/")[0] for key in store.list().result()}
    stored = {name.replace(".", "/"): _stored(root, name) for name in names}
    step = int(stored.pop("state/step"))
    return _compared(
        value, {n.removeprefix("target/"): a for n, a in stored.items()}, step
    )


def _stored(root: str, name: str) -> np.ndarray:
    kvstore = {"driver": "ocdbt", "base": root, "path": f"{name}/"}
    return ts.open({"driver": "zarr", "kvstore": kvstore}).result().read().result()


def _compared(value: Any, leaves: dict[str, Any], step: int) -> str:
    named, steps = value
    if steps != step:
        return f"step {steps} instead of {step}"
    for name, array in named.items():
        right = np.asarray(leaves[name])
        if not np.isfinite(array).all() or array.shape != right.shape:
            return f"{name} {array.shape} is not finite, or {right.shape} in the file"
        if not np.array_equal(array, right.astype(np.float32)):
            return f"{name} differs from the file"
    return "" if named.keys() == leaves.keys() else f"other tensors: {[*leaves]}"


class _Delegate(config_parser.ParserDelegate):
    """Gives references and macros as texts."""

    def configurable_reference(self, scoped_configurable_name, evaluate):  # noqa: ANN001, ANN201
        return f"@{scoped_configurable_name}{'()' if evaluate else ''}"

    def macro(self, scoped_name):  # noqa: ANN001, ANN201
        return f"%{scoped_name}"


def _judge_settings(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Asks gin's own parser what the file says of the network."""
    if not any(same(value, reading) for reading in valid.values):
        return "other weights"
    if not (folder / "config.gin").exists():
        return ""
    bound: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    text = (folder / "config.gin").read_bytes().decode()
    for statement in config_parser.ConfigParser(text, _Delegate()):
        if not isinstance(statement, config_parser.BindingStatement):
            continue
        if not statement.arg_name:
            bound[statement.selector] = statement.value
        elif statement.selector.rpartition(".")[2] == "T5Config":
            fields[statement.arg_name] = statement.value
    if others := fields.keys() - t5x_config.KNOWN:
        return f"the fields {others} are not refused"
    activations = fields.get("mlp_activations", ("relu",)) if fields else _ACTIVATIONS
    if isinstance(activations, str) and activations.startswith("%"):
        activations = bound.get(activations[1:])
    is_same = (
        isinstance(activations, list | tuple) and tuple(activations) == _ACTIVATIONS
    )
    return "" if is_same else f"mlp_activations {activations!r} are not refused"


FORMATS = {
    "t5x": Format(
        _make("legacy"),
        _read,
        _judge_legacy,
        {
            "checkpoint/checkpoint": ("bytes",),
            "checkpoint/*/.zarray": ("json",),
            "checkpoint/*/*": ("bytes", "gzip"),
        },
    ),
    "t5x_orbax": Format(
        _make("orbax"),
        _read,
        _judge_orbax,
        {"checkpoint/state/*": ("json", "bytes"), "checkpoint/state/**/*": ("bytes",)},
    ),
    "t5x_settings": Format(
        _make("legacy"), _read, _judge_settings, {"config.gin": ("text",)}
    ),
}
