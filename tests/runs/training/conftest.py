"""A work folder to train in."""

import pytest


@pytest.fixture
def folder(tmp_path):
    from tests.runs.training import landed

    return landed.make_folder(tmp_path)
