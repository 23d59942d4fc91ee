"""Losses of an expert are laid over those of the same expert, whatever its seeds."""

import json

import pytest

from elm_jax import errors
from elm_jax.runs import loss_curves


def write(folder, name, loss):
    (folder / name).mkdir(parents=True)
    line = json.dumps({"step": 1, "loss": loss})
    (folder / name / loss_curves.FILE_NAME).write_text(f"{line}\n")


def compared(folder, first_names, other_names):
    for place, (where, names) in enumerate(
        (("own", first_names), ("others", other_names))
    ):
        for number, name in enumerate(names):
            write(folder / where, name, 10.0 * place + number)
    curves = loss_curves.read(folder / "own", folder / "others")
    return {curve.name: [loss for _, loss in curve.compared] for curve in curves}


def test_a_training_is_compared_with_the_same_seed_elsewhere(tmp_path):
    names = ["seed1/a", "seed2/a", "b"]
    assert compared(tmp_path, names, names) == {
        "seed1/a": [10.0],
        "seed2/a": [11.0],
        "b": [12.0],
    }


def test_seeded_and_unseeded_trainings_of_an_expert_are_compared(tmp_path):
    assert compared(tmp_path, ["a", "b"], ["seed1/a", "seed2/a"]) == {
        "a": [10.0],
        "b": [],
    }


def test_trainings_with_seeds_are_compared_with_one_without(tmp_path):
    assert compared(tmp_path, ["x/seed1/a", "x/seed2/a"], ["x/a"]) == {
        "x/seed1/a": [10.0],
        "x/seed2/a": [10.0],
    }


def test_trainings_of_other_experts_are_refused(tmp_path):
    with pytest.raises(errors.DataError, match="(?s)metrics of b in .* of a in"):
        compared(tmp_path, ["a"], ["b"])
