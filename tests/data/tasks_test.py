import subprocess
import sys

import pytest

from elm_jax import errors
from elm_jax.data import tasks


def test_names_patterns_and_mixtures_stand_for_tasks(registry, colours, variant):
    registry.add(variant(colours, "colours_tell"), variant(colours, "shapes_tell"))
    registry.add(tasks.Mixture("all", ("shapes_tell", "colours_ask")))
    assert registry.expand("colours_*") == ["colours_ask", "colours_tell"]
    assert registry.expand(["all", "*_tell"]) == [
        "shapes_tell",
        "colours_ask",
        "colours_tell",
    ]
    assert registry.match("a*") == ["all"]
    assert [m.name for m in registry.mixtures("*")] == ["all"]
    assert [t.name for t in registry.select(lambda t: t.role == "train")] == [
        "colours_ask",
        "colours_tell",
        "shapes_tell",
    ]


def test_a_pattern_may_be_held_to_the_tasks_of_a_mixture(registry, colours, variant):
    registry.add(variant(colours, "colours_tell"), variant(colours, "shapes_tell"))
    some = ("shapes_tell", "colours_ask")
    registry.add(tasks.Mixture("some", some, caps={"colours_ask": 3, "shapes_tell": 4}))
    assert registry.expand("some/*") == sorted(some)
    assert registry.expand(["some/colours_*"]) == ["colours_ask"]
    assert registry.expand("some/shapes_tell") == ["shapes_tell"]
    assert registry.caps("some/colours_*") == {"colours_ask": 3}
    assert registry.caps(("some", "colours_tell")) == registry.caps("some/*")
    with pytest.raises(errors.ConfigError, match="among the 2 of 'some'"):
        registry.expand("some/colours_tell")
    with pytest.raises(errors.ConfigError, match="no task or mixture named 'sme'"):
        registry.expand("sme/*")


def test_an_unknown_name_is_told_with_the_nearest(registry, colours):
    for look in (registry.get, registry.match, registry.expand):
        with pytest.raises(errors.ConfigError, match="Did you mean: colours_ask"):
            look("colour_ask")


def test_a_mixture_is_not_a_task_and_its_members_must_exist(registry, colours):
    registry.add(tasks.Mixture("some", ("colours_ask",)))
    registry.add(tasks.Mixture("wrong", ("colors_ask",)))
    with pytest.raises(errors.ConfigError, match="mixture of 1 tasks"):
        registry.task("some")
    with pytest.raises(errors.ConfigError, match="'colors_ask'"):
        registry.expand("wrong")


def test_one_name_has_one_meaning(registry, colours, variant):
    registry.add(colours)
    with pytest.raises(errors.ConfigError, match="two different"):
        registry.add(variant(colours, "colours_ask", role="unseen"))


def test_what_cannot_be_is_refused(registry, colours, variant):
    with pytest.raises(errors.ConfigError, match="Did you mean: unseen"):
        variant(colours, "x", role="unsen")
    with pytest.raises(errors.ConfigError, match="'a/b'"):
        registry.add(variant(colours, "a/b"))
    with pytest.raises(errors.ConfigError, match="targets_length=1"):
        tasks.Features(targets_length=1)


def test_importing_tasks_imports_no_tensorflow():
    code = (
        "import sys, tasks.original, elm_jax.data.cache, elm_jax.data.batches;"
        "sys.exit(bool({'tensorflow', 'seqio'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
