"""The format of torch's files of weights, as Hugging Face has them.

Without torch its reader must say that it is missing, whatever the file holds.
"""

import importlib.util
import json
import pathlib
import zipfile
from typing import Any

from elm_jax import errors, trees
from elm_jax.checkpoints import tensors
from tests.checkpoints import huggingface_sample, in_memory
from tests.fuzz import weights
from tests.fuzz.contract import Format, Valid, same

_HAS_TORCH = importlib.util.find_spec("torch") is not None
_MISSING = "no torch"


def _make(folder: pathlib.Path, variant: int) -> None:
    params = huggingface_sample.make_params(seed=variant)
    hub_tensors = huggingface_sample.to_theirs(params)
    huggingface_sample.write_folder(folder / "model", hub_tensors)
    (folder / "model/model.safetensors").unlink()
    names = sorted(hub_tensors)
    parts = {"part-1": names[::2], "part-2": names[1::2]}
    places = {}
    for part, of_part in parts.items():
        file = f"pytorch_model-{part}.bin"
        _save(folder / "model" / file, {name: hub_tensors[name] for name in of_part})
        places |= dict.fromkeys(of_part, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model/pytorch_model.bin.index.json").write_text(json.dumps(index))


def _save(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    if not _HAS_TORCH:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
        return
    import torch  # pyright: ignore[reportMissingImports]

    torch.save({n: torch.from_numpy(a) for n, a in arrays.items()}, path)


def _read(folder: pathlib.Path) -> Any:
    try:
        return weights.read_model(folder)
    except errors.MissingExtraError:
        if _HAS_TORCH:
            raise
        return _MISSING


def _judge(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Members of torch's archives have checksums, which `zipfile` compares."""
    if value == _MISSING:
        return ""
    for path in (folder / "model").glob("*.bin"):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad:
            return f"{path.name}: {bad} has a wrong checksum"
    written = [_plain(reading[0]) for reading in valid.values]
    for name, array in _plain(value[0]).items():
        if not any(same(array, weights[name]) for weights in written):
            return f"{name} was never written"
    return ""


def _plain(params: Any) -> dict[str, Any]:
    return dict(tensors.unstack(in_memory.leaves_of(trees.unflatten(params))))


FORMATS = {
    "torch": Format(
        _make,
        _read,
        _judge,
        {"model/*.bin": ("bytes",), "model/*.index.json": ("json",)},
    )
}
