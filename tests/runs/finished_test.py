"""What a command skips as finished it has compared: one changed field, and it acts.

For every run that leaves a result, each of its fields is tried: the same command with
that field changed must refuse and name what differs, or make another result beside
the first. The table names every field, so that a new one cannot be forgotten.
"""

import dataclasses
import pathlib
import shutil
from typing import Any

import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.limits import limited
from elm_jax.merging import averages, task_arithmetic
from elm_jax.model import config
from elm_jax.runs import (
    convert,
    convert_bottlenecks,
    convert_experts,
    export,
    measuring,
    merge,
    merge_searches,
    moved_fields,
    tasks,
)
from tasks import pocket
from tests.runs import imported, scored

SUITES = (pocket,)  # imported for what it registers
T5X = pathlib.Path(__file__).parents[1] / "fixtures" / "t5x_tiny"

REFUSES = "refuses"  # and names what differs
ANEW = "anew"  # another result beside the first, which stays as it is
REFUSES_RUNNING = "refuses when it runs"  # only then it reads the weights
BESIDE = "beside"  # says so, too, and writes more beside it
SAME = "same"  # says that it is finished: the field decides nothing of the result


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    imported.prepare(folder)
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    target = tmp_path / "work"
    shutil.copytree(prepared, target)
    return target


T5X_MODEL = config.T5Config(
    vocab_size=384,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
RESULTS = {
    convert.ImportT5X: (
        {
            "t5x_path": str(T5X / "plain_legacy_noopt" / "checkpoint_3"),
            "model": T5X_MODEL,
            "base_name": "t5x",
        },
        {
            "t5x_path": (
                str(T5X / "plain_legacy_bf16" / "checkpoint_3"),
                REFUSES_RUNNING,
            ),
            "model": (
                dataclasses.replace(T5X_MODEL, relpos_max_distance=99),
                REFUSES,
            ),
            "base_name": ("another", ANEW),
            "storage_dtype": ("bfloat16", REFUSES),
            "vocabulary_path": ("{PACKAGE}/tasks/pocket_world/pocket.model", REFUSES),
            "extra_ids": (7, SAME),  # of a vocabulary that none was named of
            "ignored_fields": (("gone",), SAME),
        },
    ),
    convert.ImportHuggingFace: (
        {"huggingface_path": "{MODEL_DIR}/hf/base", "base_name": "hf_base"},
        {
            "huggingface_path": ("{MODEL_DIR}/hf/other_base", REFUSES_RUNNING),
            "base_name": ("another", ANEW),
            "revision": ("v2", SAME),  # of a folder: its weights are compared
            "storage_dtype": ("bfloat16", REFUSES),
            "vocabulary_path": ("{PACKAGE}/tasks/pocket_world/pocket.model", REFUSES),
            "extra_ids": (7, SAME),
            "dtype": ("float32", REFUSES),
            "remat": ("none", REFUSES),
            "base_dtype": ("int8", REFUSES),
            "ignored_fields": (("gone",), SAME),
        },
    ),
    convert_experts.ImportPeft: (
        {"source_paths": imported.peft("lora"), **imported.BASE_DIR},
        {
            "source_paths": ("{MODEL_DIR}/runs/lora", REFUSES),
            "initial_checkpoint_path": ("{MODEL_DIR}/other_base", REFUSES),
            "experts_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "expert_name": ("another", ANEW),
            "tasks": (("dream",), REFUSES),
        },
    ),
    convert_experts.ExportPeft: (
        {"experts": "{MODEL_DIR}/imported/lora"},
        {
            "experts": ("{MODEL_DIR}/imported/lora_patterns", ANEW),
            "export_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "base_model": ("google/t5", REFUSES),
        },
    ),
    convert_bottlenecks.ExportBottleneck: (
        {"experts": "{MODEL_DIR}/bottlenecks/one"},
        {
            "experts": ("{MODEL_DIR}/bottlenecks/two", ANEW),
            "export_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "base_model": ("google/t5", REFUSES),
        },
    ),
    convert_bottlenecks.ImportAdapterHub: (
        {"source_paths": imported.hub("houlsby"), **imported.BASE_DIR},
        {
            "source_paths": ("{MODEL_DIR}/runs/houlsby", REFUSES),
            "initial_checkpoint_path": ("{MODEL_DIR}/other_base", REFUSES),
            "experts_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "expert_name": ("another", ANEW),
            "tasks": (("dream",), REFUSES),
        },
    ),
    convert_bottlenecks.ExportAdapterHub: (
        {"experts": "{MODEL_DIR}/imported/learned"},
        {
            "experts": ("{MODEL_DIR}/imported/channel", ANEW),
            "export_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "base_model": ("google/t5", REFUSES),
            "layer_norms": ("beside", SAME),  # of an expert that has none
        },
    ),
    convert_experts.FoldExpert: (
        {"expert_path": "{MODEL_DIR}/imported/lora", **imported.BASE_DIR},
        {
            "expert_path": ("{MODEL_DIR}/imported/lora_patterns", ANEW),
            "initial_checkpoint_path": ("{MODEL_DIR}/other_base", REFUSES),
            "experts_dir": ("{MODEL_DIR}/elsewhere", ANEW),
        },
    ),
    export.ExportHuggingFace: (
        {"expert_path": imported.BASE},
        {
            "expert_path": ("{MODEL_DIR}/other_base", ANEW),
            "initial_checkpoint_path": (imported.BASE, REFUSES),
            "storage_dtype": ("bfloat16", REFUSES),
            "export_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "max_shard_bytes": (10_000, REFUSES),
        },
    ),
    export.ExportT5X: (
        {"expert_path": imported.BASE},
        {
            "expert_path": ("{MODEL_DIR}/other_base", ANEW),
            "initial_checkpoint_path": (imported.BASE, REFUSES),
            "storage_dtype": ("bfloat16", REFUSES),
            "export_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "file_format": ("legacy", REFUSES),
        },
    ),
    tasks.TrainVocabulary: (
        {"tasks": "pocket_reviews_sentiment", "vocab_size": 90, "split": "test"},
        {
            "tasks": ("pocket_topics", REFUSES),
            "split": ("validation", REFUSES),
            "data_dir": ("{MODEL_DIR}", SAME),  # as long as its rows are the same
            "templates_dir": ("{MODEL_DIR}", SAME),
            "sources": (("tfds",), SAME),
            "protocol": ("elm", SAME),
            "limits": (limited.Limits(cpu_secs=9.0), SAME),
            "vocab_size": (91, REFUSES),
            "vocabulary_path": ("{MODEL_DIR}/another.model", ANEW),
        },
    ),
    merge.Merge: (
        {
            "experts": ("{MODEL_DIR}/imported/lora",),
            "expert_name": "mine",
            "method": averages.Weighted(weights=(3.0,)),
            "data": scored.make_data(),
            **imported.BASE_DIR,
        },
        {
            "experts": (("{MODEL_DIR}/imported/lora_patterns",), REFUSES),
            "expert_name": ("another", ANEW),
            "initial_checkpoint_path": ("{MODEL_DIR}/other_base", REFUSES),
            "experts_dir": ("{MODEL_DIR}/elsewhere", ANEW),
            "method": (averages.Weighted(weights=(2.0,)), REFUSES),
            "measuring": (measuring.Measuring(), SAME),  # of a method without data
            "data": (None, SAME),  # of a merge without a search
            "search": (merge_searches.GreedySoup(), REFUSES),
            "peft_dir": ("{MODEL_DIR}/peft", BESIDE),
        },
    ),
}
CASES = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field}")
    for kind, (_, changes) in RESULTS.items()
    for field in changes
]


def content(folder):
    """Returns the bytes of all files of a work folder but its configurations."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p: p.read_bytes() for p in paths if "config" not in p.parts}


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_run_is_in_the_table(kind):
    of_result = {field.name for field in dataclasses.fields(kind)} - {"model_dir"}
    if kind is convert_experts.ImportPeft:
        of_result -= {"adapter"}
    assert set(RESULTS[kind][1]) == of_result


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "field"), CASES)
def test_a_changed_field_is_refused_by_name_or_makes_another_result(
    folder, capsys, kind, field
):
    fields, changes = RESULTS[kind]
    value, expected = changes[field]
    first = kind(model_dir=str(folder), **fields)
    first.run()
    before = content(folder)
    capsys.readouterr()
    again = kind(model_dir=str(folder), **(fields | {field: value}))
    if expected == REFUSES_RUNNING:
        assert "run to compare its weights" in str(again.plan()["finished already"])
        with pytest.raises(errors.ElmError, match="To do: "):
            again.run()
    elif expected == REFUSES:
        with pytest.raises(errors.ElmError) as planned:
            again.plan()
        with pytest.raises(errors.ElmError):
            again.run()
        assert "To do: " in str(planned.value)
    else:
        again.plan()
        again.run()
        is_finished = "finished already" in capsys.readouterr().out
        assert is_finished == (expected in (SAME, BESIDE))
    after = content(folder)
    assert before.items() <= after.items()
    assert (len(after) > len(before)) == (expected in (ANEW, BESIDE))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_the_same_command_again_says_finished_and_changes_nothing(folder, capsys, kind):
    run = kind(model_dir=str(folder), **RESULTS[kind][0])
    run.run()
    before = content(folder)
    capsys.readouterr()
    run.plan()
    run.run()
    assert "finished already" in capsys.readouterr().out
    assert content(folder) == before


def test_what_is_no_fold_of_an_expert_is_not_taken_for_one(folder):
    """The expert's own folder, and that of another expert of its name."""
    fields = {"expert_path": "{MODEL_DIR}/imported/lora", **imported.BASE_DIR}
    folding = convert_experts.FoldExpert(
        model_dir=str(folder), **fields, experts_dir="{MODEL_DIR}/imported"
    )
    for act in (folding.plan, folding.run):
        with pytest.raises(errors.CheckpointError, match="folded"):
            act()


@pytest.mark.slow
def test_a_base_whose_source_was_moved_is_finished_and_the_places_are_told(
    folder, capsys
):
    fields = RESULTS[convert.ImportHuggingFace][0]
    convert.ImportHuggingFace(model_dir=str(folder), **fields).run()
    before = content(folder / "hf_base")
    (folder / "hf" / "base").rename(folder / "moved")
    capsys.readouterr()
    again = convert.ImportHuggingFace(
        model_dir=str(folder), **(fields | {"huggingface_path": "{MODEL_DIR}/moved"})
    )
    assert "moved" in str(again.plan()["finished already"])
    again.run()
    output = capsys.readouterr().out
    assert "the same weights from another place: huggingface_path: " in output
    assert "finished already" in output
    assert content(folder / "hf_base") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (convert.ImportHuggingFace, {"dtype": "float32"}),
        (convert.ImportHuggingFace, {"storage_dtype": "bfloat16"}),
    ],
)
def test_a_base_whose_source_is_gone_is_compared_by_what_the_run_says(
    folder, capsys, kind, changes
):
    fields = RESULTS[kind][0]
    kind(model_dir=str(folder), **fields).run()
    shutil.rmtree(folder / "hf" / "base")
    kind(model_dir=str(folder), **fields).run()
    assert "finished already" in capsys.readouterr().out
    again = kind(model_dir=str(folder), **(fields | changes))
    for act in (again.plan, again.run):
        with pytest.raises(errors.CheckpointError, match=next(iter(changes))):
            act()


@pytest.mark.parametrize(
    "method",
    [task_arithmetic.TaskArithmetic(weights=(3.0,)), averages.Uniform()],
    ids=lambda method: method.name,
)
def test_another_method_is_another_merge(folder, method):
    fields, _ = RESULTS[merge.Merge]
    merge.Merge(model_dir=str(folder), **fields).run()
    with pytest.raises(errors.CheckpointError, match="method: .weighted. before"):
        merge.Merge(model_dir=str(folder), **(fields | {"method": method})).plan()


def test_options_of_a_merge_may_be_written_in_their_former_fields(folder, capsys):
    """And make the merge, the recipe and the bytes that the method's options make."""
    before = {"method": "task_arithmetic", "weights": (3.0,), "scale": 0.5}
    now = {"method": task_arithmetic.TaskArithmetic(weights=(3.0,), scale=0.5)}
    same, _ = RESULTS[merge.Merge]
    moved_fields._tell.cache_clear()  # it is told once
    for name, options in (("former", before), ("now", now)):
        fields: dict[str, Any] = {**same, "expert_name": name} | options
        merge.Merge(model_dir=str(folder), **fields).run()
        output = capsys.readouterr().err
        new = "merge.Merge.scale is now task_arithmetic.TaskArithmetic.scale"
        assert (new in output) == (name == "former")
    former, again = (
        manifest.read_manifest(folder / "merged" / name) for name in ("former", "now")
    )
    assert former == dataclasses.replace(again, name="former")
    assert former.data["merge"] == {
        "method": "task_arithmetic",
        "experts": ["lora"],
        "fingerprints": former.data["merge"]["fingerprints"],
        "recipes": former.data["merge"]["recipes"],
        "seeds": [0],
        "weights": [3.0],
        "scale": 0.5,
    }


def test_a_former_field_that_says_nothing_fits_every_method(folder):
    fields, _ = RESULTS[merge.Merge]
    said = fields | {"method": "uniform", "weights": (), "scale": 1.0}
    assert merge.Merge(model_dir=str(folder), **said).chosen_method().name == "uniform"
    with pytest.raises(errors.ConfigError, match="scale = 0.5 for Uniform"):
        merge.Merge(model_dir=str(folder), **(said | {"scale": 0.5}))
