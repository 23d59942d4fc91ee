"""The base's own encoder as an embedder: what its keys depend on, its name tells."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import experts
from elm_jax.library import index
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


@pytest.mark.slow
def test_a_base_gives_the_same_keys_whether_or_not_it_is_held_as_int8(embedder_of):
    plain, held = embedder_of(), embedder_of(base_dtype="int8")
    np.testing.assert_array_equal(held.embed(TEXTS), plain.embed(TEXTS))
    assert held.name == plain.name


@pytest.mark.slow
def test_keys_that_are_computed_in_bfloat16_are_those_of_another_embedder(embedder_of):
    plain, rounded = embedder_of(), embedder_of(dtype="bfloat16")
    assert not np.array_equal(rounded.embed(TEXTS), plain.embed(TEXTS))
    # 8 bits of each number, a few layers: the direction stays to a hundredth.
    np.testing.assert_allclose(rounded.embed(TEXTS), plain.embed(TEXTS), atol=0.02)


def test_keys_in_bfloat16_have_another_name(embedder_of):
    plain, rounded = embedder_of(), embedder_of(dtype="bfloat16")
    assert rounded.name == plain.name.replace("-24", "-bfloat16-24")


@pytest.mark.slow
@pytest.mark.usefixtures("toy_tasks")
def test_a_library_is_not_copied_to_be_extended_by_keys_of_another_embedder(tmp_path):
    toy.make_library(tmp_path)
    toy.save_expert(tmp_path, "signs", 3)
    other = dataclasses.replace(toy.ENCODER, max_length=16)
    where = "{MODEL_DIR}/another"
    longer = toy.build(
        tmp_path,
        extends="{MODEL_DIR}/library",
        library_dir=where,
        experts=("{MODEL_DIR}/experts/signs",),
    )
    with pytest.raises(errors.LibraryError, match="as the keys were made"):
        dataclasses.replace(longer, embedder=other).run()
    assert not (tmp_path / "another").exists()
    longer.run()
    names = index.open_index(tmp_path / "another").names
    assert sorted(names) == ["plain", "signs", "twice"]
