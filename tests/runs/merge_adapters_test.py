"""elm_merge by task arithmetic makes experts with adapters that can be used."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.api import merging
from elm_jax.checkpoints import experts, manifest
from elm_jax.merging import (
    averages,
    by_name,
    elementwise,
    spectral,
    task_arithmetic,
)
from elm_jax.peft import bottleneck, expert_parts, fold, ia3, lora
from elm_jax.runs import bases, candidates, loaded, merge, merged_card, merged_params
from tests.peft.sample import SHAPE, TOKENS, random_params

SPECS = {
    "prompt": bottleneck.Bottleneck(reduction_factor=16),
    "lora": lora.Lora(rank=3),
    "ia3": ia3.Ia3(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder with a base and two experts of each kind."""
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
    for kind, spec in SPECS.items():
        pattern = (
            expert_parts.PROMPT_EXPERT if kind == "prompt" else expert_parts.ADAPTERS
        )
        for seed in (1, 2):
            whole = random_params(bases.build_model(SHAPE, spec), seed)
            experts.save_expert(
                path / kind / f"{kind}_{seed}",
                trees.split(whole, pattern)[0],
                dataclasses.replace(
                    info,
                    name=f"{kind}_{seed}",
                    kind="prompt",
                    adapter=bases.describe(spec),
                    trainable_pattern=pattern,
                    tasks=("some_task",),
                ),
            )
    return path


def merge_all(folder, kind, name, **changes):
    fields = {"method": "task_arithmetic", "experts": (f"{{MODEL_DIR}}/{kind}/*",)}
    merge.Merge(
        model_dir=str(folder),
        expert_name=name,
        initial_checkpoint_path="{MODEL_DIR}/base",
        **(fields | changes),
    ).run()
    return candidates.Candidate(name, (folder / "merged" / name,))


def test_a_path_that_is_given_twice_is_refused(folder):
    path = "{MODEL_DIR}/ia3/ia3_1"
    for again in (path, f"{folder}/ia3/ia3_1", f"{folder}/ia3/../ia3/ia3_1"):
        with pytest.raises(errors.ConfigError, match=r"given twice: .*/ia3/ia3_1\b"):
            merge_all(folder, "ia3", "twice", experts=(path, again))
    assert not (folder / "merged" / "twice").exists()


def test_an_expert_that_several_patterns_name_is_merged_once_and_told(folder, capsys):
    alone = merge_all(folder, "ia3", "alone", method="uniform")
    assert "named" not in capsys.readouterr().out
    patterns = tuple(f"{{MODEL_DIR}}/ia3/{text}" for text in ("*", "ia3_1", "i*"))
    overlapping = merge_all(
        folder, "ia3", "overlapping", method="uniform", experts=patterns
    )
    printed = capsys.readouterr().out
    assert "named several times, merged once: ia3_1, ia3_2\n" in printed
    assert "merged 2 experts" in printed
    params = [experts.load_expert(c.folders[0])[0] for c in (alone, overlapping)]
    assert trees.fingerprint(params[0]) == trees.fingerprint(params[1])


def logits(base, candidate):
    params, adapter = candidate.load(base)
    model = bases.build_model(base.config, adapter)
    return jax.jit(model.apply)({"params": params}, *TOKENS)


@pytest.fixture(scope="module")
def plain(folder):
    """The base's logits."""
    return logits(loaded.Base.load(folder / "base"), candidates.Candidate("base"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_the_card_of_a_merge_has_method_options_parts_and_weights(folder, kind):
    weights = (0.25, -1.0)
    method = task_arithmetic.TaskArithmetic(scale=0.5, weights=weights)
    merged_run = merge_all(folder, kind, f"{kind}_card", method=method)
    text = (merged_run.folders[0] / "card.md").read_text()
    lines = text.splitlines()
    assert lines[0] == f"# {kind}_card"
    assert "- method: task_arithmetic" in lines
    assert "- option scale: 0.5" in lines
    for seed, weight in ((1, "0.25"), (2, "-1")):
        part = folder / kind / f"{kind}_{seed}"
        fingerprint = manifest.read_manifest(part).fingerprint
        assert f"| {kind}_{seed} | {weight} | 0 | {fingerprint} |" in lines
    assert "- licence of the data: not known" in lines
    averaged = merge_all(folder, kind, f"{kind}_mean", method="running_mean")
    card = (averaged.folders[0] / "card.md").read_text()
    assert "- weights: none given" in card
    assert "option" not in card


def test_a_merge_has_the_licences_of_its_parts(folder):
    infos = [
        dataclasses.replace(
            manifest.read_manifest(folder / "lora" / f"lora_{seed}"),
            tasks=(f"task_{seed}",),
            licences=licences,
        )
        for seed, licences in ((1, {"task_1": "MIT"}), (2, {}))
    ]
    method = averages.Uniform()
    merged_info = merged_params.new_manifest(method, infos, "both", operative_config="")
    assert merged_info.licences == {"task_1": "MIT"}
    line = "- licence of the data: MIT (1 task), not known (1 task)"
    assert line in merged_card.text(merged_info, method).splitlines()


def test_the_card_of_a_merge_tells_that_the_base_is_held_as_int8(folder):
    info = manifest.read_manifest(folder / "lora" / "lora_1")
    held = dataclasses.replace(info, model=info.model | {"base_dtype": "int8"})
    method, base = averages.Uniform(), f"{info.base_name}, fingerprint"
    line = f"- base: {base} {info.base_fingerprint}"
    for infos, expected_line in (
        ([info] * 2, line),
        ([held] * 2, f"{line}, held as int8"),
    ):
        merged_info = merged_params.new_manifest(
            method, infos, "both", operative_config=""
        )
        assert expected_line in merged_card.text(merged_info, method).splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_a_sum_of_experts_is_an_expert_that_is_loaded_and_scored(folder, kind, plain):
    base = loaded.Base.load(folder / "base")
    both = merge_all(folder, kind, f"{kind}_both", scale=0.5)
    params = logits(base, both)
    assert np.isfinite(params).all()
    assert not np.allclose(params, plain)
    none = merge_all(folder, kind, f"{kind}_none", scale=0.0)
    assert np.array_equal(logits(base, none), plain)
    second = merge_all(folder, kind, f"{kind}_one", weights=(0.0, 1.0))
    expert = candidates.Candidate("x", (folder / kind / f"{kind}_2",))
    params, adapter = second.load(base)
    assert trees.fingerprint(params) == trees.fingerprint(expert.load(base)[0])
    assert adapter == SPECS[kind]


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_folded_into_the_base_a_sum_is_the_sum_of_the_folded_differences(folder, kind):
    base = loaded.Base.load(folder / "base")
    folded = []
    for candidate in (
        merge_all(folder, kind, f"{kind}_sum", scale=0.5),
        *(
            candidates.Candidate("x", (folder / kind / f"{kind}_{seed}",))
            for seed in (1, 2)
        ),
    ):
        folded.append(fold.fold(*candidate.load(base)))
    for name, leaf in trees.flatten(base.params).items():
        summed, first, second = (trees.flatten(tree)[name] for tree in folded)
        expected = leaf + 0.5 * (first - leaf) + 0.5 * (second - leaf)
        np.testing.assert_allclose(summed, expected, rtol=1e-4, atol=1e-5)


def test_the_manifest_tells_the_width_of_a_sum(folder):
    merge_all(folder, "prompt", "wide")
    info = manifest.read_manifest(folder / "merged" / "wide")
    assert info.adapter is not None
    assert (info.adapter["kind"], info.adapter["count"]) == ("bottleneck_sum", 2)
    merge_all(folder, "lora", "wide_lora")
    info = manifest.read_manifest(folder / "merged" / "wide_lora")
    assert info.adapter is not None
    assert (info.adapter["rank"], info.adapter["alpha"]) == (6, 32.0)


def test_experts_of_two_kinds_have_no_sum(folder):
    with pytest.raises(errors.ConfigError, match="different kinds"):
        merge_all(folder, "*", "mixed")


def test_merges_of_one_recipe_are_one_expert_whatever_the_seed(folder, tmp_path):
    for seed in (1, 2):
        for name in ("lora_1", "lora_2"):
            params, info = experts.load_expert(folder / "lora" / name)
            of_seed = dataclasses.replace(info, seed=seed)
            experts.save_expert(tmp_path / f"seed{seed}" / name, params, of_seed)
    (tmp_path / "base").symlink_to(folder / "base")

    def merged(name, *patterns):
        run = merge.Merge(
            model_dir=str(tmp_path),
            experts=patterns,
            expert_name="both",
            initial_checkpoint_path="{MODEL_DIR}/base",
            experts_dir=f"{{MODEL_DIR}}/merged/{name}",
        )
        run.run()
        assert run.plan()["finished already"]
        return manifest.read_manifest(tmp_path / "merged" / name / "both")

    first, second = (
        merged(name, f"{{MODEL_DIR}}/{name}/*") for name in ("seed1", "seed2")
    )
    assert first.recipe == second.recipe != ""
    assert (first.training_seed, second.training_seed) == (1, 2)
    assert first.fingerprint != second.fingerprint
    part = merged("part", "{MODEL_DIR}/seed1/lora_1")
    assert part.recipe not in ("", first.recipe)
    mixed = merged("mixed", "{MODEL_DIR}/seed1/lora_1", "{MODEL_DIR}/seed2/lora_2")
    assert mixed.training_seed is None
    facts = candidates.Candidate("both", (tmp_path / "merged/seed2/both",), "merged")
    recorded = facts.facts(tmp_path)
    assert (recorded["training_seed"], recorded["recipe"]) == (2, second.recipe)


def test_a_merge_of_an_earlier_release_is_finished_and_has_no_recipe(folder):
    done = merge_all(folder, "lora", "earlier").folders[0]
    params, info = experts.load_expert(done)
    recipe = {
        k: v for k, v in info.data["merge"].items() if k not in ("recipes", "seeds")
    }
    shutil.rmtree(done)
    experts.save_expert(done, params, dataclasses.replace(info, data={"merge": recipe}))
    merge_all(folder, "lora", "earlier")
    earlier = manifest.read_manifest(done)
    assert earlier.data["merge"] == recipe
    assert (earlier.recipe, earlier.training_seed) == ("", None)


@pytest.mark.slow
def test_a_sum_of_loras_is_the_same_beside_each_other_and_in_its_core(folder, plain):
    base = loaded.Base.load(folder / "base")
    wide = logits(base, merge_all(folder, "lora", "beside"))
    summed = merge_all(folder, "lora", "summed", method="low_rank_sum")
    np.testing.assert_allclose(logits(base, summed), wide, rtol=1e-4, atol=1e-4)
    assert np.abs(wide - plain).max() > 0.01


def test_a_sum_of_loras_is_cut_to_a_rank_and_tells_what_it_leaves_out(folder):
    cut = spectral.LowRankSum(rank=4)
    merge_all(folder, "lora", "cut", method=cut)
    merged = loaded.Expert.load(folder / "merged" / "cut")
    assert isinstance(merged.adapter, lora.Lora)
    assert (merged.adapter.rank, merged.adapter.scale) == (4, SPECS["lora"].scale)
    shares = merged.manifest.data["merge_facts"]
    assert len(shares) == 8  # queries and values of three self- and one cross-attention
    assert all(0 < share < 1 for share in shares.values())
    finished = merge_all(folder, "lora", "cut", method=cut)
    assert finished.folders == (folder / "merged" / "cut",)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ties", "aligned", "tsv_merge"])
@pytest.mark.parametrize("kind", SPECS)
def test_what_other_methods_make_of_adapters_can_be_used(folder, plain, kind, method):
    base = loaded.Base.load(folder / "base")
    merged = logits(base, merge_all(folder, kind, f"{kind}_{method}", method=method))
    assert np.isfinite(merged).all()
    assert np.abs(merged - plain).max() > 1e-3


@pytest.fixture(scope="module")
def ranks(folder):
    """Two LoRAs of other ranks and scales, and the base with the effects of both."""
    base = loaded.Base.load(folder / "base")
    whole, info = base.params, loaded.Expert.load(folder / "lora" / "lora_1").manifest
    for spec in (lora.Lora(rank=2), lora.Lora(rank=5, rank_stabilized=True)):
        params = random_params(bases.build_model(SHAPE, spec), seed=spec.rank)
        added = trees.split(params, expert_parts.ADAPTERS)[0]
        rank_info = dataclasses.replace(
            info, name=f"rank_{spec.rank}", adapter=bases.describe(spec)
        )
        experts.save_expert(folder / "ranks" / f"rank_{spec.rank}", added, rank_info)
        whole = fold.fold(trees.join(whole, added), spec)
    model = bases.build_model(SHAPE, None)
    return jax.jit(model.apply)({"params": whole}, *TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["task_arithmetic", "low_rank_sum"])
def test_loras_of_several_ranks_and_scales_are_summed_as_they_are(
    folder, ranks, method
):
    base = loaded.Base.load(folder / "base")
    merged = logits(base, merge_all(folder, "ranks", f"ranks_{method}", method=method))
    np.testing.assert_allclose(merged, ranks, rtol=2e-4, atol=2e-4)


def test_the_matrices_of_loras_of_several_ranks_are_not_averaged(folder, ranks):
    apart = elementwise.Ties(space="parameters")
    for method in ("uniform", "aligned", apart):
        with pytest.raises(errors.ConfigError, match="one adapter spec"):
            merge_all(folder, "ranks", "averaged", method=method)


@pytest.mark.parametrize("kind", SPECS)
def test_what_stands_for_an_expert_of_weight_0_in_a_sum_by_name_adds_nothing(
    folder, kind
):
    """To 1e-5: the units of both experts are summed, of which half are zeros."""
    base = loaded.Base.load(folder / "base")
    method = by_name.ByName(
        method=task_arithmetic.TaskArithmetic(), weights_of={"coder/": (1.0, 0.0)}
    )
    merged = merge_all(folder, kind, f"{kind}_by_name", method=method)
    alone = candidates.Candidate("alone", (folder / kind / f"{kind}_1",))
    (_, spec), (_, spec_alone) = merged.load(base), alone.load(base)
    assert (spec != spec_alone) == (kind != "ia3")  # twice as wide
    np.testing.assert_allclose(
        logits(base, merged), logits(base, alone), rtol=1e-5, atol=1e-5
    )


def test_weights_by_a_name_that_there_is_not_are_refused_in_memory_too(folder):
    base = loaded.Base.load(folder / "base")
    parts = [loaded.Expert.load(folder / "ia3" / f"ia3_{seed}") for seed in (1, 2)]
    method = by_name.ByName(weights_of={"layers_99/": (1.0, 0.0)})
    with pytest.raises(errors.ConfigError, match="in no parameter's name"):
        merging.merge_experts(parts, base, name="by_name", method=method)
