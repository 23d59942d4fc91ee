"""Who makes a result twice at once is told who did, or that another one is there."""

import pytest

from elm_jax import errors
from elm_jax.checkpoints import recipes
from elm_jax.disk import folders


def make(folder, recipe):
    with folders.new_folder(folder) as partial:
        recipes.write(recipes.inside(partial), recipe)


def is_finished(folder, recipe):
    if not recipes.inside(folder).is_file():
        return False
    recipes.check_same("result", recipes.read(recipes.inside(folder)), recipe)
    return True


def make_once(folder, recipe, before=lambda: None):
    """Makes a result; what `before` does, another process does meanwhile."""

    def write():
        before()
        make(folder, recipe)

    return recipes.make_once(write, lambda: is_finished(folder, recipe))


def test_what_nobody_else_makes_is_made_here(tmp_path):
    assert make_once(tmp_path / "a", {"scale": 1})
    assert is_finished(tmp_path / "a", {"scale": 1})


def test_what_another_process_made_meanwhile_is_taken_if_it_is_the_same(tmp_path):
    folder = tmp_path / "a"
    assert not make_once(folder, {"scale": 1}, lambda: make(folder, {"scale": 1}))


def test_another_result_is_refused_by_name_and_stays(tmp_path):
    folder = tmp_path / "a"
    with pytest.raises(errors.CheckpointError, match="scale: 2 before, 1 now"):
        make_once(folder, {"scale": 1}, lambda: make(folder, {"scale": 2}))
    assert is_finished(folder, {"scale": 2})


def test_what_is_no_result_is_refused_and_stays(tmp_path):
    folder = tmp_path / "a"
    (folder / "mine").mkdir(parents=True)
    with pytest.raises(errors.ExistsError, match="there already"):
        make_once(folder, {"scale": 1})
    assert [path.name for path in folder.iterdir()] == ["mine"]
