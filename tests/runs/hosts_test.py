"""Joining other processes: one process is left alone, half a membership is refused."""

import jax
import jax.numpy as jnp
import pytest

from elm_jax import errors
from elm_jax.runs import evaluate, hosts, report, run, train

ALONE = {
    "multiprocess": None,
    "coordinator_address": "",
    "process_count": 0,
    "process_index": -1,
    "heartbeat_secs": 100,
}


class Nothing(run.Run):
    def run(self):
        pass


def test_one_process_just_runs(tmp_path, capsys):
    with hosts.joined(Nothing(model_dir=str(tmp_path)), **ALONE):
        print("here")
    assert capsys.readouterr().out == "here\n"


def test_a_device_that_runs_out_of_memory_is_told_with_remedies(tmp_path):
    with (
        pytest.raises(errors.ConfigError, match="(?s)memory ran out.*BATCH_SIZE"),
        hosts.joined(Nothing(model_dir=str(tmp_path)), **ALONE),
    ):
        jax.block_until_ready(jnp.zeros(2**50))


def test_a_count_without_an_address_is_refused(tmp_path):
    wrong = ALONE | {"process_count": 2, "process_index": 1}
    with (
        pytest.raises(errors.ConfigError, match="--coordinator_address = ''"),
        hosts.joined(Nothing(model_dir=str(tmp_path)), **wrong),
    ):
        raise AssertionError("joined nobody")


def test_trainings_and_evaluations_are_what_processes_may_share():
    assert train.Train.can_share_work
    assert evaluate.Evaluate.can_share_work
    assert not report.Report.can_share_work
