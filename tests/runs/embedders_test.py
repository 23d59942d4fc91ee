"""The base's own encoder as an embedder: what its keys depend on, its name tells."""

import dataclasses

import numpy as np
import pytest

from elm_jax.checkpoints import experts
from elm_jax.runs import loaded
from tests.runs import scored, toy

TEXTS = ["Which of these is it?", "A short one."]


@pytest.fixture(scope="module")
def embedder_of(tmp_path_factory):
    """Makes the embedder of a base with the same parameters and another model."""

    def make(**changes):
        folder = tmp_path_factory.mktemp("embedder")
        scored.save_base(folder)
        params, info = experts.load_expert(folder / "base")
        changed = dataclasses.replace(info, model=info.model | changes)
        experts.save_expert(folder / "changed", params, changed)
        return toy.ENCODER.make(
            place=str,
            load_base=lambda: loaded.Base.open(folder / "changed"),
            load_data=lambda: scored.make_data().opened(str),
        )

    return make


def test_a_base_gives_the_same_keys_whether_or_not_it_is_held_as_int8(embedder_of):
    plain, held = embedder_of(), embedder_of(base_dtype="int8")
    np.testing.assert_array_equal(held.embed(TEXTS), plain.embed(TEXTS))
    assert held.name == plain.name


def test_keys_that_are_computed_in_bfloat16_are_those_of_another_embedder(embedder_of):
    plain, rounded = embedder_of(), embedder_of(dtype="bfloat16")
    assert not np.array_equal(rounded.embed(TEXTS), plain.embed(TEXTS))
    # 8 bits of each number, a few layers: the direction stays to a hundredth.
    np.testing.assert_allclose(rounded.embed(TEXTS), plain.embed(TEXTS), atol=0.02)
    assert rounded.name == plain.name.replace("-24", "-bfloat16-24")
