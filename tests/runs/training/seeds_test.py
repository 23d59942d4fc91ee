"""Several seeds train each expert several times, and reports know it as one."""

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from tests.runs.training import landed

NAMES = sorted(landed.TASKS)
SETTINGS = "short/expert_settings.ExpertSettings"
FEW = ("BATCH_SIZE = 4", "options.Results.library_dir = ''")


def make_run(folder, seeds, *bindings):
    return landed.make_run(
        folder, f"train.Train.random_seed = {seeds}", *FEW, *bindings
    )


def test_every_seed_trains_every_expert_into_a_folder_of_its_own(folder):
    run = make_run(folder, (7, 9))
    specs = run.spec().experts
    assert sorted(specs) == [f"seed{seed}/{n}" for seed in (7, 9) for n in NAMES]
    for name, spec in specs.items():
        assert spec.folder == folder / "prompt_experts" / name
        assert spec.work_dir == folder / "work" / "prompt_experts" / name
        assert name == f"seed{spec.random_seed}/{spec.expert_name}"
    assert run.plan()["experts"].startswith("4: seed7/")


def test_one_seed_needs_no_folder_and_a_tuple_of_one_has_one(folder):
    assert sorted(make_run(folder, 7).spec().experts) == NAMES
    of_one = make_run(folder, (7,)).spec().experts
    assert sorted(of_one) == [f"seed7/{n}" for n in NAMES]


def test_patterns_of_settings_are_of_names_whatever_the_seed(folder):
    specs = make_run(folder, (7, 9)).spec().experts
    steps = {name: spec.train_steps for name, spec in specs.items()}
    assert steps == {
        f"seed{seed}/{name}": 3 if name == landed.SHORT else 5
        for seed in (7, 9)
        for name in NAMES
    }


@pytest.mark.parametrize(
    ("seeds", "binding", "message"),
    [
        ("()", "", "a seed, or one or more different ones"),
        ("(7, 7)", "", "a seed, or one or more different ones"),
        ("(7, -1)", "", "tuple of int, at least 0"),
        ("'many'", "", "int, at least 0"),
        ("(7, 9)", "options.Results.library_dir = 'here'", "library for each seed"),
        ("(7, 9)", "options.Results.publish_url = 'here'", "library for each seed"),
        ("(7, 9)", f"{SETTINGS}.random_seed = 3", "no random_seed"),
    ],
)
def test_seeds_that_cannot_be_are_refused_when_the_run_is_made(
    folder, seeds, binding, message
):
    with pytest.raises(errors.ConfigError, match=message):
        make_run(folder, seeds, *filter(None, [binding]))


@pytest.mark.slow
def test_trainings_of_a_recipe_differ_in_their_seeds_alone_and_more_can_follow(
    folder, capsys
):
    few = (
        f"MIXTURE_OR_TASK_NAME = ('{landed.SHORT}',)",
        *("TRAIN_STEPS = 2", "options.Batching.num_shapes = 1"),
        f"{SETTINGS}.train_steps = 2",
    )
    name = landed.SHORT
    run = make_run(folder, (7, 9), *few)
    run.run()
    infos = [
        manifest.read_manifest(folder / "prompt_experts" / f"seed{seed}" / name)
        for seed in (7, 9)
    ]
    assert [(info.name, info.seed) for info in infos] == [(name, 7), (name, 9)]
    assert infos[0].recipe == infos[1].recipe
    assert infos[0].fingerprint != infos[1].fingerprint
    capsys.readouterr()
    run.run()
    assert "finished already: 2 of 2" in capsys.readouterr().out
    assert make_run(folder, (7, 9, 8), *few).plan()["finished already"] == 2
    changed = make_run(folder, (7, 9), *few, "BATCH_SIZE = 5")
    with pytest.raises(errors.CheckpointError, match=f"seed7/{name}"):
        changed.plan()
    # In other company it has the same bits.
    elsewhere = "options.Results.experts_dir = '{MODEL_DIR}/other'"
    make_run(folder, (9, 8), *few, elsewhere).run()
    params = [
        trees.flatten(experts.load_expert(folder / place / "seed9" / name)[0])
        for place in ("prompt_experts", "other")
    ]
    assert params[0].keys() == params[1].keys()
    for key, value in params[0].items():
        np.testing.assert_array_equal(value, params[1][key], key)
