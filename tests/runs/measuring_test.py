"""Merges by what is measured with experts, and what is measured is kept."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, resumable, streaming
from elm_jax.merging import averages, narrowing, regression
from elm_jax.runs import (
    bases,
    candidates,
    evaluate,
    loaded,
    measured_sums,
    measuring,
    merge_cost,
    merge_memory,
    merge_recipes,
    merged_files,
    merged_params,
    progress,
    strategies,
)
from tests.runs import measured, toy, toy_experts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toy_tasks")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder with a base, and three experts of each kind."""
    path = tmp_path_factory.mktemp("work")
    toy_experts.save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("whole", regression.RegMean()),
        ("bottleneck", regression.RegMean()),
        ("lora", regression.RegMean(rank=2)),
        ("bottleneck", narrowing.Narrowed()),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_methods_with_data_merge_experts_from_disk(folder, capsys, kind, method):
    run = measured.merge_by(folder, kind, method)
    run.plan()
    run.run()
    merged, info = experts.load_expert(folder / "merged" / f"{kind}_{method.name}")
    assert all(np.isfinite(leaf).all() for leaf in trees.flatten(merged).values())
    recorded = info.data["merge"]["measured"]
    assert (recorded["split"], recorded["num_rows"]) == ("train", 5)
    assert [*recorded["tasks"]] == ["long_ask", "plain_ask", "twice_ask"]
    capsys.readouterr()
    run.run()
    assert "finished already" in capsys.readouterr().out
    other_run = measured.merge_by(
        folder,
        kind,
        method,
        measuring=dataclasses.replace(measured.SETTINGS, num_rows=6),
    )
    for act in (other_run.plan, other_run.run):
        with pytest.raises(errors.CheckpointError, match="num_rows: 5 before, 6 now"):
            act()


def test_the_outputs_of_a_merge_by_regression_are_nearest_to_those_of_the_experts(
    folder,
):
    """Nearer than those of any matrix beside it: the least squares have no slope."""
    measured.merge_by(
        folder, "whole", regression.RegMean(shrink=1.0, ridge=1e-9), expert_name="near"
    ).run()
    merged = trees.flatten(experts.load_expert(folder / "merged" / "near")[0])
    name = "encoder/layers/attention/query/kernel"
    slope = size = 0.0
    for number, task in enumerate(("plain_ask", "twice_ask", "long_ask"), start=1):
        of = measured.expert_of(folder, "whole", task=task, number=number)
        dataset = measured.split_of(folder, task)
        draw = np.random.default_rng(measured.SETTINGS.random_seed).permutation(
            len(dataset)
        )
        rows = [dataset[int(row)] for row in np.sort(draw[:5])]
        grams = measured_sums.grams(of._replace(examples=rows))
        gram = np.asarray(grams[name][0], float)
        matrix = trees.flatten(of.expert.params)[name][0]
        slope = slope + gram @ (np.asarray(merged[name][0], float) - matrix)
        size = size + np.abs(gram @ matrix).max()
    assert np.abs(slope).max() < 1e-4 * size


METHODS = (
    regression.RegMean(),
    regression.RegMean(rank=2, weights=(1.0, 0.0, 3.0)),
    regression.RegMean(align=False),
    regression.Fisher(weights=(1.0, 2.0, 1.0)),
    narrowing.Narrowed(weights=(1.0, -0.5, 2.0)),
    narrowing.Narrowed(count=5),
)


@pytest.mark.parametrize("kind", toy_experts.SPECS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}{METHODS.index(m)}")
def test_a_merge_by_data_on_disk_is_the_one_in_memory(
    folder, monkeypatch, kind, method
):
    name = f"{kind}_{METHODS.index(method)}"
    run = measured.merge_by(folder, kind, method, expert_name=name)
    places = sorted((folder / kind).iterdir())
    expected = merged_params.of_folders(
        method,
        places,
        loaded.Base.load(folder / "base"),
        name=name,
        source=run._source(),
    )

    def load(place):
        raise AssertionError(f"{place} is read as a whole, though it was measured")

    with monkeypatch.context() as patched:
        patched.setattr(loaded.Expert, "load", load)
        run.run()
    read, info = experts.load_expert(folder / "merged" / name)
    assert trees.fingerprint(read) == trees.fingerprint(expected.params)
    assert bases.adapter_spec(info) == expected.adapter
    assert info.data == json.loads(json.dumps(expected.manifest.data))
    cost = merge_cost.estimate(method, places, folder / "base")
    assert cost.written_bytes == trees.count_bytes(read)


def test_a_merge_by_data_that_is_stopped_goes_on_with_what_was_measured(
    folder, monkeypatch
):
    monkeypatch.setattr(resumable, "_LIST_SECS", -1.0)  # every leaf is listed
    method = narrowing.Narrowed(scale=0.5)
    measured.merge_by(folder, "bottleneck", method, expert_name="whole").run()

    class Stop:
        def __init__(self, title, *, total, unit):
            self.total = total

        def __call__(self, done):
            if done > self.total / 2:
                raise SystemExit(143)

    run = measured.merge_by(folder, "bottleneck", method, expert_name="stopped")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(merged_files, "Progress", Stop)
        run.run()
    run.run()
    whole, stopped = (
        manifest.read_manifest(folder / "merged" / name)
        for name in ("whole", "stopped")
    )
    assert stopped.data["merge_facts"]
    assert (stopped.data, stopped.digests) == (whole.data, whole.digests)


@pytest.mark.parametrize("kind", toy_experts.SPECS)
@pytest.mark.parametrize(
    "method",
    [regression.RegMean(), regression.Fisher(), narrowing.Narrowed()],
    ids=lambda method: method.measures,
)
def test_shapes_of_statistics_are_known_before_they_are_measured(folder, kind, method):
    of = measured.expert_of(folder, kind)
    source = measured.merge_by(folder, kind, method)._source()
    assert source is not None
    arrays = source._measured(method, of)
    leaves, _ = streaming.open_expert(folder / kind / f"{kind}_2")
    expected_leaves = merge_memory.measured_leaves(
        method, leaves, measured.SETTINGS.num_positions
    )
    assert {*expected_leaves} == {*arrays}
    for name, array in arrays.items():
        assert expected_leaves[name].dtype == array.dtype
        assert expected_leaves[name].shape == array.shape, name


def test_a_plan_counts_what_measuring_reads_and_holds(folder):
    """Twice the experts and the base; more memory than base and expert, in float32."""
    run = measured.merge_by(folder, "ia3", regression.RegMean())
    plan = run.plan()
    places = sorted((folder / "ia3").iterdir())
    read = [folder / "base", *places, *places]
    num_bytes = sum(p.stat().st_size for f in read for p in f.rglob("*") if p.is_file())
    assert plan["reads"] == progress.show_bytes(num_bytes)
    assert "measuring experts takes its own time" in f"{plan['time']}"
    cost = merge_cost.estimate(regression.RegMean(), places, folder / "base")
    base, expert = (
        4 * trees.count_params(experts.load_expert(place)[0])
        for place in (folder / "base", places[0])
    )
    assert base == 150_464
    assert base + expert < cost.peak_bytes - 2**29 < 4 * (base + expert)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_statistics_are_kept_and_damaged_ones_are_refused(folder):
    where = {
        "measuring": dataclasses.replace(
            measured.SETTINGS, statistics_dir="{MODEL_DIR}/kept"
        )
    }
    method = regression.Fisher()
    measured.merge_by(folder, "ia3", method, expert_name="first", **where).run()
    first_contents = contents(folder / "kept")
    assert len(first_contents) == 2 * 3
    measured.merge_by(folder, "ia3", method, expert_name="second", **where).run()
    assert first_contents == contents(folder / "kept")
    first, second = (
        manifest.read_manifest(folder / "merged" / name).params_fingerprint
        for name in ("first", "second")
    )
    assert first == second
    path = next(path for path in first_contents if path.name == "arrays.npz")
    path.write_bytes(path.read_bytes()[:-9] + b"something")
    with pytest.raises(errors.DataError, match="changed after it was written"):
        measured.merge_by(folder, "ia3", method, expert_name="third", **where).run()


def test_damaged_statistics_are_found_before_another_expert_is_measured(
    folder, monkeypatch
):
    rows = dataclasses.replace(
        measured.SETTINGS, num_rows=1, statistics_dir="{MODEL_DIR}/damaged"
    )
    method = regression.Fisher()
    measured.merge_by(folder, "ia3", method, expert_name="before", measuring=rows).run()
    first, second, _ = sorted((folder / "damaged").iterdir())
    with (first / "arrays.npz").open("ab") as file:
        file.write(b"more")
    shutil.rmtree(second)

    def load(place):
        raise AssertionError(f"{place} is loaded to be measured")

    monkeypatch.setattr(loaded.Expert, "load", load)
    with pytest.raises(errors.DataError, match="changed after it was written"):
        measured.merge_by(
            folder, "ia3", method, expert_name="after", measuring=rows
        ).run()


@pytest.mark.parametrize(
    ("method", "number", "is_same"),
    [
        (regression.Fisher(), 1, True),  # of a task without equal choices
        (regression.Fisher(), 2, False),
        (regression.RegMean(), 2, True),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_only_fisher_merges_by_rows_with_equal_choices_are_others_than_before(
    folder, monkeypatch, capsys, method, number, is_same
):
    name = f"{method.name}_of_{number}"
    experts_of = (f"{{MODEL_DIR}}/ia3/ia3_{number}", "{MODEL_DIR}/ia3/ia3_3")
    changes = {"experts": experts_of, "expert_name": name}
    run = measured.merge_by(folder, "ia3", method, **changes)
    places = tuple(folder / "ia3" / f"ia3_{n}" for n in (number, 3))

    def candidate():
        return candidates.Candidate("x", places, method=method, source=run._source())

    with monkeypatch.context() as patch:  # what was told until then
        patch.setattr(
            measuring.Source, "_reads_equal_choices", lambda self, info: False
        )
        run.run()
        before = candidate().fingerprint
    assert (candidate().fingerprint == before) == is_same
    done = folder / "merged" / name
    saved = manifest.read_manifest(done)
    assert "choices" not in saved.data["merge"]["measured"]
    infos = [manifest.read_manifest(place) for place in places]
    assert merge_recipes.method_of(saved.data["merge"], infos) == method
    capsys.readouterr()
    if is_same:
        run.run()
        assert "finished already" in capsys.readouterr().out
        return
    for act in (run.plan, run.run):
        with pytest.raises(errors.CheckpointError, match="choices: None before"):
            act()
    shutil.rmtree(done)
    run.run()
    run.run()
    assert "finished already" in capsys.readouterr().out
    info = manifest.read_manifest(done)
    assert info.data["merge"]["measured"]["choices"] == "by text"
    assert merge_recipes.method_of(info.data["merge"], infos) == method


def test_statistics_of_a_base_that_computes_in_another_dtype_are_others(folder):
    method = regression.Fisher()
    run = measured.merge_by(
        folder,
        "ia3",
        method,
        measuring=dataclasses.replace(measured.SETTINGS, num_rows=1),
    )
    source = run._source()
    assert source is not None
    parts = [loaded.Expert.load(folder / "ia3" / "ia3_1")]
    base = loaded.Base.load(folder / "base")
    model = base.manifest.model | {"dtype": "bfloat16"}
    info = dataclasses.replace(base.manifest, model=model)
    other_base = dataclasses.replace(base, manifest=info)
    (first,), (second,) = (
        source.measure(method, parts, of) for of in (base, other_base)
    )
    assert any(
        not np.array_equal(leaf, trees.flatten(second)[name])
        for name, leaf in trees.flatten(first).items()
    )
    infos = [part.manifest for part in parts]
    changed = source._replace(base_model=model)
    assert source.recipe(method, infos) != changed.recipe(method, infos)


def test_a_method_with_data_needs_rows_and_experts_that_tell_their_tasks(folder):
    with pytest.raises(errors.ConfigError, match="without rows to measure"):
        measured.merge_by(folder, "lora", regression.RegMean(), measuring=None)
    with pytest.raises(errors.ConfigError, match="without rows to measure"):
        strategies.MergeTopK(method=regression.RegMean())
    measured.merge_by(
        folder, "lora", averages.Uniform(), measuring=None, data=None
    ).run()
    params, info = experts.load_expert(folder / "lora" / "lora_1")
    alone = dataclasses.replace(info, tasks=(), name="of_nothing")
    experts.save_expert(folder / "silent" / "of_nothing", params, alone)
    with pytest.raises(errors.ConfigError, match="does not tell its tasks"):
        measured.merge_by(folder, "silent", regression.RegMean()).run()


def test_a_strategy_merges_by_data_as_elm_merge_does(folder):
    """The same rows, and so the same scores as the merge on disk."""
    toy.build(folder, experts=("{MODEL_DIR}/bottleneck/*",)).run()
    retrieval = toy.ask(folder, tasks=("plain_ask",))
    method = regression.RegMean()
    scored_on = {"tasks": ("plain_ask",), "retrieval": retrieval, "experts": ()}
    every = strategies.MergeAll(method=method, measuring=measured.SETTINGS)
    run = toy.score(folder, strategies=(every,), overlap="ignore", **scored_on)
    run.run()
    measured.merge_by(folder, "bottleneck", method, expert_name="all").run()
    toy.score(
        folder,
        strategies=(),
        experts=("{MODEL_DIR}/merged/all",),
        overlap="ignore",
        tasks=("plain_ask",),
        retrieval=None,
    ).run()
    store = evaluate.result_store.ResultStore(folder / "results.jsonl")
    by_name = {row.expert: row for row in store.rows() if row.metric == "accuracy"}
    assert by_name["merged_all_regmean"].value == by_name["all"].value
