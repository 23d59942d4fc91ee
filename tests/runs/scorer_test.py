"""On the way to the devices: the base once, the next parameters while others score."""

import dataclasses
import gc
import threading
import weakref

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import decoding_spec, precision
from elm_jax.peft import bottleneck
from elm_jax.runs import candidates, jobs, loaded, placement, scorer
from tests.runs import scored


@pytest.fixture
def base(tmp_path):
    scored.save_base(tmp_path)
    return loaded.Base.load(tmp_path / "base")


def make(base, **changes):
    data = scored.make_data().opened(str)
    where = placement.Placement()
    return scorer.Scorer(base, data, batch_size=8, where=where, **changes)


@pytest.fixture
def program(base):
    return make(base)


def changed(base, pattern):
    """Returns the base's parameters with some of them doubled."""
    selected, _ = trees.split(base.params, pattern)
    return trees.replace(base.params, jax.tree.map(lambda leaf: 2 * leaf, selected))


def test_what_an_expert_leaves_as_it_is_is_placed_once(base, program):
    first = trees.flatten(program.place(base.params))
    second = trees.flatten(program.place(changed(base, ".*norm.*")))
    norms = {name for name in first if "norm" in name}
    assert norms
    assert {name for name in first if second[name] is not first[name]} == norms
    for name in norms:
        np.testing.assert_array_equal(second[name], 2 * first[name])


@pytest.mark.slow
def test_matrices_are_rounded_to_int8_once_for_all_experts(tmp_path):
    scored.save_base(tmp_path)
    plain = loaded.Base.load(tmp_path / "base")
    model = plain.manifest.model | {"base_dtype": "int8"}
    info = dataclasses.replace(plain.manifest, model=model)
    base = dataclasses.replace(plain, manifest=info)
    where = placement.Placement()
    program = scorer.Scorer(
        base, scored.make_data().opened(str), batch_size=8, where=where
    )
    first = trees.flatten(program.place(base.params))
    second = trees.flatten(program.place(changed(base, ".*norm.*")))
    norms = {name for name in first if "norm" in name}
    assert {name for name in first if second[name] is not first[name]} == norms
    held = precision.in_compute_dtype(base.config, base.params)
    assert trees.fingerprint(trees.unflatten(first)) == trees.fingerprint(held)
    assert {"int8", "float32"} == {leaf.dtype.name for leaf in first.values()}


def test_scorers_of_equal_models_share_programs_and_others_do_not(base, program):
    adapter = bottleneck.Bottleneck(reduction_factor=4)
    other_shape = base.manifest.model | {"num_heads": 1}
    info = dataclasses.replace(base.manifest, model=other_shape)
    programs = [
        program._programs(None),
        program._programs(adapter),
        program._programs(dataclasses.replace(adapter, reduction_factor=8)),
        make(base, decoding=decoding_spec.Sampling())._programs(None),
        make(dataclasses.replace(base, manifest=info))._programs(None),
    ]
    assert len({id(each.score) for each in programs}) == len(programs)
    same = dataclasses.replace(base, params=changed(base, ".*norm.*"))
    assert make(same)._programs(None) is programs[0]
    assert make(same)._programs(dataclasses.replace(adapter)) is programs[1]


def test_placed_parameters_are_those_that_were_given(base, program):
    for params in (base.params, changed(base, ".*mlp.*"), changed(base, ".*norm.*")):
        leaves, placed = trees.flatten(params), trees.flatten(program.place(params))
        assert leaves.keys() == placed.keys()
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(placed[name], leaf)


@pytest.mark.slow
def test_an_expert_with_all_parameters_frees_the_memory_of_the_base(base, program):
    placed = trees.flatten(program.place(base.params))
    leaf_refs = [weakref.ref(leaf) for leaf in placed.values()]
    del placed
    program.place(changed(base, ".*norm.*"))
    assert any(leaf() is not None for leaf in leaf_refs)
    program.place(changed(base, ".*"))
    gc.collect()
    assert all(leaf() is None for leaf in leaf_refs)


@dataclasses.dataclass(frozen=True)
class Watched(candidates.Candidate):
    """A candidate that tells when it is loaded."""

    is_loaded: threading.Event = dataclasses.field(default_factory=threading.Event)

    def load(self, base):
        self.is_loaded.set()
        return super().load(base)


def test_the_next_parameters_are_read_while_others_are_scored(base, program):
    first, second, third = (Watched(name) for name in ("first", "second", "third"))
    groups = [
        [jobs.ScoringJob(candidate, None, None)] for candidate in (first, second, third)
    ]
    loading = jobs._loaded(groups, base, program)
    assert next(loading)[0] == groups[0]
    assert second.is_loaded.wait(timeout=60)
    assert not third.is_loaded.is_set()  # one at a time
    assert [group for group, _ in loading] == groups[1:]


def test_an_expert_that_cannot_be_read_fails_in_its_turn(base, program):
    class Broken(Watched):
        def load(self, base):
            raise ValueError("is broken")

    groups = [
        [jobs.ScoringJob(candidate, None, None)]
        for candidate in (Watched("good"), Broken("bad"))
    ]
    loading = jobs._loaded(groups, base, program)
    assert next(loading)[0] == groups[0]
    with pytest.raises(ValueError, match="is broken"):
        next(loading)
