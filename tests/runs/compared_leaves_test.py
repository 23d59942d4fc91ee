"""Experts that are compared a layer at a time are told what whole ones are told."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, streaming
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import combining, comparing, products
from elm_jax.peft import lora
from elm_jax.runs import bases, compare, compared_leaves, loaded
from tests.peft.sample import random_params
from tests.runs import scored, toy_experts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    with scored.registered():
        toy_experts.save(path)
    return path


@pytest.mark.parametrize("kind", toy_experts.SPECS)
def test_comparing_a_layer_at_a_time_is_comparing_whole_experts(folder, kind):
    """To 1e-12: the same sums in another order of layers."""
    folders = [folder / kind / f"{kind}_{number}" for number in (1, 2, 3)]
    base = loaded.Base.load(folder / "base")
    whole = compare.of_experts(
        [loaded.Expert.load(each) for each in folders], base, random_seed=3
    )
    streamed = compared_leaves.compare(folders, folder / "base", random_seed=3)
    assert [layer.name for layer in streamed.layers] == [
        layer.name for layer in whole.layers
    ]
    for streamed_layer, whole_layer in zip(streamed.layers, whole.layers, strict=True):
        for what in ("norms", "products", "conflict", "overlap", "pull"):
            np.testing.assert_array_equal(
                getattr(streamed_layer, what), getattr(whole_layer, what)
            )
    for what in ("in_place", "cosine", "norms", "forecast"):
        actual, expected = (getattr(each, what) for each in (streamed, whole))
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    for actual, expected in (
        (streamed.alike, whole.alike),
        (streamed.drawn, whole.drawn),
    ):
        assert actual.order == expected.order
        np.testing.assert_allclose(actual.pulls, expected.pulls, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", toy_experts.SPECS)
def test_the_bytes_of_a_plan_are_those_that_are_read(folder, monkeypatch, kind):
    folders = [folder / kind / f"{kind}_{number}" for number in (1, 2, 3)]
    num_read, open_expert = [0], streaming.open_expert

    def open_counted(place, **options):
        leaves, info = open_expert(place, **options)

        def counted(leaf):
            def blocks():
                for block in leaf.blocks():
                    num_read[0] += block.nbytes
                    yield block

            return leaf._replace(blocks=blocks)

        return {name: counted(leaf) for name, leaf in leaves.items()}, info

    expected = compared_leaves.read_bytes(folders, folder / "base")
    monkeypatch.setattr(streaming, "open_expert", open_counted)
    compared_leaves.compare(folders, folder / "base")
    assert num_read[0] == expected


def test_an_expert_that_is_not_finite_is_named_before_it_is_compared(
    folder, monkeypatch
):
    folders = [folder / "bottleneck" / f"bottleneck_{number}" for number in (1, 2)]
    check = combining.check_given
    base = loaded.Base.load(folder / "base")
    first, second = (loaded.Expert.load(each) for each in folders)
    leaves = {n: np.array(leaf) for n, leaf in trees.flatten(second.params).items()}
    name = max(leaves)
    leaves[name][0, 0] = np.nan
    spoilt = dataclasses.replace(second, params=trees.unflatten(leaves))
    with pytest.raises(errors.ConfigError, match=f"{name} of bottleneck_2 is not"):
        compare.of_experts([first, spoilt], base)

    def check_spoilt(who, params):
        replaced = {
            n: np.full_like(a, np.nan) for n, a in trees.flatten(params).items()
        }
        check(who, trees.unflatten(replaced) if who == "bottleneck_2" else params)

    monkeypatch.setattr(combining, "check_given", check_spoilt)
    with pytest.raises(errors.ConfigError, match="of bottleneck_2 is not finite"):
        compared_leaves.compare(folders, folder / "base")


def leaves_of(number, num_layers, width):
    """An expert whose layers are made when they are read."""

    def blocks():
        rng = np.random.default_rng(number)
        for _ in range(num_layers):
            yield rng.standard_normal((1, width, width), np.float32)

    shape = (num_layers, width, width)
    return {"encoder/layers/mlp/wi/kernel": Leaf(shape, np.dtype("f4"), 1, blocks)}


def test_a_comparison_holds_a_few_layers_however_many_there_are():
    """Of 120 layers of four experts, 3.9 MB in float32, less than a third of all."""
    expert_leaves = [leaves_of(number, 120, 45) for number in range(4)]
    start = leaves_of(9, 120, 45)

    def peak():
        tracemalloc.start()
        comparison = comparing.compare_parts(
            lambda: compared_leaves._parts(expert_leaves, start, {}), 4
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(comparison.layers) == 120
        return peak_bytes

    # What other threads of this process take meanwhile counts as well.
    assert min(peak() for _ in range(3)) < 4 * 120 * 45 * 45 * 4 / 3


def test_experts_of_other_shapes_are_refused_before_they_are_read(folder):
    folders = [folder / "lora" / "lora_1", folder / "bottleneck" / "bottleneck_1"]
    with pytest.raises(errors.ConfigError, match="differs from expert 1"):
        compared_leaves.compare(folders, folder / "base")


def run_of(folder, *names):
    return compare.Compare(
        model_dir=str(folder),
        experts=tuple(f"{{MODEL_DIR}}/{name}" for name in names),
        initial_checkpoint_path="{MODEL_DIR}/base",
    )


def copied(folder, name, **fields):
    """Saves the second LoRA once more, with a manifest that tells something else."""
    params, info = experts.load_expert(folder / "lora" / "lora_2")
    info = dataclasses.replace(
        info, name=name, adapter={**(info.adapter or {}), **fields}
    )
    experts.save_expert(folder / "copied" / name, params, info)
    return f"copied/{name}"


def save_wide(folder):
    """Saves a LoRA of rank 5."""
    _, info = experts.load_expert(folder / "lora" / "lora_2")
    spec = lora.Lora(rank=5)
    whole = random_params(bases.build_model(scored.SHAPE, spec), 4)
    info = dataclasses.replace(info, name="wide", adapter=bases.describe(spec))
    params, _ = trees.split(whole, info.trainable_pattern)
    experts.save_expert(folder / "copied" / "wide", params, info)


def test_loras_that_differ_in_dropout_alone_are_compared_as_they_are(
    folder, monkeypatch, capsys
):
    """Dropout is of trainings; of another scale experts are read whole."""
    numbers = folder / "report" / "experts.json"
    run_of(folder, "lora/lora_1", "lora/lora_2").run()
    expected = numbers.read_text()
    scaled = run_of(folder, "lora/lora_1", copied(folder, "scaled", alpha=8.0))
    dropped = run_of(folder, "lora/lora_1", copied(folder, "dropped", dropout=0.25))

    def refuse(_):
        raise AssertionError

    monkeypatch.setattr(loaded.Base, "load", refuse)
    dropped.run()
    measured, expected = (json.loads(text) for text in (numbers.read_text(), expected))
    for field in ("norms", "cosine", "forecast"):
        assert measured[field] == expected[field]
    with pytest.raises(AssertionError):
        scaled.run()
    capsys.readouterr()


def test_an_expert_whose_tensors_are_not_its_manifests_is_not_compared(folder):
    run = run_of(folder, "lora/lora_1", copied(folder, "torn", rank=4))
    with pytest.raises(errors.CheckpointError, match="do not fit"):
        run.plan()


@pytest.mark.parametrize("last", ["lora/lora_3", "copied/wide"])
def test_more_cores_than_fit_are_refused_before_experts_are_read(
    folder, monkeypatch, last
):
    """Three of rank 2, of cores of 6 x 6, or of ranks 2, 2 and 5, of cores of 9 x 9."""
    if last == "copied/wide":
        save_wide(folder)
    run, rank = run_of(folder, "lora/lora_[12]", last), {"copied/wide": 9}.get(last, 6)
    monkeypatch.setattr(products, "_MOST_BYTES", 3 * rank * rank * 8)
    assert run.plan()["experts"]
    monkeypatch.setattr(products, "_MOST_BYTES", 3 * rank * rank * 8 - 1)
    for message in (
        "LoRAs of rank",
        "Compare fewer, or first cut each to a lower rank",
    ):
        with pytest.raises(errors.ConfigError, match=message):
            run.plan()
