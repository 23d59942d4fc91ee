"""Damaged files of every format are read right or refused with a typed error.

2,000 inputs by default; `ELM_FUZZ_INPUTS=20000` for more. The figures by class are
printed at the end of the tests. `campaign` says how to look at one input.
"""

import os

import pytest

from tests.fuzz import campaign, names

INPUTS = int(os.environ.get("ELM_FUZZ_INPUTS", "2000"))
SEED = int(os.environ.get("ELM_FUZZ_SEED", "0"))


@pytest.mark.slow
@pytest.mark.parametrize("group", names.GROUPS)
def test_damaged_files_are_read_right_or_refused(group, record_property):
    inputs = campaign.shared_out(INPUTS, names.GROUPS[group])
    outcomes = list(campaign.run(inputs, seed=SEED))
    record_property("fuzz", campaign.table(outcomes))
    assert len(outcomes) == len(inputs) > 0
    assert not campaign.failures(outcomes), "\n".join(campaign.failures(outcomes))
