"""What does not fit is found before the first score, and by --dry_run, by name."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.data import vocabulary
from elm_jax.evaluation import results
from elm_jax.library import index
from elm_jax.model import config, decoding_spec, t5
from elm_jax.runs import (
    candidates,
    cell_keys,
    evaluate,
    expert_checks,
    library,
    loaded,
    merge,
    task_data,
    vocabularies,
)
from tasks import pocket
from tests.checkpoints import sample
from tests.peft.sample import random_params

SHAPE = config.T5Config(
    vocab_size=576,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
OTHER = vocabulary.SentencePiece(pocket.VOCABULARY.path, extra_ids=90)
TASK, PATTERN = "pocket_reviews_sentiment", "norm/"
EXPERT, BASE = "{MODEL_DIR}/experts/reviews", "{MODEL_DIR}/base"


class Counter:
    """An embedder that counts: enough for keys."""

    name = "counter"

    def embed(self, texts):
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def describe(pieces):
    return vocabularies.describe(pieces, set_by="the training")


@pytest.fixture
def folder(tmp_path):
    """A work folder with a base, an expert and a library of it."""
    params = random_params(t5.T5(SHAPE))
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(SHAPE),
        trainable_pattern=".*",
        vocabulary=describe(pocket.VOCABULARY),
    )
    attached = vocabularies.attached(pocket.VOCABULARY)
    experts.save_expert(tmp_path / "base", params, info, attached=attached)
    part, _ = trees.split(params, PATTERN)
    fields = {"name": "reviews", "kind": "prompt", "trainable_pattern": PATTERN}
    info = dataclasses.replace(info, **fields, tasks=(TASK,))
    experts.save_expert(tmp_path / "experts" / "reviews", part, info)
    run = library.LibraryRun(model_dir=str(tmp_path))
    run.open_catalogue().add(tmp_path / "experts" / "reviews")
    used = index.RowsUsed(TASK, "train", (0,))
    index.extend(
        tmp_path / "library",
        [index.NewExpert("reviews", ["a text"], (used,))],
        embedder=Counter(),
        settings=index.IndexSettings(embedder="counter"),
    )
    return tmp_path


def data(**changes):
    options = {
        "vocabulary_path": pocket.VOCABULARY.path,
        "feature_lengths": {"inputs": 48, "targets": 12},
    }
    return task_data.TaskData(**(options | changes))


def evaluation(folder, **changes):
    options = {
        "model_dir": str(folder),
        "data": data(),
        "tasks": TASK,
        "experts": (EXPERT,),
        "strategies": ("base",),
        "initial_checkpoint_path": BASE,
        "max_examples": 4,
        "batch_size": 8,
    }
    return evaluate.Evaluate(**(options | changes))


def by_library(folder):
    """An evaluation that meets the expert in the library alone."""
    retrieval = library.Retrieve(model_dir=str(folder), tasks=TASK, data=data())
    strategies = ("base", "retrieved")
    return evaluation(folder, experts=(), strategies=strategies, retrieval=retrieval)


def merging(folder):
    return merge.Merge(
        model_dir=str(folder),
        experts=(EXPERT,),
        expert_name="merged",
        initial_checkpoint_path=BASE,
    )


def edit(folder, **changes):
    """Writes fields of the expert's manifest, in the library's line as well."""
    expert = folder / "experts" / "reviews"
    sample.edit_manifest(expert, **changes)
    info = manifest.read_manifest(expert)
    line = folder / "library" / "catalogue.jsonl"
    entry = json.loads(line.read_text()) | {"fingerprint": info.fingerprint}
    entry["base_fingerprint"] = info.base_fingerprint
    line.write_text(json.dumps(entry) + "\n")


@pytest.mark.slow
def test_what_fits_is_planned_to_be_scored_and_merged(folder):
    assert evaluation(folder).plan()["experts"] == "1: reviews"
    plan = by_library(folder).plan()
    assert (plan["experts"], plan["strategies"]) == ("0: ", "base, retrieved")
    plan = merging(folder).plan()
    assert (plan["experts"], plan["finished already"]) == ("1: reviews", False)
    assert not (folder / "results.jsonl").exists()


def test_a_plan_says_which_difference_its_rows_can_show(folder):
    def smallest_difference(*tasks, **changes):
        return evaluation(folder, tasks=tasks, **changes).plan()["smallest difference"]

    kinds = "pocket_kinds_which_is"
    assert (
        smallest_difference(TASK, max_examples=0) == "unknown before tokens are cached"
    )
    # 2.8016, a 95 % interval and 8 of 10 cases, times 100 * sqrt(0.1 / 4) = 15.81.
    rest = "points if two models differ on 10% of the rows,"
    assert smallest_difference(TASK) == f"test: 44.3 {rest} 76.7 on 30% (4 rows)"
    # Two datasets, one of two prompts: 100 * sqrt(0.1 / 4 + 0.1 / 4) / 2 = 11.18.
    described = smallest_difference(TASK, "pocket_reviews_good_or_bad", kinds)
    assert described == f"test: 31.3 {rest} 54.3 on 30% (8 rows)"
    num_rows = len(data().opened(evaluation(folder).place).open(TASK, "test"))
    assert num_rows > 4
    error = 280.16 * (0.1 / num_rows) ** 0.5
    assert smallest_difference(TASK, max_examples=0).startswith(
        f"test: {error:.1f} points"
    )
    assert smallest_difference(TASK, max_examples=0).endswith(f"({num_rows} rows)")


DIFFERING = {
    "base": ({"base_fingerprint": "0123456789abcdef"}, "0123456789abcdef"),
    "vocabulary": ({"vocabulary": describe(OTHER)}, OTHER.fingerprint),
    "model": (
        {"model": dataclasses.asdict(SHAPE) | {"relpos_max_distance": 99}},
        "relpos_max_distance",
    ),
    "parts": ({"trainable_pattern": "norm/|wi_0"}, "wi_0"),
    "adapter": (
        {
            "adapter": {"kind": "bottleneck", "reduction_factor": 2},
            "trainable_pattern": "norm/|_adapter/",
        },
        "_adapter",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("difference", DIFFERING)
@pytest.mark.parametrize("make", [evaluation, by_library])
def test_an_expert_that_differs_is_refused_before_anything_is_scored(
    folder, make, difference
):
    changes, message = DIFFERING[difference]
    edit(folder, **changes)
    for act in (make(folder).plan, make(folder).run):
        with pytest.raises(errors.ElmError, match=message):
            act()
    assert not (folder / "results.jsonl").exists()


@pytest.mark.parametrize("difference", ["base", "vocabulary", "model"])
def test_experts_that_differ_are_not_merged(folder, difference):
    changes, _ = DIFFERING[difference]
    edit(folder, **changes)
    run = dataclasses.replace(merging(folder), experts=(EXPERT, EXPERT))
    for act in (run.plan, run.run):
        with pytest.raises(errors.ElmError):
            act()
    assert not (folder / "merged").exists()


def test_an_expert_in_the_librarys_folder_that_is_not_the_listed_one_is_refused(folder):
    sample.edit_manifest(folder / "experts" / "reviews", seed=9)
    with pytest.raises(errors.LibraryError, match="holds another expert"):
        by_library(folder).plan()


def test_retrieval_for_other_tasks_or_data_is_refused(folder):
    run = by_library(folder)
    others = dataclasses.replace(run.retrieval, tasks="pocket_topics")
    with pytest.raises(errors.ConfigError, match="the 1 tasks of the evaluation"):
        dataclasses.replace(run, retrieval=others).plan()
    shorter = data(feature_lengths={"inputs": 9, "targets": 9})
    others = dataclasses.replace(run.retrieval, data=shorter)
    with pytest.raises(errors.ConfigError, match="the data of the evaluation"):
        dataclasses.replace(run, retrieval=others)


def test_retrieval_by_another_vocabulary_is_refused(folder):
    fields = {"tasks": TASK, "data": data(extra_ids=90)}
    run = library.Retrieve(model_dir=str(folder), **fields)
    for act in (run.plan, run.run):
        with pytest.raises(errors.FingerprintError, match=OTHER.fingerprint):
            act()
    assert not (folder / "votes.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_keys": 7}, "num_keys: 100 before, 7 now"),
        ({"text_format": "label_instance"}, "text_format: 'choice_instance' before"),
        ({"random_seed": 7}, "seed: 42 before, 7 now"),
        ({"data": data(extra_ids=90)}, OTHER.fingerprint),
    ],
)
def test_a_library_that_was_built_otherwise_is_refused_by_name(
    folder, changes, message
):
    fields = {"model_dir": str(folder), "experts": EXPERT, "data": data()}
    assert library.BuildLibrary(**fields).plan()["listed already"] == 1
    run = library.BuildLibrary(**(fields | changes))
    for act in (run.plan, run.run):
        with pytest.raises(errors.CheckpointError, match=message):
            act()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "parallel"])
def test_adapters_of_equal_shapes_that_compute_otherwise_are_not_averaged(folder, kind):
    """Such as LoRAs of another alpha, which one spec would scale alike."""
    spec = {"kind": "lora", "rank": 4, "alpha": 8.0}
    other_spec = spec | {"alpha": 64.0}
    if kind == "parallel":
        spec = {"kind": "bottleneck", "reduction_factor": 2, "parallel": False}
        other_spec = spec | {"parallel": True}
    info = manifest.read_manifest(folder / "experts" / "reviews")
    first, second = (
        dataclasses.replace(info, adapter=each) for each in (spec, other_spec)
    )
    expert_checks.check_alike([first, first])
    with pytest.raises(errors.ConfigError, match="of one kind has no meaning in an"):
        expert_checks.check_alike([first, second])
    twin = folder / "experts" / "twin"
    shutil.copytree(folder / "experts" / "reviews", twin)
    edit(folder, adapter=spec)
    manifest.write_manifest(twin, dataclasses.replace(second, name="twin"))
    folders = (folder / "experts" / "reviews", twin)
    with pytest.raises(errors.ConfigError, match="one adapter spec"):
        candidates.Candidate("merged_top3", folders).load(
            loaded.Base.load(folder / "base")
        )


def test_experts_of_other_lengths_are_told_and_scored(folder, capsys):
    lengths = {"inputs": 20, "targets": 12}
    edit(folder, training={"tokens": {"feature_lengths": lengths}})
    evaluation(folder).plan()
    output = capsys.readouterr().out
    assert "1 experts were trained at" in output
    assert '"inputs": 20' in output


@pytest.mark.parametrize("extra_ids", [90, 200])
def test_another_vocabulary_is_refused_by_its_fingerprint(folder, extra_ids):
    for act in ("plan", "run"):
        run = evaluation(folder, data=data(extra_ids=extra_ids))
        with pytest.raises(errors.FingerprintError, match="that it was trained with"):
            getattr(run, act)()


def test_a_larger_vocabulary_is_told_by_size_where_the_base_records_none(folder):
    sample.edit_manifest(folder / "base", vocabulary={})
    with pytest.raises(errors.ConfigError, match="676 ids for a model with 576"):
        evaluation(folder, data=data(extra_ids=200)).plan()


def test_a_base_brings_its_vocabulary(folder):
    opened = data(vocabulary_path=str(folder / "base"), extra_ids=3).opened(str)
    assert opened.vocabulary.fingerprint == pocket.VOCABULARY.fingerprint
    evaluation(folder, data=data(vocabulary_path=BASE)).plan()
    (folder / "base" / vocabularies.FILE_NAME).unlink()
    with pytest.raises(errors.ConfigError, match="brings none"):
        evaluation(folder, data=data(vocabulary_path=BASE)).plan()


@pytest.mark.parametrize("name", ["retrieved", "best_per_prompt", "chance"])
def test_an_expert_may_not_bear_the_name_of_a_strategy(folder, name):
    edit(folder, name=name)
    with pytest.raises(errors.ConfigError, match="stands for no strategy"):
        evaluation(folder).plan()


SAYS = {
    "protocol": ({"data": data(protocol="elm")}, "elm"),
    "length_normalized": ({"length_normalized": True}, "default+length_normalized"),
    "nothing": ({}, "default"),
}


@pytest.mark.parametrize("case", SAYS)
def test_a_row_says_how_it_is_scored_and_nothing_else(folder, case):
    changes, expected = SAYS[case]
    run = evaluation(folder, **changes)
    dataset = run.data.opened(run.place).open(TASK, "test")
    how = {
        "rows_of": run.data.protocol,
        "length_normalized": run.length_normalized,
        "decoding": run.decoding,
        "base_dtype": "",
    }
    assert cell_keys.protocol(dataset, claimed="", **how) == expected
    assert cell_keys.protocol(dataset, claimed=expected, **how) == expected
    with pytest.raises(errors.ConfigError, match="which is how it is scored"):
        cell_keys.protocol(dataset, claimed="t0", **how)
    how["base_dtype"] = "int8"
    assert cell_keys.protocol(dataset, claimed="", **how) == f"{expected}+int8"


class Written:
    """A task without choices, as cells see it."""

    has_choices, name, fingerprint = False, TASK, "rows"


def key(folder, dataset, **changes):
    options = {
        "rows": [0, 1],
        "facts": results.Facts(),
        "base": loaded.Base.load(folder / "base"),
        "data": data().opened(str),
        "length_normalized": False,
        "decoding": decoding_spec.GREEDY,
    }
    chosen = options | changes
    return cell_keys.scoring(dataset, chosen.pop("rows"), chosen.pop("facts"), **chosen)


def test_what_shapes_a_score_shapes_its_key(folder):
    ranked = data().opened(str)
    ranked = dataclasses.replace(
        ranked,
        data_options=dataclasses.replace(
            ranked.data_options, cache_dir=str(folder / "c")
        ),
    ).open(TASK, "test")
    base = loaded.Base.load(folder / "base")
    model = base.manifest.model | {"dtype": "bfloat16"}
    bfloat16 = dataclasses.replace(
        base, manifest=dataclasses.replace(base.manifest, model=model)
    )
    longer = data(feature_lengths={"inputs": 48, "targets": 30}).opened(str)
    beam = decoding_spec.BeamSearch()
    of_ranked = [{}, {"rows": [0, 2]}, {"base": bfloat16}, {"length_normalized": True}]
    of_written = [{}, {"rows": [0, 2]}, {"base": bfloat16}, {"decoding": beam}]
    of_written += [{"data": longer}]
    for dataset, changes in ((ranked, of_ranked), (Written, of_written)):
        keys = [key(folder, dataset, **change) for change in changes]
        assert len(set(keys)) == len(keys)
        assert keys[0] == key(folder, dataset)
