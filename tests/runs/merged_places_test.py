"""Adapters that are merged a layer at a time are those that are merged in memory."""

import dataclasses
import json
import weakref

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, resumable
from elm_jax.merging import (
    aligning,
    averages,
    by_name,
    methods,
    task_arithmetic,
)
from elm_jax.peft import bottleneck, expert_parts, ia3, lora
from elm_jax.runs import (
    bases,
    loaded,
    merge_cost,
    merge_memory,
    merge_sources,
    merged_files,
    merged_leaves,
    merged_params,
    merged_places,
)
from tests.peft.sample import SHAPE, random_params

KINDS = {
    "prompt": (bottleneck.Bottleneck(reduction_factor=16), expert_parts.PROMPT_EXPERT),
    "ia3": (ia3.Ia3(), expert_parts.ADAPTERS),
    "lora": (lora.Lora(rank=3), expert_parts.ADAPTERS),
}
SUM = task_arithmetic.TaskArithmetic(scale=0.5, weights=(1.0, 0.0, -2.0))
METHODS = (
    SUM,
    task_arithmetic.TaskArithmetic(scale=0.0),
    averages.Uniform(),
    aligning.AlignedAverage(weights=(1.0, 3.0, 1.0)),
    *map(methods.of, ("ties", "dare", "sce", "tsv_merge", "knots", "covariance")),
    methods.of("low_rank_sum", rank=2, weights=(1.0, 0.0, -2.0)),
    methods.of("ties", space="parameters"),
    methods.of("iso_c", weights=(0.0, 0.0, 0.0)),
    methods.of("low_rank_sum", weights=(0.0, 1.0, 0.0)),
    *(
        by_name.ByName(
            method=method,
            weights_of={"decoder/": (0.0, 1.0, 2.0), "layers_1/": (0.0, 0.0, 3.0)},
        )
        for method in (
            SUM,
            aligning.AlignedAverage(),
            *map(methods.of, ("ties", "knots", "low_rank_sum")),
            methods.of("iso_c", rank=2),
        )
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and three experts of each kind, large layers stored apart."""
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
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(experts, "LAYER_BYTES", 64)
        for kind, (spec, pattern) in KINDS.items():
            for seed in (1, 2, 3):
                whole = random_params(bases.build_model(SHAPE, spec), seed)
                facts = dataclasses.replace(
                    info,
                    name=f"{kind}_{seed}",
                    kind="prompt",
                    adapter=bases.describe(spec),
                    trainable_pattern=pattern,
                )
                experts.save_expert(
                    path / kind / f"{kind}_{seed}",
                    trees.split(whole, pattern)[0],
                    facts,
                )
    return path


def write(folder, kind, method, name):
    target = folder / "merged" / name
    expert_dirs = sorted((folder / kind).iterdir())
    merged_files.write(method, expert_dirs, folder / "base", target, name="x")
    return experts.load_expert(target)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}{METHODS.index(m)}")
@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_on_disk_is_the_one_in_memory(folder, kind, method):
    info = manifest.read_manifest(folder / kind / f"{kind}_1")
    assert merged_leaves.can_merge(method, info)
    read, info_on_disk = write(folder, kind, method, f"{kind}_{METHODS.index(method)}")
    expected = merged_params.of_folders(
        method,
        sorted((folder / kind).iterdir()),
        loaded.Base.load(folder / "base"),
        name="x",
    )
    assert trees.fingerprint(read) == trees.fingerprint(expected.params)
    assert bases.adapter_spec(info_on_disk) == expected.adapter
    assert info_on_disk.data == json.loads(json.dumps(expected.manifest.data))
    expert_dirs = sorted((folder / kind).iterdir())
    cost = merge_cost.estimate(method, expert_dirs, folder / "base")
    assert cost.written_bytes == trees.count_bytes(read)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_looks_at_whole_experts_is_not_merged_by_layer(folder, kind):
    info = manifest.read_manifest(folder / kind / f"{kind}_1")
    for method in map(methods.of, methods.METHODS):
        by_leaf = merged_leaves.can_merge(method, info)
        assert by_leaf == (method.unit != "expert"), method.name
    assert not merged_leaves.can_merge(methods.of("ties", per="expert"), info)


@pytest.mark.parametrize("kind", ["prompt", "lora"])
@pytest.mark.parametrize("name", ["ties", "aligned", "iso_c", "task_arithmetic"])
def test_adapters_on_disk_that_are_not_finite_are_told_by_name(folder, kind, name):
    merging, expert_dirs = methods.of(name), sorted((folder / kind).iterdir())
    sources = merge_sources.open_sources(merging, expert_dirs)
    place = next(n for n in sources[2].leaves if n.endswith(("up/kernel", "lora_b")))
    leaf = sources[2].leaves[place]

    def blocks():
        for block in leaf.blocks():
            yield np.full_like(block, np.inf)

    leaves = {**sources[2].leaves, place: leaf._replace(blocks=blocks)}
    sources[2] = sources[2]._replace(leaves=leaves)
    base = merge_sources.open_base(folder / "base") if merging.needs_base else {}
    merged = merged_leaves.merged(merging, sources, base)
    with pytest.raises(errors.ConfigError, match=r"layers(_0)?/.*is not finite"):
        list(merged[place].blocks())


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_of_whole_experts_counts_what_is_made_of_them(folder, kind):
    """Base, experts and twice the result are there with any method; the rest is not."""
    expert_dirs, rest = sorted((folder / kind).iterdir()), {}
    for method in (methods.of("emr", expert=1), methods.of("ties", per="expert")):
        whole_bytes = merge_memory.of_whole(
            method, merge_sources.open_sources(method, expert_dirs)
        )
        peak_bytes = merge_cost.estimate(
            method, expert_dirs, folder / "base"
        ).peak_bytes
        rest[method.name] = peak_bytes - whole_bytes
        assert (whole_bytes > 0) == (kind == "lora" or method.name == "ties")
    assert rest["emr"] == rest["ties"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("prompt", "ties"), ("prompt", "task_arithmetic"), ("lora", "ties")],
)
def test_a_merge_that_is_stopped_in_an_adapter_goes_on_there(
    folder, monkeypatch, kind, name
):
    monkeypatch.setattr(resumable, "_LIST_SECS", -1.0)  # every leaf is listed
    expected, whole = write(folder, kind, methods.of(name), f"{kind}_{name}_whole")

    class Stop:
        def __init__(self, title, *, total, unit):
            self.total = total

        def __call__(self, done):
            if done > shares[0] * self.total:
                raise SystemExit(143)

    shares = [0.1, 0.4, 0.6, 0.9]
    while shares:
        with monkeypatch.context() as patched, pytest.raises(SystemExit):
            patched.setattr(merged_files, "Progress", Stop)
            write(folder, kind, methods.of(name), f"{kind}_{name}_stopped")
        del shares[0]
    params, info = write(folder, kind, methods.of(name), f"{kind}_{name}_stopped")
    assert trees.fingerprint(params) == trees.fingerprint(expected)
    assert info == whole
    assert ("merge_facts" in info.data) == (kind == "lora")


def test_a_merge_that_goes_on_keeps_nothing_that_it_does_not_ask_for(
    folder, monkeypatch
):
    """The first parameter was finished before: it is merged with the others."""
    method, array_refs = aligning.AlignedAverage(), []
    merge = merged_places.Place._merge

    def tracked(place):
        arrays = merge(place)
        array_refs.extend(weakref.ref(array) for array in arrays.values())
        return arrays

    monkeypatch.setattr(merged_places.Place, "_merge", tracked)
    expert_dirs = sorted((folder / "prompt").iterdir())
    leaves = merged_leaves.merged(
        method, merge_sources.open_sources(method, expert_dirs), {}
    )
    sides = merged_leaves.sides(method, merge_sources.open_sources(method, expert_dirs))
    names, *_ = aligning.places(sides, is_linear=False).values()
    for name in sorted(names)[1:]:
        assert (
            sum(len(block) for block in leaves[name].blocks()) == len(array_refs) // 2
        )
    assert len(array_refs) == len(names)
    assert all(array() is None for array in array_refs)
