"""Formats of our own records: manifests, libraries, caches, results, diaries."""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import re
from typing import Any
from unittest import mock

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.data import cache, sources, tasks, vocabulary, vocabulary_training
from elm_jax.disk import seals
from elm_jax.evaluation import result_store, results, row_cache
from elm_jax.library import catalogue, index, retrieval
from elm_jax.runs import bases, library, report
from tasks import pocket
from tests.checkpoints import peft_sample, sample
from tests.fuzz.contract import Format, Valid, content, guarded, same
from tests.fuzz.rows import _make_jsonl, _task

MODEL = dataclasses.asdict(peft_sample.CONFIG)
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/]{1,250}")


assert pocket  # noqa: S101 - importing it registers the report's task


def make_expert(folder: pathlib.Path, variant: int, name: str = "") -> None:
    """Writes an expert; its parameters and facts differ by variant."""
    info = sample.make_manifest(
        name=name or f"expert_{variant}", model=MODEL, steps=10 + variant, seed=variant
    )
    experts.save_expert(folder, sample.make_expert(variant), info)


def _lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def _strict(text: bytes) -> Any:
    """Parses JSON as the standard library does; two equal keys are an error."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    return json.loads(text.decode("utf-8-sig"), object_pairs_hook=once)


def _make_manifest(folder: pathlib.Path, variant: int) -> None:
    make_expert(folder / "expert", variant)


def _read_manifest(folder: pathlib.Path) -> Any:
    info = manifest.read_manifest(folder / "expert")
    bases.model_config(info)
    bases.adapter_spec(info)
    run = library.LibraryRun(model_dir=str(folder))
    library.find_experts(run, str(folder / "*"))
    params, _ = experts.load_expert(folder / "expert")
    return dataclasses.asdict(info) | {"loaded": trees.fingerprint(params)}


def _judge_manifest(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    fields = _strict((folder / "expert/manifest.json").read_bytes())
    fields.pop(seals.KEY, None)  # where it is there, the reader has compared it
    right = dataclasses.asdict(manifest.Manifest(**fields))
    name = fields["name"]
    if not _NAME.fullmatch(name) or name.strip(". ") == "":
        return f"the name {name!r}"
    value = dict(value)
    params = value.pop("loaded")
    if params not in [reading["loaded"] for reading in valid.values]:
        return "other parameters"
    if value["params_fingerprint"] not in ("", params):  # "" in those of release 0.1
        return "parameters under another fingerprint"
    value = value | {"tasks": list(value["tasks"])}
    right = right | {"tasks": list(right["tasks"])}
    return "" if value == right else f"read {value!r:.300}, not {right!r:.300}"


def _make_catalogue(folder: pathlib.Path, variant: int) -> None:
    listed = catalogue.Catalogue(folder / "library")
    for number in range(3):
        place = folder / f"experts/e{number}"
        make_expert(place, number + 3 * variant, f"expert_{number}_{variant}")
        listed.add(place)
    listed.retire(f"expert_2_{variant}")


def _read_catalogue(folder: pathlib.Path) -> Any:
    library.ListExperts(model_dir=str(folder)).run()
    listed = catalogue.Catalogue(folder / "library")
    listed.check()
    return [dataclasses.asdict(entry) for entry in listed.entries()]


def _judge_catalogue(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    del valid
    text = (folder / "library/catalogue.jsonl").read_bytes()
    entries = [{"fingerprint": "", "base_dtype": ""} | line for line in _lines(text)]
    value = [entry | {"tasks": list(entry["tasks"])} for entry in value]
    if len({entry["name"] for entry in entries}) < len(entries):
        return "a name twice"
    return "" if value == entries else f"read {value!r:.300}, not {entries!r:.300}"


class _Embedder:
    name = "letters"

    def embed(self, texts: Any) -> np.ndarray:
        rows = [[text.count(c) + 0.25 for c in "abcdefg"] for text in texts]
        return np.asarray(rows, np.float32)


_QUERIES = ("a bad cab", "gaffe", "egg", "dab")


def _make_index(folder: pathlib.Path, variant: int) -> None:
    words = ("abba", "cabbage", "deed", "feed", "gag", "bead", "face", "cage", "fade")
    new = [
        index.NewExpert(
            f"expert_{number}",
            [f"{word} {variant}" for word in words[number::3]],
            (index.RowsUsed(f"task_{number}", "train", (1, 4, 7 + variant)),),
        )
        for number in range(3)
    ]
    settings = index.IndexSettings("letters", num_keys=3)
    index.extend(folder, new, embedder=_Embedder(), settings=settings)


def _read_index(folder: pathlib.Path) -> Any:
    opened = index.open_index(folder)
    votes = retrieval.retrieve_for_texts(opened, _QUERIES, embedder=_Embedder())
    settings = dataclasses.asdict(opened.settings)
    listed = [dataclasses.asdict(expert) for expert in opened.experts]
    return (votes.votes, opened.keys, opened.owners, settings, listed)


def _judge_index(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    """Keys have a checksum; what stands in index.json may be another's, as it says."""
    if not guarded(folder, value, valid):
        return ""
    votes, keys, owners, settings, listed = value
    right = valid.values[0]
    if not same((keys, owners), right[1:3]):
        return "other keys or owners"
    record = _strict((folder / "index.json").read_bytes())
    text = json.loads(json.dumps([settings, listed]))
    if text[0] != record["settings"] or len(text[1]) != len(record["experts"]):
        return f"settings {settings} instead of {record['settings']}"
    for shown, recorded in zip(text[1], record["experts"], strict=True):
        if any(shown[name] != recorded[name] for name in shown if name in recorded):
            return f"expert {shown} instead of {recorded}"
    if len({expert["name"] for expert in listed}) < len(listed):
        return "an expert twice"
    return "" if sum(n for _, n in votes) == len(_QUERIES) else f"votes {votes}"


def make_cache(folder: pathlib.Path, variant: int) -> None:
    """Writes rows, a vocabulary and the token cache of both."""
    (folder / "data").mkdir()
    _make_jsonl(folder / "data", variant)
    make_vocabulary(folder / "data/tiny.model", 0)
    open_cache(folder)


def make_vocabulary(path: pathlib.Path, variant: int) -> None:
    """Trains a small vocabulary."""
    texts = [
        f"what is the number of row {n} red river yes no {variant}" for n in range(60)
    ]
    vocabulary_training.train_vocabulary(texts, path, vocab_size=36 + variant)


@functools.cache
def _registered() -> str:
    task = _task(sources.json_lines, "train.jsonl")
    tasks.registry.add(task)
    return task.name


def open_cache(folder: pathlib.Path) -> Any:
    """Returns what `make_cache` has made."""
    return cache.open_cache(
        _registered(),
        "train",
        vocabulary=vocabulary.SentencePiece(str(folder / "data/tiny.model")),
        features=tasks.Features(inputs_length=20, targets_length=30),
        data_options=tasks.DataOptions(
            cache_dir=str(folder / "cache"), data_dir=str(folder / "data")
        ),
    )


def _read_cache(folder: pathlib.Path) -> Any:
    cache = open_cache(folder)
    facts = json.loads(json.dumps(dict(cache.manifest)))
    return ([tuple(example) for example in cache], cache.name, cache.split, facts)


def _make_results(folder: pathlib.Path, variant: int) -> None:
    store = result_store.ResultStore(folder / "results.jsonl")
    for number, expert in enumerate(("base", "expert_a", "retrieved")):
        for split in ("test", "validation"):
            values = np.array([0.0, 100.0, 0.0, 100.0][: 3 + variant])
            store.record(
                results.Cell(
                    expert=expert,
                    base_fingerprint="0123",
                    expert_fingerprint="77aa" if number else "",
                    task="pocket_endings_what_next",
                    dataset="pocket_endings",
                    prompt="what_next",
                    split=split,
                    protocol="elm",
                    seed=0,
                    checkpoint_step=10,
                    scoring="55",
                ),
                run_id="r",
                values={"accuracy": float(values.mean()), "chance": 50.0},
                num_examples=len(values),
                per_example={"example_ids": np.arange(len(values)), "accuracy": values},
                facts=results.Facts(
                    kind=("base", "prompt", "strategy")[number], inputs_cut=0.0
                ),
            )
    votes = {"task": "pocket_endings_what_next", "votes": [["expert_a", 20 + variant]]}
    (folder / "votes.jsonl").write_text(json.dumps(votes) + "\n")
    (folder / "work/expert_a").mkdir(parents=True)
    losses = [{"step": 10 * n, "loss": 3.0 / n, "accuracy": 0.5} for n in (1, 2, 3)]
    text = "".join(f"{json.dumps(row)}\n" for row in losses)
    (folder / "work/expert_a/metrics.jsonl").write_text(text)


def _make_old_results(folder: pathlib.Path, variant: int) -> None:
    """Writes the same as earlier versions did: a file of values for each cell."""
    _make_results(folder, variant)
    path = folder / "results.jsonl"
    store = result_store.ResultStore(path)
    lines = []
    for number, row in enumerate(store.rows()):
        name = f"per_example/{number}.npz"
        buffer = io.BytesIO()
        np.savez(buffer, **store.per_example(row))  # pyright: ignore[reportArgumentType]
        (folder / name).write_bytes(buffer.getvalue())
        old = {**json.loads(row.to_json()), "per_example_path": name}
        for field in results.PLACE_FIELDS[1:]:
            del old[field]
        lines.append(json.dumps(old))
    for arrow_file in folder.glob("per_example/*.arrow"):
        arrow_file.unlink()
    path.write_text("".join(f"{line}\n" for line in lines))


def _make_kept_rows(folder: pathlib.Path, variant: int) -> None:
    _make_results(folder, variant)
    with mock.patch.object(row_cache, "LEAST_BYTES", 1):
        result_store.ResultStore(folder / "results.jsonl").finish()


def _read_rows(folder: pathlib.Path) -> Any:
    rows = result_store.ResultStore(folder / "results.jsonl").rows()
    return ([dataclasses.asdict(row) for row in rows], "")


def _read_report(folder: pathlib.Path) -> Any:
    run = report.Report(
        model_dir=str(folder), title="Fuzzed", unseen_tasks="pocket_endings_what_next"
    )
    run.run()
    rows = result_store.ResultStore(folder / "results.jsonl").rows()
    page = (folder / "report/index.html").read_text("utf-8")
    return ([dataclasses.asdict(row) for row in rows], page)


def _judge_results(folder: pathlib.Path, value: Any, valid: Valid) -> str:
    original = valid.folders[0]
    if content(folder).get("results.jsonl") == content(original)["results.jsonl"]:
        return "" if same(value, valid.values[0]) else "another page of the same rows"
    path = folder / "results.jsonl"
    if not path.exists():
        return "rows out of nothing" if value[0] else ""
    *lines, tail = path.read_bytes().split(b"\n")
    recorded = [_strict(line) for line in lines]
    if tail.strip():  # a killed writer's, dropped unless it is whole
        with contextlib.suppress(ValueError):
            recorded.append(_strict(tail))
    names = {field.name for field in dataclasses.fields(results.ResultRow)}
    rows = {json.dumps(row, sort_keys=True): row for row in value[0]}
    for line in recorded:
        if not isinstance(line, dict) or not line.keys() <= names:
            continue  # such a tail is dropped, too
        alike = [r for r in rows.values() if all(r[k] == line[k] for k in line)]
        key = [n for n in names if n in results.CELL_FIELDS or n == "metric"]
        first = [
            r for r in rows.values() if all(r.get(k) == line.get(k, "") for k in key)
        ]
        if not alike and not first:
            return f"the row {line!r:.200} is gone"
    return "" if len(rows) <= len(recorded) else "rows out of nothing"


def _judge_lines_of(name: str, *keys: str) -> Any:
    """Returns a judge: the rows are the valid ones, and the lines are read."""

    def judge(folder: pathlib.Path, value: Any, valid: Valid) -> str:
        if not any(same(value[0], reading[0]) for reading in valid.values):
            return "other rows"
        if (
            any(same(value, reading) for reading in valid.values)
            or not (folder / name).is_file()
        ):
            return ""
        *lines, tail = (folder / name).read_bytes().split(b"\n")
        for line in lines:
            record = _strict(line)
            if any(key not in record for key in keys):
                return f"read the line {line!r:.200}"
        del tail
        return ""

    return judge


FORMATS = {
    "manifest": Format(
        _make_manifest,
        _read_manifest,
        _judge_manifest,
        {"expert/manifest.json": ("json",)},
    ),
    "catalogue": Format(
        _make_catalogue,
        _read_catalogue,
        _judge_catalogue,
        {"library/catalogue.jsonl": ("json", "text")},
    ),
    "index": Format(
        _make_index,
        _read_index,
        _judge_index,
        {"index.json": ("json",), "*.npy": ("npy", "bytes")},
    ),
    "cache": Format(
        make_cache,
        _read_cache,
        guarded,
        {"cache/*/*/manifest.json": ("json",), "cache/*/*/arrays.bin": ("bytes",)},
    ),
    "results": Format(
        _make_results,
        _read_report,
        _judge_results,
        {"results.jsonl": ("json", "text"), "per_example/*.arrow": ("bytes",)},
    ),
    "old_results": Format(
        _make_old_results,
        _read_report,
        _judge_results,
        {"results.jsonl": ("json", "text"), "per_example/*.npz": ("bytes",)},
    ),
    "kept_rows": Format(
        _make_kept_rows,
        _read_rows,
        _judge_results,
        {".results.jsonl.rows": ("bytes",), "results.jsonl": ("json", "text")},
    ),
    "metrics": Format(
        _make_results,
        _read_report,
        _judge_lines_of("work/expert_a/metrics.jsonl", "step", "loss"),
        {"work/*/metrics.jsonl": ("json", "text")},
    ),
    "votes": Format(
        _make_results,
        _read_report,
        _judge_lines_of("votes.jsonl", "task", "votes"),
        {"votes.jsonl": ("json", "text")},
    ),
}
