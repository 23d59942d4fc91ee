"""Formats of rows and templates: CSV, JSON lines, archives, YAML, Jinja."""

import csv
import gzip
import io
import json
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

import jinja2.sandbox
import yaml

from elm_jax.data import rendering, sources, tasks, template_files, templates
from tasks import public_files
from tests.fuzz.contract import Format, Valid, same

TEMPLATE = templates.Template(
    name="ask",
    id="1",
    jinja="{{question}} ||| {{answer_choices[label | int]}}",
    answer_choices="{{first}} ||| {{second}}",
)


def _task(parse: sources.Parser, file: str) -> tasks.Task:
    return tasks.Task(
        name="fuzzed",
        dataset="fuzzed",
        prompt="ask",
        cluster="QA",
        source=sources.FileRows(parse, {"train": [file]}, "nowhere"),
        template=TEMPLATE,
        metrics=("accuracy",),
        max_bad_share=1.0,
    )


def make_rows(variant: int) -> list[dict[str, Any]]:
    things = ("apple, red", 'the "big" river', "stone\nwall", "été 猫", "window")
    return [
        {
            "question": f"What is {thing} number {n + 10 * variant}?",
            "first": f"a {thing}",
            "second": f"no {thing} {variant}",
            "label": n % 2,
        }
        for n, thing in enumerate(things * 2)
    ]


def _read_rows(parse: sources.Parser, file: str) -> Any:
    task = _task(parse, file)

    def read(folder: pathlib.Path) -> Any:
        data_options = tasks.DataOptions(
            cache_dir=str(folder / "cache"), data_dir=str(folder)
        )
        return rendering.render_split(task, "train", data_options)

    return read


def judge_rendered(records: list[Any], rendered: rendering.RenderedSplit) -> str:
    """Compares each kept example with what its own record says."""
    if rendered.num_rows != len(records):
        return f"{rendered.num_rows} rows of {len(records)}"
    if len(rendered) + sum(rendered.dropped.values()) != rendered.num_rows:
        return f"{len(rendered)} kept and {rendered.dropped} of {rendered.num_rows}"
    for place, example_id in enumerate(rendered.example_ids):
        row = records[example_id]
        choices = tuple(str(row[name]).strip() for name in ("first", "second"))
        label = int(float(row["label"]))  # as Jinja's filter does
        right = (str(row["question"]).strip(), choices, choices[label])
        rendered_row = (
            rendered.inputs[place],
            rendered.choices[place],
            rendered.targets[place],
        )
        if right != rendered_row or choices[rendered.labels[place]] != right[2]:
            return f"row {example_id} is {rendered_row!r} instead of {right!r}"
    return ""


def _make_csv(folder: pathlib.Path, variant: int) -> None:
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "first", "second", "label"])
        writer.writeheader()
        writer.writerows(make_rows(variant))


def _judge_csv(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    del valid
    text = (folder / "train.csv").read_bytes().decode("utf-8-sig", "surrogateescape")
    csv.field_size_limit(2**31 - 1)
    header, *records = [r for r in csv.reader(io.StringIO(text, newline="")) if r]
    rows = [
        dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None
        for cells in records
    ]
    return judge_rendered(rows, value)


def _make_jsonl(folder: pathlib.Path, variant: int) -> None:
    (folder / "train.jsonl").write_bytes(_jsonl(variant))


def _jsonl(variant: int) -> bytes:
    lines = [json.dumps(row, ensure_ascii=False) for row in make_rows(variant)]
    return "".join(f"{line}\n" for line in lines).encode()


def _judge_jsonl(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    del valid
    return _judge_lines((folder / "train.jsonl").read_bytes(), value)


def _judge_lines(content: bytes, value: Any) -> str:
    text = content.decode("utf-8-sig", "surrogateescape")
    lines = io.StringIO(text, newline=None)
    return judge_rendered([json.loads(n) for n in lines if n.strip()], value)


def _make_gz(folder: pathlib.Path, variant: int) -> None:
    content = gzip.compress(_jsonl(variant), mtime=0)
    (folder / "train.jsonl.gz").write_bytes(content)


def _judge_gz(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    del valid
    return _judge_lines(_unpacked(folder / "train.jsonl.gz"), value)


def _unpacked(path: pathlib.Path) -> bytes:
    """Returns what gzip members hold, by zlib itself, which checks the checksums."""
    left, unpacked = path.read_bytes(), b""
    while left.strip(b"\0"):
        reader = zlib.decompressobj(wbits=31)
        unpacked += reader.decompress(left) + reader.flush()
        if not reader.eof:
            raise ValueError("it ends early")
        left = reader.unused_data.lstrip(b"\0")
    return unpacked


_WORDS = ("a good bad film", "was very", "plot", "of actor", "great", "boring and")


def _make_archive(folder: pathlib.Path, variant: int) -> None:
    path = folder / "imdb/aclImdb_v1.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for n in range(12):
            text = " ".join(_WORDS[(n * 5 + k * 3 + variant) % 6] for k in range(90))
            kind = "pos" if n % 2 else "neg"
            member = tarfile.TarInfo(f"aclImdb/train/{kind}/{n}_1.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def _read_archive(folder: pathlib.Path) -> Any:
    rows = public_files.FILES["imdb"].rows("train", data_dir=str(folder))
    return [(row["text"], row["label"]) for row in rows]


def _judge_archive(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    if same(value, valid.values[0]):
        return ""
    content = _unpacked(folder / "imdb/aclImdb_v1.tar.gz")
    members = [row for name, row in _members(content) if "/train/" in name]
    return "" if same(value, members) else f"{len(value)} rows, others than the members"


def _members(tar: bytes) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yields the rows of a plain tar, read block by block; its end must be there."""
    place, name = 0, ""
    while (header := tar[place : place + 512]) != bytes(512):
        if len(header) < 512:
            raise ValueError("no end of the archive")
        total = sum(header[:148]) + 8 * 32 + sum(header[156:])
        if total != int(header[148:156].strip(b"\0 "), 8):
            raise ValueError("a header with another checksum")
        name = header[:100].rstrip(b"\0").decode()
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        text = tar[place + 512 : place + 512 + size]
        if len(text) < size:
            raise ValueError("a member without its end")
        kind = name.split("/")[2] if name.count("/") == 3 else ""
        if header[156:157] in (b"0", b"\0") and kind in ("neg", "pos"):
            label = ("neg", "pos").index(kind)
            yield name, (text.decode("utf-8", "surrogateescape"), label)
        place += 512 + (size + 511) // 512 * 512


def _make_yaml(folder: pathlib.Path, variant: int) -> None:
    (folder / "films").mkdir()
    entries = [
        f"""  id{n}: !Template
    answer_choices: good ||| bad
    id: id{n}
    jinja: 'Was {{{{text}}}} good? {variant} {n}

      ||| {{{{answer_choices[label]}}}}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics:
      - Accuracy
      original_task: true
    name: ask {n}
    reference: ''
"""
        for n in range(3)
    ]
    text = f"dataset: films\ntemplates:\n{''.join(entries)}"
    (folder / "films/templates.yaml").write_text(text)


def _read_yaml(folder: pathlib.Path) -> Any:
    loaded = template_files.load_templates(str(folder), "films")
    for template in loaded.values():
        rendering.check_template(template, tasks.DataOptions(cache_dir="").limits)
    return {
        name: (
            template.id,
            template.jinja,
            template.answer_choices,
            list(template.metrics),
        )
        for name, template in loaded.items()
    }


class _Plain(yaml.SafeLoader):
    """PyYAML's own parser with the two tags as mappings."""


for _tag in ("!Template", "!TemplateMetadata"):
    _Plain.add_constructor(_tag, yaml.SafeLoader.construct_yaml_map)


def _judge_yaml(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    if same(value, valid.values[0]):
        return ""
    text = (folder / "films/templates.yaml").read_text("utf-8")
    entries = list(yaml.load(text, _Plain)["templates"].values())  # noqa: S506
    right = {
        entry["name"]: (
            *(entry["id"], entry["jinja"], entry["answer_choices"]),
            list(entry["metadata"]["metrics"] or ()),
        )
        for entry in entries
    }
    if len(right) != len(entries):
        return "two templates of one name"
    return "" if same(value, right) else f"read {value!r:.200}, not {right!r:.200}"


_TEMPLATES = (
    "{% for c in choices %}{{ loop.index }}. {{ c | upper }}\n{% endfor %}"
    "{{ text.split()[0] }} {{ n + 1 }} {{ n * 2 }} ||| {{ answer_choices[label] }}",
    '{{ choices | join(", ") }} {% if n > 2 %}{{ text }}{% else %}no{% endif %}'
    " {{ text | replace('a', 'b') | length }} ||| {{ choices[label] }}",
)
_ROW = {"text": "a small text", "n": 3, "label": 1, "choices": ["yes", "no", "maybe"]}


def _make_jinja(folder: pathlib.Path, variant: int) -> None:
    (folder / "prompt.jinja").write_text(_TEMPLATES[variant])
    (folder / "choices.jinja").write_text("{{ choices | join('|||') }}")


def _read_jinja(folder: pathlib.Path) -> Any:
    prompt, choices = (
        path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        for path in (folder / "prompt.jinja", folder / "choices.jinja")
    )
    template = templates.Template("t", "1", prompt, choices)
    rendered = rendering.render_rows([_ROW], split="train", template=template)
    return (prompt, choices, rendered)


def _judge_jinja(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Compares a kept row with what Jinja's own sandbox makes of it."""
    del folder, valid
    prompt, choices, rendered = value
    if not len(rendered):
        return "" if sum(rendered.dropped.values()) == 1 else "the row is gone"
    plain = jinja2.sandbox.SandboxedEnvironment()
    listed = plain.from_string(choices).render(_ROW).split("|||")
    listed = [choice.strip() for choice in listed]
    text = plain.from_string(prompt).render(_ROW, answer_choices=listed)
    inputs, targets = (part.strip() for part in text.split("|||"))
    right = (inputs, targets, tuple(listed))
    rendered_row = (rendered.inputs[0], rendered.targets[0], rendered.choices[0])
    return (
        ""
        if rendered_row == right
        else f"rendered {rendered_row!r} instead of {right!r}"
    )


FORMATS = {
    "csv": Format(
        _make_csv,
        _read_rows(sources.csv_rows, "train.csv"),
        _judge_csv,
        {"*.csv": ("text", "text", "bytes")},
    ),
    "jsonl": Format(
        _make_jsonl,
        _read_rows(sources.json_lines, "train.jsonl"),
        _judge_jsonl,
        {"*.jsonl": ("json", "text")},
    ),
    "jsonl_gz": Format(
        _make_gz,
        _read_rows(sources.json_lines, "train.jsonl.gz"),
        _judge_gz,
        {"*.gz": ("gzip", "bytes")},
    ),
    "archive": Format(
        _make_archive, _read_archive, _judge_archive, {"imdb/*": ("gzip", "bytes")}
    ),
    "yaml": Format(_make_yaml, _read_yaml, _judge_yaml, {"films/*": ("text",)}),
    "jinja": Format(_make_jinja, _read_jinja, _judge_jinja, {"*.jinja": ("text",)}),
}
