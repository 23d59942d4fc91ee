"""Docstrings tell formula, source and tools; the page of methods is made of them."""

import inspect
import re

import pytest

from elm_jax.cli import gin_flags
from elm_jax.merging import methods
from elm_jax.runs import merge
from tests.merging import methods_page

ALL = {**methods.METHODS, **methods_page.SEARCHES}
# Of what a name is a shorter word for: sums, products, functions, equations.
FORMULA = re.compile(r"`[^`]*(?:sum |\* |=|\()[^`]*`")


@pytest.mark.parametrize("name", ALL)
def test_a_docstring_has_a_formula_a_source_and_how_tools_differ(name):
    doc = inspect.getdoc(ALL[name])
    assert ALL[name].__doc__  # its own
    assert FORMULA.search(doc.partition("Attributes:")[0])
    assert re.search(r"\n\nTools: \w", doc)
    assert "arXiv" in getattr(ALL[name], "reference", doc)


def test_the_page_of_methods_is_that_of_their_docstrings():
    advice = "run python -m tests.merging.methods_page"
    assert methods_page.PAGE.read_text("utf-8") == methods_page.text(), advice


def test_every_first_class_method_is_there():
    assert {*methods_page.SEARCHES} <= {*methods_page.FIRST_CLASS} <= {*ALL}
    readme = methods_page.README.read_text("utf-8")
    assert f"]({methods_page.PAGE.name})" in readme


@pytest.mark.parametrize("name", methods_page.FIRST_CLASS)
def test_the_gin_file_of_a_method_builds_its_run(name, tmp_path):
    path = tmp_path / "merge.gin"
    path.write_text(methods_page.gin_of(name))
    run, _, _ = gin_flags.build_run(
        (merge.Merge,), gin_files=[f"{path}"], bindings=["MODEL_DIR = 'anywhere'"]
    )
    assert isinstance(run, merge.Merge)
    if name in methods_page.SEARCHES:
        assert run.search is not None
        assert run.search.kind == name
    else:
        assert run.chosen_method().name == name
