import ast
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import (
    cache,
    seqio_tasks,
    sources,
    tasks,
    templates,
    tensorflow_imports,
    vocabulary,
)

FEATURES = tasks.Features(inputs_length=64, targets_length=8)


def files_below(folder):
    return sorted(str(path) for path in pathlib.Path(folder).rglob("*"))


def test_tokens_texts_choices_and_labels_agree(open_cache, colours, vocab):
    data = open_cache("colours_ask")
    assert len(data) == 60
    assert {len(example.choices) for example in data} == {2, 3, 4, 5}
    for example in data:
        assert example.inputs.tolist() == [*vocab.encode(example.inputs_text), 1]
        assert example.targets.tolist() == [*vocab.encode(example.targets_text), 1]
        assert example.choices_text[example.label] == example.targets_text
        np.testing.assert_array_equal(example.choices[example.label], example.targets)
        assert example.answer_choices == colours.template.answer_choices
    assert data[-1].example_id == 59
    assert [e.example_id for e in data[3:5]] == [3, 4]
    with pytest.raises(IndexError):
        data[60]


@pytest.mark.slow
def test_cut_tokens_are_what_seqio_trims_to(open_cache, colours, vocab, data_options):
    # Shorter than the inputs under any vocabulary that SentencePiece's releases train.
    short = tasks.Features(inputs_length=20, targets_length=2)
    data = open_cache("colours_ask", features=short)
    task = seqio_tasks.to_seqio(
        colours, vocabulary=vocab, features=short, data_options=data_options
    )
    seqio_rows = task.get_dataset({"inputs": 20, "targets": 2}, "train", shuffle=False)
    for ours, seqios in zip(data, seqio_rows.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(ours.inputs, seqios["inputs"])
        np.testing.assert_array_equal(ours.targets, seqios["targets"])
    assert data.manifest["cut"]["inputs"] == 60
    assert all(example.inputs_cut for example in data)
    assert data[0].inputs_text.startswith("The apple")
    assert int(data.manifest["length_percentiles"]["inputs"]["100"]) > 20


def test_each_example_tells_whether_its_prompt_was_cut(open_cache, colours, vocab):
    whole = open_cache("colours_ask")
    lengths = [len(vocab.encode(example.inputs_text)) + 1 for example in whole]
    middle = int(np.median(lengths))
    short = dataclasses.replace(FEATURES, inputs_length=middle)
    data = open_cache("colours_ask", features=short)
    cut = [length > middle for length in lengths]
    assert 0 < sum(cut) < len(cut)
    assert [example.inputs_cut for example in data] == cut
    assert data.columns.inputs_cut.tolist() == cut
    assert data.manifest["cut"]["inputs"] == sum(cut)


def test_unknown_characters_and_equal_choices_are_counted(
    open_cache, registry, colours, variant, vocab
):
    rows = [
        {"text": "red 漢", "choices": ["red", "漢", "字"], "answer": "red"},
        {"text": "green", "choices": ["a b", "a  b"], "answer": "a b"},
        {"text": "漢 red 字", "choices": ["red", "green"], "answer": "green"},
        {"text": "blue", "choices": ["red", "漢"], "answer": "漢"},
    ]
    source = sources.GeneratedRows(lambda split: rows, version="1")
    prompt = dataclasses.replace(colours.template, jinja="{{text}} ||| {{answer}}")
    registry.add(variant(colours, "odd_ask", source=source, template=prompt))
    manifest = open_cache("odd_ask").manifest
    assert manifest["unknown"] == {
        "inputs": {"examples": 2, "tokens": 3},
        "targets": {"examples": 1, "tokens": 1},
        "choices": {"examples": 2, "tokens": 3},
    }
    assert manifest["indistinct"] == {
        "choices of the same text": 1,
        "choices with unknown characters only": 1,
    }
    registry.add(variant(colours, "colours_again"))
    again = open_cache("colours_again")
    assert again.manifest["indistinct"] == {}
    # This vocabulary lacks some letters of the question.
    unknown = sum(vocab.encode(e.inputs_text).count(vocab.unknown_id) for e in again)
    assert again.manifest["unknown"]["inputs"] == {"examples": 60, "tokens": unknown}
    assert again.manifest["unknown"]["targets"] == {"examples": 0, "tokens": 0}


def test_dropped_rows_are_recorded_by_reason_with_the_first_place(
    open_cache, registry, colours, variant
):
    def rows(split):
        for number, row in enumerate([*colours.source.fn(split)] * 40):
            yield {**row, "answer": None} if number in (2100, 2200) else row

    source = sources.GeneratedRows(rows, version="1")
    registry.add(variant(colours, "colours_lacking", source=source))
    manifest = open_cache("colours_lacking").manifest
    reason = f"bad: {templates.NULL_VALUE}"
    assert manifest["dropped"] == {reason: 2}
    assert manifest["first_bad"][reason].startswith("row 2100: ")
    assert (manifest["num_rows"], manifest["num_examples"]) == (2400, 2398)


def test_opening_again_gives_the_same_and_builds_nothing(
    open_cache, colours, data_options
):
    first = open_cache("colours_ask")
    before = files_below(data_options.cache_dir)
    again = open_cache("colours_ask")
    assert files_below(data_options.cache_dir) == before
    assert again.fingerprint == first.fingerprint
    assert all(
        a.inputs_text == b.inputs_text for a, b in zip(first, again, strict=True)
    )


def test_whatever_shapes_the_content_changes_the_key(
    colours, vocab, data_options, tmp_path, variant
):
    def key(task=colours, split="train", vocabulary=vocab, features=FEATURES):
        return json.dumps(
            cache.cache_key(
                task,
                split,
                vocabulary=vocabulary,
                features=features,
                data_options=data_options,
            )
        )

    other_prompt = dataclasses.replace(
        colours.template, jinja="{{text}} ||| {{answer}}"
    )
    other_choices = dataclasses.replace(colours.template, answer_choices="a ||| b")
    name = colours.name
    keys = {
        key(),
        key(split="test"),
        key(task=variant(colours, "another")),
        key(task=variant(colours, name, template=other_prompt)),
        key(task=variant(colours, name, template=other_choices)),
        key(
            task=variant(
                colours,
                name,
                source=sources.GeneratedRows(colours.source.fn, version="2"),
            )
        ),
        key(task=variant(colours, name, splits={"train": "test"})),
        key(vocabulary=vocabulary.SentencePiece(vocab.path, extra_ids=10)),
        key(features=dataclasses.replace(FEATURES, inputs_length=65)),
        key(features=dataclasses.replace(FEATURES, targets_length=9)),
        key(features=dataclasses.replace(FEATURES, inputs_eos=False)),
    }
    assert len(keys) == 11
    assert key() in keys


def test_every_module_that_decides_content_changes_the_key(
    colours, vocab, data_options, tmp_path, monkeypatch
):
    room = tmp_path / "data"
    shutil.copytree(pathlib.Path(cache.__file__).parent, room)
    monkeypatch.setattr(cache, "__file__", str(room / "cache.py"))

    def code():
        options = {
            "vocabulary": vocab,
            "features": FEATURES,
            "data_options": data_options,
        }
        return cache.cache_key(colours, "train", **options)["code"]

    plain = code()
    idle = set()
    for path in room.glob("*.py"):
        text = path.read_text("utf-8")
        path.write_text(f"{text}# changed\n", "utf-8")
        if code() == plain:
            idle.add(path.stem)
        path.write_text(text, "utf-8")
    assert idle == {
        *("batches", "cache", "packing", "prefetch", "promptsource", "shapes"),
        *("span_corruption", "vocabulary_training"),
    }
    for path in room.glob("*.py"):
        if path.stem not in idle:  # nor does it get there by way of another
            used = set(re.findall(r"\w+", "".join(imports(path))))
            assert not used & (idle - {"cache"}), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield f"{ast.unparse(node)}\n"


def test_inputs_may_go_without_the_end_token(open_cache, colours, vocab):
    bare = dataclasses.replace(FEATURES, inputs_eos=False)
    example = open_cache("colours_ask", features=bare)[0]
    assert example.inputs.tolist() == vocab.encode(example.inputs_text)
    assert example.targets[-1] == 1


def test_plain_text_is_kept_whole(open_cache, registry, vocab):
    long = "The apple is red. " * 50
    source = sources.GeneratedRows(lambda split: [{"text": long}], version="1")
    registry.add(tasks.TextTask("documents", source))
    (example,) = open_cache("documents")
    assert example.targets.tolist() == vocab.encode(long.strip())
    assert len(example.inputs) == 0
    assert example.label == -1


def test_a_seqio_task_of_a_users_own_is_cached(open_cache, registry, vocab):
    seqio = tensorflow_imports.import_seqio()
    import tensorflow as tf

    def dataset_fn(split, shuffle_files, seed=None):
        del split, shuffle_files, seed
        return tf.data.Dataset.from_tensor_slices(
            {"inputs": ["red", "blue"], "targets": ["apple", "the green window"]}
        )

    feature = seqio.Feature(vocab.seqio(), add_eos=True)
    seqio.TaskRegistry.add(
        "users_own",
        source=seqio.FunctionDataSource(dataset_fn, splits=["train"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": feature, "targets": feature},
    )
    data = open_cache("users_own", features=tasks.Features(64, 8))
    assert [e.targets_text for e in data] == ["apple", "the green window"]
    assert data[0].inputs.tolist() == [*vocab.encode("red"), 1]
    other_vocabulary = vocabulary.SentencePiece(vocab.path, extra_ids=7)
    with pytest.raises(errors.DataError, match="vocabulary of"):
        open_cache("users_own", vocabulary=other_vocabulary)
    with pytest.raises(errors.DataError, match="no split 'test'"):
        open_cache("users_own", "test")


def test_targets_too_long_for_the_features_are_an_error(
    open_cache, registry, colours, variant, data_options
):
    tell = templates.Template("tell", "2", "Say {{answer}} ||| {{text}} {{text}}")
    registry.add(variant(colours, "colours_tell", template=tell))
    with pytest.raises(errors.DataError, match="60 of 60 targets .* targets_length=8"):
        open_cache("colours_tell")
    assert files_below(data_options.cache_dir) == []


def test_an_unknown_task_is_told_before_anything_is_made(
    open_cache, colours, data_options
):
    with pytest.raises(errors.ConfigError, match="Did you mean: colours_ask"):
        open_cache("colors_ask")
    assert not os.path.exists(data_options.cache_dir)


def test_bad_data_leaves_no_folder_behind(
    open_cache, registry, colours, variant, data_options
):
    source = sources.GeneratedRows(lambda split: [], version="1")
    registry.add(variant(colours, "nothing", source=source))
    with pytest.raises(errors.DataError, match="is empty"):
        open_cache("nothing")
    assert files_below(data_options.cache_dir) == []


def test_a_place_that_cannot_be_written_is_told(open_cache, colours, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "caches", "/proc/caches"):
        with pytest.raises(errors.DataError, match="cannot be written"):
            open_cache(
                "colours_ask", data_options=tasks.DataOptions(cache_dir=str(place))
            )


SCRIPT = """
import json, pathlib, sys
from elm_jax.data import batches, cache, sources, tasks, templates, vocabulary

folder = pathlib.Path(sys.argv[2])
rows = [json.dumps({"q": f"row {i}", "a": "red"}) for i in range(20)]
(folder / "rows.jsonl").write_text("\\n".join(rows))
tasks.registry.add(tasks.Task(
    name="rows_ask", dataset="rows", prompt="ask", cluster="none", metrics=(),
    source=sources.FileRows(sources.json_lines, {"train": ["rows.jsonl"]}, origin=""),
    template=templates.Template("ask", "1", "{{q}} ||| {{a}}"),
))
data = cache.open_cache(
    "rows_ask", "train", vocabulary=vocabulary.SentencePiece(sys.argv[1]),
    features=tasks.Features(64, 8),
    data_options=tasks.DataOptions(str(folder / "caches"), data_dir=str(folder)),
)
batches.Batches([data], batch_size=8, seed=0).batch(3)
print({"tensorflow", "seqio"} & sys.modules.keys() != set(), len(data))
"""


@pytest.mark.slow
def test_our_own_tasks_are_cached_without_tensorflow(vocab, tmp_path):
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, vocab.path, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["False 20\n", "False 20\n"]
