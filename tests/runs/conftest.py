"""Folders that several files read: a base, a fleet of its experts, result rows."""

import pytest


@pytest.fixture
def toy_tasks():
    """Has a registry of the small tasks of `scored` alone."""
    from tests.runs import scored

    with scored.registered():
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    from tests.runs import shapes
    from tests.runs.training import fleets

    folder = tmp_path_factory.mktemp("base")
    few = ("TRAIN_STEPS = 2", "BATCH_SIZE = 8", *shapes.SHAPE)
    fleets.start(folder, "gin/pocket/base.gin", *few)
    return folder


@pytest.fixture(scope="session")
def whole(base, tmp_path_factory):
    """Experts of a fleet that nothing stopped."""
    from tests.runs.training import fleets

    folder = tmp_path_factory.mktemp("whole")
    traced = "options.Metrics.profile_steps = (2, 3)"
    fleets.train_in(folder, base, fleets.LISTED, traced)
    return folder


@pytest.fixture(scope="session")
def scored_folder(tmp_path_factory):
    """A base of random parameters and its result rows on `scored`'s tasks."""
    from tests.runs import scored

    folder = tmp_path_factory.mktemp("scored")
    scored.save_base(folder)
    with scored.registered():
        scored.score(folder, "plain", "twice", "signs", "long", "written")
    return folder


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory):
    """A work folder with a base, two experts and their library; to be read alone."""
    from tests.runs import scored, toy

    folder = tmp_path_factory.mktemp("library")
    with scored.registered():
        toy.make_library(folder)
    return folder


@pytest.fixture(scope="session")
def routers_folder(tmp_path_factory):
    """A base, a library of two experts, and an evaluation with routers; to be read."""
    from tests.runs import evaluated, scored, toy

    folder = tmp_path_factory.mktemp("routers")
    with scored.registered():
        toy.make_library(folder)
        evaluated.evaluation(folder).run()
    return folder
