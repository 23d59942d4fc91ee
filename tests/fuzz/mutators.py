"""Seeded damage to files: bytes, text, JSON, headers, archives, whole folders."""

import gzip
import json
import pathlib
import random
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from typing import Any

Bytes = Callable[[random.Random, bytes, bytes], bytes]
"""`(random, content, content of the other valid input) -> damaged content`."""

NUMBERS = (
    *("0", "-1", "1", "2", "1.5", "1e9", "1e308", "1e999", "NaN", "Infinity", "-0"),
    *("9223372036854775808", "100000000000", "9" * 400, "0x10", "1_0", "true"),
)
NAMES = (
    *("", ".", "..", "../x", "../../../x", "/tmp/elm_fuzz_escaped/x", "a/b", "~"),
    *("[/]x", "[bold]x[/bold]", "<script>", "x\0y", "\x1b[31mred", "\ue000", "a\nb"),
    *("\u202eabc", "\ud800", "x" * 300, " ", "-rf", "{MODEL_DIR}", "*", "a" * 70_000),
)
# Of YAML, Jinja, regular expressions and printf: what makes readers work for long.
TEXTS = (
    *(
        "{{ range(10**9)|list }}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ range }}",
    ),
    *(
        "{{ 'a' * 10**10 }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ ''.__class__ }}",
        "{{",
        "%}",
    ),
    *("|||", "&a [*a, *a]", "!!python/object:os.system x", "<<: *a", "? ", "- " * 9999),
    *(
        "[" * 9999,
        "{" * 9999,
        "(a+)+$",
        "(.*a){30}",
        "\t",
        "\r",
        "\ufeff",
        "---\n",
        "#",
    ),
    *("190:20:30:40" + ":59" * 3000, "\0", '"', "'", ",", "\\", "None", "null", "\x85"),
)


def flip(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Flips one to four bits."""
    del donor
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def replace_byte(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Sets a byte to one of the values that formats treat in a special way."""
    del donor
    changed = bytearray(data)
    if changed:
        values = (0, 9, 10, 13, 32, 34, 44, 47, 58, 91, 123, 127, 128, 240, 255)
        changed[rng.randrange(len(changed))] = rng.choice(values)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Cuts the end off, often near it."""
    del donor
    near = max(0, len(data) - rng.randrange(1, 20))
    return data[: rng.choice((near, rng.randrange(len(data) + 1), 0))]


def extend(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Adds zeros, rubbish, the file itself or the other one."""
    rubbish = rng.randbytes(rng.randrange(1, 60))
    return data + rng.choice((bytes(rng.randrange(1, 600)), rubbish, data, donor, b"x"))


def move_chunk(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Removes, doubles or exchanges a run of bytes."""
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    stop = min(stop, start + rng.choice((1, 8, 64, 4096)))
    chunk = rng.choice(
        (b"", data[start:stop] * 2, donor[start:stop], bytes(stop - start))
    )
    return data[:start] + chunk + data[stop:]


def change_number(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Puts another number in place of one in a text."""
    del donor
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not numbers:
        return data
    match = rng.choice(numbers)
    return data[: match.start()] + rng.choice(NUMBERS).encode() + data[match.end() :]


def insert_text(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Inserts a nasty text, or puts it in place of a word."""
    del donor
    text = rng.choice(rng.choice((TEXTS, NAMES))).encode("utf-8", "surrogatepass")
    words = list(re.finditer(rb"[\w.]+", data))
    if words and rng.random() < 0.5:
        word = rng.choice(words)
        return data[: word.start()] + text + data[word.end() :]
    place = rng.randrange(len(data) + 1)
    return data[:place] + text + data[place:]


def move_lines(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Removes, doubles, cuts or exchanges a line."""
    lines, others = data.split(b"\n"), donor.split(b"\n")
    place = rng.randrange(len(lines))
    line = lines[place]
    lines[place : place + 1] = rng.choice(
        ([], [line, line], [line[: len(line) // 2]], [rng.choice(others)], [b"", line])
    )
    return b"\n".join(lines)


def change_json(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Changes a value, key or type in a JSON text, or in one of JSON lines."""
    del donor
    lines = data.split(b"\n")
    try:
        whole = json.loads(data)
        place = None
    except (ValueError, RecursionError):
        place = rng.randrange(len(lines))
        try:
            whole = json.loads(lines[place])
        except (ValueError, RecursionError):
            return data
    text = _with_change(rng, whole).encode("utf-8", "surrogatepass")
    if place is None:
        return text
    return b"\n".join([*lines[:place], text, *lines[place + 1 :]])


def _with_change(rng: random.Random, whole: Any) -> str:
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        pairs = node.items() if isinstance(node, dict) else ()
        pairs = enumerate(node) if isinstance(node, list) else pairs
        for key, child in pairs:
            places.append((node, key))
            visit(child)

    visit(whole)
    mark = "@changed@"
    kind = rng.randrange(10)
    if not places or kind == 0:
        deep = rng.choice((70, 5000, 100_000))
        return rng.choice(("[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep))
    node, key = rng.choice(places)
    if kind == 1 and isinstance(node, dict):
        node[rng.choice(NAMES)] = node.pop(key)
    elif kind == 2:
        del node[key]
    elif kind == 3 and isinstance(node, dict):
        node[f"{key}_more"] = node[key]
    elif kind in (4, 5) and isinstance(node[key], str):
        node[key] = rng.choice(NAMES)
    elif kind in (4, 5, 6):
        node[key] = mark
        return json.dumps(whole).replace(f'"{mark}"', rng.choice(NUMBERS))
    else:
        value = node[key]
        types = (
            [],
            {},
            None,
            "",
            "text",
            0,
            -1,
            True,
            [value],
            {"a": value},
            str(value),
        )
        node[key] = rng.choice((*types, 10**12, [value] * 50))
    return json.dumps(whole, ensure_ascii=rng.random() < 0.5)


def change_safetensors(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Changes the header of a safetensors file, its length made to fit or not."""
    size = int.from_bytes(data[:8], "little")
    if not 8 <= 8 + size <= len(data) - 1:
        return flip(rng, data, donor)
    if rng.random() < 0.1:
        return (
            struct.pack("<Q", rng.choice((0, size * 2, 1 << 40, 2**64 - 1))) + data[8:]
        )
    header = data[8 : 8 + size]
    change = rng.choice((change_json, change_number, insert_text))
    header = change(rng, header, header)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def change_values(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Puts NaN, infinity or zero in place of a float32 in the last half of a file."""
    if len(data) < 16:
        return flip(rng, data, donor)
    place = (rng.randrange(len(data) // 2, max(1, len(data) - 4)) // 4) * 4
    value = rng.choice((float("nan"), float("inf"), float("-inf"), 0.0, 1e38))
    return data[:place] + struct.pack("<f", value) + data[place + 4 :]


def change_npy(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Changes the text of the header of a npy file, its length kept."""
    if data[:6] != b"\x93NUMPY" or len(data) < 128:
        return flip(rng, data, donor)
    size = struct.unpack("<H", data[8:10])[0]
    header = rng.choice((change_number, insert_text))(rng, data[10 : 10 + size], donor)
    header = header[: size - 1].ljust(size - 1) + b"\n"
    return data[:10] + header + data[10 + size :]


def change_inside_gzip(rng: random.Random, data: bytes, donor: bytes) -> bytes:
    """Changes what a gzip file holds, its checksum made anew; now and then a bomb."""
    del donor
    try:
        inner = zlib.decompressobj(wbits=31).decompress(data, 1 << 20)
    except zlib.error:
        return data
    if rng.random() < 0.05:
        member = gzip.compress(bytes(1 << 24), 9, mtime=0)
        return gzip.compress(inner, mtime=0) + member * rng.choice((4, 48))
    change = rng.choice(
        (flip, truncate, extend, move_chunk, change_number, replace_byte)
    )
    return gzip.compress(change(rng, inner, inner), mtime=0)


BYTES = (flip, replace_byte, truncate, extend, move_chunk)
KINDS: dict[str, tuple[Bytes, ...]] = {
    "bytes": BYTES,
    "text": (change_number, insert_text, insert_text, move_lines),
    "json": (change_json, change_json, change_json, change_number, insert_text),
    "safetensors": (change_safetensors, change_values),
    "npy": (change_npy, change_values),
    "gzip": (change_inside_gzip,),
}


def damage(
    rng: random.Random,
    folder: pathlib.Path,
    donors: pathlib.Path,
    damaged: dict[str, tuple[str, ...]],
) -> str:
    """Damages a copy of a valid input in place; returns what was done, in words.

    Args:
      rng: Decides everything.
      folder: The copy.
      donors: The other valid input, from which files may come.
      damaged: As `contract.Format.damaged`.
    """
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        pattern = rng.choice(sorted(damaged))
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not files:
            continue
        path = rng.choice(files)
        name = path.relative_to(folder)
        if rng.random() < 0.04:
            done.append(f"{name}: {_replace_whole(rng, path, donors / name)}")
            continue
        kinds = ("bytes",) if rng.random() < 0.3 else damaged[pattern]
        change = rng.choice(KINDS[rng.choice(kinds)])
        donor = donors / name
        content = donor.read_bytes() if donor.is_file() else b""
        path.write_bytes(change(rng, path.read_bytes(), content))
        done.append(f"{name}: {change.__name__}")
    return "; ".join(done) or "nothing"


def _replace_whole(rng: random.Random, path: pathlib.Path, donor: pathlib.Path) -> str:
    kind = rng.choice(("removed", "folder", "exchanged", "ring", "empty"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "ring":
        path.symlink_to(path.name)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "exchanged" and donor.is_file():
        shutil.copyfile(donor, path)
    return kind
