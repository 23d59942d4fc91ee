"""Folders that several files read: a base, a fleet of its experts, result rows."""

import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    from tests.runs import end_to_end_test
    from tests.runs.training import fleet_test

    folder = tmp_path_factory.mktemp("base")
    few = ("TRAIN_STEPS = 2", "BATCH_SIZE = 8", *end_to_end_test.SHAPE)
    fleet_test.start(folder, "gin/pocket/base.gin", *few)
    return folder


@pytest.fixture(scope="session")
def whole(base, tmp_path_factory):
    """Experts of a fleet that nothing stopped."""
    from tests.runs.training import fleet_test

    folder = tmp_path_factory.mktemp("whole")
    traced = "options.Metrics.profile_steps = (2, 3)"
    fleet_test.train_in(folder, base, fleet_test.LISTED, traced)
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
