"""Formats of buckets: a folder, and a server of S3 with objects of any name."""

import functools
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from elm_jax import trees
from elm_jax.checkpoints import bucket, experts
from elm_jax.runs import fetch
from tests.fuzz.contract import Format, Valid
from tests.fuzz.records import make_expert

_NAMES = ("expert_a", "expert_b")


def _make_folder(folder: pathlib.Path, variant: int) -> None:
    """Publishes two experts, the first of them in two copies of the same tensors."""
    _publish(folder, variant, (_NAMES[0], *_NAMES))


def _publish(folder: pathlib.Path, variant: int, names: Sequence[str]) -> None:
    place = bucket.Bucket(str(folder / "bucket"))
    for copy, name in enumerate(names):
        seed = 2 * variant + _NAMES.index(name)
        source = folder / f"source{copy}"
        make_expert(source, seed, name)
        place.publish(name, source)
        shutil.rmtree(source)


def _make_objects(folder: pathlib.Path, variant: int) -> None:
    """Keeps the objects of two copies in files, and their keys in a list beside."""
    _publish(folder, variant, (_NAMES[0], _NAMES[0]))
    root = folder / "bucket"
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    keys = [path.relative_to(root).as_posix() for path in paths]
    (folder / "objects").mkdir()
    for number, path in enumerate(paths):
        path.rename(folder / f"objects/{number:03d}")
    shutil.rmtree(root)
    (folder / "keys.json").write_text(json.dumps(keys, indent=1))


def _fetched(folder: pathlib.Path, url: str) -> Any:
    """Fetches all experts, and returns what they are by name."""
    place = folder / "out"
    shutil.rmtree(place, ignore_errors=True)
    fetch.FetchExperts(model_dir=str(place), url=url).run()
    by_name = {}
    for expert in sorted((place / "experts").iterdir()):
        if expert.is_dir() and not expert.name.startswith("."):
            params, info = experts.load_expert(expert)
            by_name[expert.name] = (info.name, trees.fingerprint(params), info.seed)
    return by_name


def _read_folder(folder: pathlib.Path) -> Any:
    return _fetched(folder, str(folder / "bucket"))


@functools.cache
def _server() -> int:
    """Returns the port of a server of S3 within this process, which ends with it."""
    from moto import server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer(ip_address="localhost", port=0, verbose=False)
    moto.start()
    return moto.get_host_and_port()[1]


def _read_objects(folder: pathlib.Path) -> Any:
    from moto.s3 import models

    port = _server()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://localhost:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "tester",
    }
    store = models.s3_backends["123456789012"]["aws"]
    store.reset()
    store.create_bucket("experts", "us-east-1")
    for number, key in _keys(folder).items():
        path = folder / f"objects/{number:03d}"
        if path.is_file():
            store.put_object("experts", key, path.read_bytes())
    return _fetched(folder, "s3://experts")


def _keys(folder: pathlib.Path) -> dict[int, str]:
    """Returns the objects' keys as the damaged list has them, the texts of it."""
    try:
        listed = json.loads((folder / "keys.json").read_text("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        listed = []
    keys = listed if isinstance(listed, list) else []
    return {n: key for n, key in enumerate(keys) if isinstance(key, str) and key}


def _judge(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """What comes out was put in; what is left out has no manifest in its place."""
    for name, fetched in value.items():
        if fetched not in [published.get(name) for published in valid.values]:
            return f"{name} is {fetched}, none of those published"
    for name in _NAMES:
        if name not in value and _has_manifest(folder, name):
            return f"{name} is left out"
    return ""


def _has_manifest(folder: pathlib.Path, name: str) -> bool:
    if (folder / "bucket").exists():
        return any((folder / "bucket" / name).glob("*/manifest.json"))
    objects = {key for n, key in _keys(folder).items() if _is_there(folder, n)}
    keys = [key.split("/") for key in objects]
    return any(k[0] == name and k[2:] == ["manifest.json"] for k in keys)


def _is_there(folder: pathlib.Path, number: int) -> bool:
    return (folder / f"objects/{number:03d}").is_file()


FORMATS = {
    "bucket": Format(
        _make_folder,
        _read_folder,
        _judge,
        {
            "bucket/*/*.json": ("json",),
            "bucket/*/*/manifest.json": ("json",),
            "bucket/*/*/params/**/*": ("bytes",),
        },
    ),
    "bucket_server": Format(
        _make_objects,
        _read_objects,
        _judge,
        {"keys.json": ("json",), "objects/*": ("json", "bytes")},
    ),
}
