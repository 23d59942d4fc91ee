"""Damaged files of every format are read right or refused with a typed error.

2,000 inputs by default; `ELM_FUZZ_INPUTS=20000` for more. The figures by class are
printed at the end of the tests. `campaign` says how to look at one input.
"""

import os

import pytest

from tests.fuzz import campaign, names, worker

INPUTS = int(os.environ.get("ELM_FUZZ_INPUTS", "2000"))
SEED = int(os.environ.get("ELM_FUZZ_SEED", "0"))
# Undamaged inputs of these take a second or more of processor time each: they convert a
# base, import TensorFlow or transformers, or start a server. The slow test begins with
# the same check, so that it says the same of them.
SLOW_TO_MAKE = {
    *("tokenizer", "safetensors", "hf_config", "peft", "peft_config", "adapterhub"),
    *("adapterhub_config", "p3_records", "t5x", "t5x_orbax", "t5x_settings"),
    "bucket_server",
}


def test_only_formats_that_there_are_are_left_to_the_slow_test():
    assert names.SHARES.keys() > SLOW_TO_MAKE
    assert not SLOW_TO_MAKE & names.GROUPS["records"].keys()


@pytest.mark.parametrize("name", sorted(names.SHARES.keys() - SLOW_TO_MAKE))
def test_undamaged_files_are_read_right_by_their_own_judge(name, tmp_path):
    valid = worker.Workshop(tmp_path, SEED).prepare(name)
    assert len(valid.values) == 2


@pytest.mark.slow
@pytest.mark.parametrize("group", names.GROUPS)
def test_damaged_files_are_read_right_or_refused(group, record_property):
    inputs = campaign.shared_out(INPUTS, names.GROUPS[group])
    outcomes = list(campaign.run(inputs, seed=SEED))
    record_property("fuzz", campaign.table(outcomes))
    assert len(outcomes) == len(inputs) > 0
    assert not campaign.failures(outcomes), "\n".join(campaign.failures(outcomes))
