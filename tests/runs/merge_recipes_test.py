"""A merge is made again from its manifest alone, bit for bit, or is refused."""

import json
import pathlib

import pytest

import elm_jax
from elm_jax import errors, trees
from elm_jax.merging import averages, by_name, elementwise, methods, noise
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merge_recipes, merged_params
from tests.runs import toy_experts

LAYER = "encoder/layers_0/"
METHODS: list[MergeMethod] = [
    averages.Uniform(),
    averages.RunningMean(),
    averages.Weighted(weights=(3.0, 0.0, 1.0)),
    methods.of("task_arithmetic", weights=(0.1, -0.25, 0.7), scale=0.3),
    elementwise.Dare(random_seed=11),
    by_name.ByName(weights_of={LAYER: (0.1, 0.2, 0.7), "encoder/": (1.0, 0.0, 0.0)}),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    path = tmp_path_factory.mktemp("replayed")
    toy_experts.save(path, kinds=("whole", "lora"))
    base = elm_jax.Base.load(path / "base")
    parts = {
        kind: [elm_jax.Expert.load(each) for each in sorted((path / kind).iterdir())]
        for kind in ("whole", "lora")
    }
    return base, parts


def merged(world, method, experts):
    expert = elm_jax.merge(experts, world[0], name="made", method=method)
    return expert.params, json.loads(json.dumps(expert.manifest.data["merge"]))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_recipe_in_a_manifest_gives_the_same_bits_again(world, method):
    experts = world[1]["whole"]
    params, recipe = merged(world, method, experts)
    infos = [expert.manifest for expert in experts]
    assert merge_recipes.method_of(recipe, infos) == method
    again, recipe_again = merged(world, recipe, experts)
    assert trees.fingerprint(again) == trees.fingerprint(params)
    assert recipe_again == recipe


def test_what_a_search_chose_and_what_was_measured_are_no_options(world):
    infos = [expert.manifest for expert in world[1]["lora"]]
    method = methods.of("task_arithmetic", weights=(0.5, 0.25, 0.0))
    recipe = merged_params.recipe(method, infos)
    recipe |= {"search": {"chosen": [0.5]}, "measured": {"rows": 3}, "parts": [None]}
    assert merge_recipes.method_of(recipe, infos) == method


def test_experts_of_another_merge_or_in_another_order_are_refused(world):
    infos = [expert.manifest for expert in world[1]["lora"]]
    recipe = merged_params.recipe(averages.Weighted(weights=(1.0, 2.0, 3.0)), infos)
    for others in (infos[::-1], infos[:2], [*infos, infos[0]], []):
        with pytest.raises(errors.ConfigError, match="in this order"):
            merge_recipes.method_of(recipe, others)


def test_a_merge_of_release_0_1_is_made_again_of_experts_of_its_names():
    release = pathlib.Path(__file__).parent / "release_0_1"
    merged_expert = elm_jax.Expert.load(release / "merged/topics_and_reviews")
    recipe = merged_expert.manifest.data["merge"]
    assert "fingerprints" not in recipe
    parts = {path.name: path for path in release.glob("*_experts/*")}
    experts = [elm_jax.Expert.load(parts[name]) for name in recipe["experts"]]
    base = elm_jax.Base.load(release / "base")
    again = elm_jax.merge(experts, base, name="again", method=recipe)
    assert trees.fingerprint(again.params) == trees.fingerprint(merged_expert.params)
    with pytest.raises(errors.ConfigError, match="it does not tell, in this order"):
        elm_jax.merge(experts[::-1], base, name="again", method=recipe)


def test_options_of_a_recipe_that_are_unknown_are_refused(world):
    experts = world[1]["lora"]
    infos = [expert.manifest for expert in experts]
    recipe = merged_params.recipe(averages.Uniform(), infos)
    for unknown in ({"scale": 0.5}, {"weights": (1.0, 0.0, 0.0)}, {"temperature": 1}):
        with pytest.raises(errors.ConfigError, match=f"{next(iter(unknown))} .* for"):
            elm_jax.merge(experts, world[0], name="x", method=recipe | unknown)


@pytest.mark.parametrize("name", ["regmean", "fisher", "narrowed"])
def test_python_tells_what_to_do_for_methods_that_need_statistics(world, name):
    base, parts = world
    with pytest.raises(errors.ConfigError, match="elm_merge") as refused:
        elm_jax.merge(parts["lora"], base, name="x", method=name)
    assert "Set `measuring" not in str(refused.value)


def test_options_beside_a_method_that_has_its_own_are_refused(world):
    experts = world[1]["lora"]
    recipe = merged_params.recipe(averages.Uniform(), [e.manifest for e in experts])
    for method in (recipe, elementwise.Ties()):
        with pytest.raises(errors.ConfigError, match="options scale beside a method"):
            elm_jax.merge(experts, world[0], name="x", method=method, scale=0.5)


@pytest.mark.parametrize("name", methods.METHODS)
def test_what_every_recipe_has_is_the_default_of_methods_that_have_it(name):
    """So that leaving it out of a recipe, as replaying does, changes no method."""
    defaults = merged_params.OPTIONS_BEFORE
    method = methods.of(name)
    assert all(getattr(method, n, defaults[n]) == defaults[n] for n in defaults)


def test_noise_is_made_again(world):
    experts = world[1]["lora"][:1]
    params, recipe = merged(world, noise.Noise(random_seed=3), experts)
    again, _ = merged(world, recipe, experts)
    assert trees.fingerprint(again) == trees.fingerprint(params)
