"""Experts that are merged leaf by leaf on disk are those merged in memory."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, resumable, stores
from elm_jax.merging import averages, by_name, combining, methods, task_arithmetic
from elm_jax.runs import (
    bases,
    loaded,
    merge,
    merge_cost,
    merge_sizes,
    merge_sources,
    merged_leaves,
    merged_params,
    progress,
)
from tests.peft import sample
from tests.peft.sample import random_params

# Three layers of 8,192 bytes in the widest tensors: 20,000 bytes are two, then one.
SHAPE = dataclasses.replace(sample.SHAPE, num_encoder_layers=3)
METHODS = (
    averages.Uniform(),
    averages.RunningMean(),
    averages.Weighted(weights=(0.2, 0.0, 0.7)),
    methods.of("ties"),  # by tensor
    methods.of("dare", density=0.5),  # with random numbers
    by_name.ByName(weights_of={"layers_0/": (1.0, 2.0, 3.0)}),
    task_arithmetic.TaskArithmetic(scale=0.3, weights=(1.0, -0.5, 2.0)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and three experts of all parameters, stored in parts of three sizes."""
    path = tmp_path_factory.mktemp("work")
    params = random_params(bases.build_model(SHAPE, None))
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(SHAPE),
        trainable_pattern=".*",
    )
    experts.save_expert(path / "base", params, info)
    for seed in (1, 2, 3):
        whole = random_params(bases.build_model(SHAPE, None), seed)
        facts = dataclasses.replace(info, name=f"expert_{seed}", kind="dataset")
        place = path / "experts" / f"expert_{seed}"
        if seed == 1:
            experts.save_expert(place, whole, facts)
            continue
        leaves = {
            name: _in_parts(np.asarray(leaf), rows=seed - 1)
            for name, leaf in trees.flatten(whole).items()
        }
        resumable.save_expert(
            place, leaves, facts, recipe="", on_bytes=lambda done: None, attached={}
        )
    return path


def _in_parts(array, rows):
    blocks = [array[n : n + rows] for n in range(0, len(array), rows)]
    return resumable.Leaf(array.shape, array.dtype, rows, lambda: iter(blocks))


def merge_of(folder, method, name):
    return merge.Merge(
        model_dir=str(folder),
        experts=("{MODEL_DIR}/experts/*",),
        expert_name=name,
        initial_checkpoint_path="{MODEL_DIR}/base",
        method=method,
    )


def merge_all(folder, method, name):
    merge_of(folder, method, name).run()
    return folder / "merged" / name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("piece_bytes", "step_bytes", "ahead_bytes"),
    [
        (1, 1, 1),  # a row at a time, and none ahead
        (1000, 20_000, 1 << 29),  # several steps, of which the last is short
        (1 << 26, 1 << 24, 1 << 29),  # all at once
    ],
)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_merge_on_disk_is_the_one_in_memory(
    folder, monkeypatch, method, piece_bytes, step_bytes, ahead_bytes
):
    monkeypatch.setattr(merge_sizes, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(stores, "CHUNK_BYTES", step_bytes)
    monkeypatch.setattr(merge_sources, "_RUNNING_BYTES", step_bytes)
    monkeypatch.setattr(merge_sources, "AHEAD_BYTES", ahead_bytes)
    name = f"{method.name}_{piece_bytes}"
    merged_dir = merge_all(folder, method, name)
    expected = merged_params.of_folders(
        method,
        sorted((folder / "experts").iterdir()),
        loaded.Base.load(folder / "base"),
        name=name,
    )
    expected.save(folder / "in_memory" / name)
    read, info = experts.load_expert(merged_dir)
    again, expected_info = experts.load_expert(folder / "in_memory" / name)
    assert trees.fingerprint(read) == trees.fingerprint(again)
    assert info == expected_info
    card = (folder / "in_memory" / name / "card.md").read_bytes()
    assert (merged_dir / "card.md").read_bytes() == card


def test_a_merge_of_merges_is_computed_when_its_parts_are_read(folder):
    folders = sorted((folder / "experts").iterdir())
    sources = [merge_sources.open_source(place) for place in folders]
    pair = merged_leaves.merged(averages.Uniform(), sources[:2], {})
    first = sources[0]._replace(leaves=pair)
    nested = merged_leaves.merged(averages.Uniform(), [first, sources[2]], {})
    name = "encoder/layers/mlp/wi_0/kernel"
    first_leaf, second_leaf, third_leaf = (
        trees.flatten(experts.load_expert(place)[0])[name] for place in folders
    )
    read = np.concatenate(list(nested[name].blocks()))
    np.testing.assert_array_equal(
        read, (((first_leaf + second_leaf) / 2) + third_leaf) / 2
    )


def test_a_mean_over_parts_that_an_expert_lacks_is_refused(folder, monkeypatch):
    monkeypatch.setattr(merge_sizes, "PIECE_BYTES", 1)
    monkeypatch.setattr(merge_sources, "_RUNNING_BYTES", 1)
    sources = [
        merge_sources.open_source(place) for place in (folder / "experts").iterdir()
    ]
    name = "token_embedder/embedding"
    whole = sources[1].leaves[name]
    short = whole._replace(blocks=lambda: iter([next(whole.blocks())[:1]]))
    sources[1] = sources[1]._replace(leaves={**sources[1].leaves, name: short})
    leaf = merged_leaves.merged(averages.RunningMean(), sources, {})[name]
    with pytest.raises(errors.CheckpointError, match="3 experts, of which 2"):
        list(leaf.blocks())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_damaged_expert_is_found_and_nothing_is_left(folder, tmp_path, method):
    for place in folder.iterdir():
        if place.name in ("base", "experts"):
            subprocess.run(["cp", "-r", str(place), str(tmp_path)], check=True)
    params = tmp_path / "experts" / "expert_3" / "params"
    chunks = sorted((params / "encoder.encoder_norm.scale").glob("[0-9]*"))
    chunk = (params / "decoder.decoder_norm.scale" / chunks[0].name).read_bytes()
    chunks[0].write_bytes(chunk)
    with pytest.raises(errors.CheckpointError, match="encoder_norm"):
        merge_all(tmp_path, method, "x")
    assert not list((tmp_path / "merged").iterdir())


KILLED = """
import os, pathlib, signal, sys
from elm_jax.checkpoints import resumable
from elm_jax.runs import merged_files
from tests.runs import merged_leaves_test

class Kill:
    def __init__(self, title, *, total, unit):
        self.total = total

    def __call__(self, done):
        if done > float(sys.argv[2]) * self.total:
            os.kill(os.getpid(), signal.SIGKILL)

merged_files.Progress = Kill
resumable._LIST_SECS = -1.0  # every leaf is listed
merged_leaves_test.merge_all(
    pathlib.Path(sys.argv[1]), merged_leaves_test.METHODS[-1], "killed")
"""


@pytest.mark.slow
def test_a_merge_that_is_killed_again_and_again_ends_like_one_that_was_not(folder):
    root = pathlib.Path(__file__).parents[2]
    for share in ("0.2", "0.6"):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), share],
            cwd=root,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        assert not (folder / "merged" / "killed").exists()
    killed = merge_all(folder, METHODS[-1], "killed")
    assert not [p for p in (folder / "merged").iterdir() if p.name.startswith(".")]
    whole = merge_all(folder, METHODS[-1], "whole")
    for path in (killed / "params").rglob("*"):
        if path.is_file():
            undisturbed = whole / "params" / path.relative_to(killed / "params")
            assert path.read_bytes() == undisturbed.read_bytes()
    of_killed, of_whole = (manifest.read_manifest(place) for place in (killed, whole))
    assert dataclasses.replace(of_killed, name="whole") == of_whole


def test_a_sum_that_is_not_finite_is_refused_by_name_and_leaves_nothing(folder):
    method = task_arithmetic.TaskArithmetic(scale=3e38)
    with pytest.raises(errors.ConfigError, match="decoder/.* is not finite"):
        merge_all(folder, method, "infinite")
    assert not (folder / "merged" / "infinite").exists()
    left = (folder / "merged").glob(".*")
    assert not list(left)


@pytest.mark.parametrize("name", ["uniform", "running_mean", "ties", "iso_c"])
def test_a_part_on_disk_that_is_not_finite_is_told_as_it_is_read_once(folder, name):
    folders, merging = sorted((folder / "experts").iterdir()), methods.of(name)
    sources = [merge_sources.open_source(place) for place in folders]
    base = merge_sources.open_base(folder / "base") if merging.needs_base else {}
    parameter, reads = "encoder/layers/mlp/wi_0/kernel", []
    leaf = sources[1].leaves[parameter]

    def blocks():
        reads.append(parameter)
        for block in leaf.blocks():
            spoilt = block.copy()
            spoilt[-1, 0] = np.nan  # of the last part, the last layer
            yield spoilt

    leaves = {**sources[1].leaves, parameter: leaf._replace(blocks=blocks)}
    sources[1] = sources[1]._replace(leaves=leaves)
    merged = merged_leaves.merged(merging, sources, base)
    with pytest.raises(errors.ConfigError, match="mlp/wi_0/kernel .*is not finite"):
        list(merged[parameter].blocks())
    assert reads == [parameter]


def test_a_plan_tells_bytes_memory_and_time(folder):
    run = merge_of(folder, task_arithmetic.TaskArithmetic(), "planned")
    plan = run.plan()
    read = [folder / "base", *(folder / "experts").iterdir()]
    num_bytes = sum(p.stat().st_size for f in read for p in f.rglob("*") if p.is_file())
    assert plan["reads"] == progress.show_bytes(num_bytes)
    params, _ = experts.load_expert(folder / "base")
    size = trees.count_bytes(params)
    assert plan["writes, about"] == progress.show_bytes(size)
    cost = merge_cost.estimate(
        averages.Uniform(), [*(folder / "experts").iterdir()], folder / "base"
    )
    assert cost.read_bytes < num_bytes  # without the base
    assert 2**29 < cost.peak_bytes < 2**29 + 20 * size
    assert f"{plan['time']}".startswith("about 1 s, if all")
    assert not (folder / "merged" / "planned").exists()


def test_progress_is_told_in_bytes(folder, capsys):
    merge_all(folder, averages.Uniform(), "told")
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("merge")]
    read, _ = experts.load_expert(folder / "merged" / "told")
    size = progress.show_bytes(trees.count_bytes(read))
    assert line.startswith(f"merge: {size}/{size}, ")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_most_of_a_sum_needs_no_sorting_and_has_the_same_bits(dtype, count):
    """Terms that cancel, zeros of both signs, and ties between two numbers."""
    rng = np.random.default_rng(count)
    size = 5000
    leaves = rng.normal(size=(count, size)) * 10.0 ** rng.integers(-6, 4, (count, size))
    leaves[:, :500] = 0.0
    leaves[: count // 2, :250] = -0.0
    leaves[-1, 500:1500] = -leaves[:-1, 500:1500].sum(axis=0)
    leaves[:, 1500:2000] = rng.integers(-4, 5, (count, 500))
    leaves[:, 2000:2500] = 1.0 + rng.integers(0, 2, (count, 500)) * 2.0**-8
    factors = [(-1.0) ** n / (n + 1) for n in range(count)]
    terms = [leaf.astype(dtype) for leaf in leaves]
    added = combining.combine([{"a": term} for term in terms], factors)["a"]
    products = np.stack(
        [t.astype(np.float64) * f for t, f in zip(terms, factors, strict=True)]
    )
    products.sort(axis=0)
    total = products[0]
    for product in products[1:]:
        total = total + product
    assert added.tobytes() == total.astype(dtype).tobytes()
