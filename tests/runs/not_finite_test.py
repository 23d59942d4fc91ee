"""A merge that is not finite names the experts that are the reason."""

import dataclasses

import numpy as np
import pytest

import elm_jax
from elm_jax import errors, trees
from elm_jax.checkpoints import tensors
from elm_jax.merging import combining, methods
from elm_jax.runs import loaded, merge, merged_params, not_finite
from tests.runs import toy_experts

# Averages, which show it in their result alone; methods that look before; on disk leaf
# by leaf, an adapter at a time, or, as the last one here, of whole experts.
METHODS = {
    "uniform": {},
    "running_mean": {},
    "task_arithmetic": {},
    "aligned": {},
    "ties": {"per": "expert"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and three bottlenecks, of which the second and the third have one NaN."""
    path = tmp_path_factory.mktemp("not_finite")
    toy_experts.save(path, kinds=("bottleneck",))
    for name in ("bottleneck_2", "bottleneck_3"):
        expert = loaded.Expert.load(path / "bottleneck" / name)
        leaves = {n: np.array(x) for n, x in trees.flatten(expert.params).items()}
        leaves[parameter(leaves)].flat[-1] = np.nan
        spoilt = dataclasses.replace(expert, params=trees.unflatten(leaves))
        with pytest.MonkeyPatch.context() as patch:  # as if its disk had failed
            patch.setattr(tensors, "check_finite", lambda arrays, of: None)
            spoilt.save(path / "spoilt" / name)
    return path


def parameter(leaves):
    return next(name for name in sorted(leaves) if name.endswith("up/kernel"))


def folders_of(folder):
    good = folder / "bottleneck" / "bottleneck_1"
    return [good, *sorted((folder / "spoilt").iterdir())]


@pytest.mark.parametrize("name", METHODS)
def test_elm_merge_names_each_expert_that_is_not_finite_by_its_folder(folder, name):
    run = merge.Merge(
        model_dir=str(folder),
        experts=tuple(map(str, folders_of(folder))),
        expert_name=name,
        initial_checkpoint_path="{MODEL_DIR}/base",
        method=methods.of(name, **METHODS[name]),
    )
    with pytest.raises(errors.ConfigError) as raised:
        run.run()
    for number in (2, 3):
        path = folder / "spoilt" / f"bottleneck_{number}"
        assert f"of expert 'bottleneck_{number}' in {path} is not finite" in str(
            raised.value
        )
    assert "bottleneck_1" not in str(raised.value)
    assert not run.folder.exists()


@pytest.mark.parametrize("name", METHODS)
def test_python_names_an_expert_that_is_not_finite_by_its_name(folder, name):
    experts = [loaded.Expert.load(path) for path in folders_of(folder)]
    in_memory = [dataclasses.replace(expert, folder=None) for expert in experts]
    base = elm_jax.Base.load(folder / "base")
    method = methods.of(name, **METHODS[name])
    bad = parameter(trees.flatten(experts[1].params))
    with pytest.raises(
        errors.ConfigError,
        match=rf"parameter {bad} of expert 'bottleneck_2' \(2 of 3\) is not finite;"
        rf" parameter {bad} of expert 'bottleneck_3' \(3 of 3\) is not finite",
    ):
        elm_jax.merge(in_memory, base, name="both", method=method)
    path = folder / "spoilt" / "bottleneck_3"
    with pytest.raises(errors.ConfigError, match=f"'bottleneck_3' in {path} is not"):
        elm_jax.merge(experts[::2], base, name="both", method=method)


def test_an_average_of_an_evaluation_names_the_folder(folder):
    path = folder / "spoilt" / "bottleneck_2"
    with pytest.raises(errors.ConfigError, match=f"'bottleneck_2' in {path} is not"):
        merged_params.of_folders(
            methods.of("running_mean"),
            [path, folder / "bottleneck" / "bottleneck_1"],
            loaded.Base.load(folder / "base"),
            name="mean",
        )


def test_an_expert_without_a_name_is_counted_from_1(folder):
    expert = loaded.Expert.load(folder / "bottleneck" / "bottleneck_1")
    nameless = dataclasses.replace(expert.manifest, name="")
    nameless_expert = dataclasses.replace(expert, manifest=nameless)
    assert not_finite.label(nameless_expert, 1, 3) == "expert 1 of 3"


def test_an_expert_of_weight_0_is_no_reason_and_a_sum_too_large_names_none():
    experts = {"first": {"w": np.ones(2)}, "second": {"w": np.array([1.0, np.inf])}}
    method = methods.of("weighted", weights=(1.0, 0.0))
    error = combining.NotFiniteError("the merged parameter w is not finite")
    with (
        pytest.raises(combining.NotFiniteError) as raised,
        not_finite.naming(method, experts),
    ):
        raise error
    assert raised.value is error
