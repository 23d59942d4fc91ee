"""One process alone stops when it is asked to; several are in `together_test`."""

import os
import signal

import numpy as np
import pytest

from elm_jax.partitioning import processes
from elm_jax.training import agreement, signals


def test_one_process_stops_at_once_with_the_status_of_its_signal():
    with signals.StopRequest() as stop:
        agreed, passed_on = agreement.AgreedStop(stop), agreement.PassedOnStop(stop)
        assert not agreed.is_requested()
        assert not passed_on.is_requested()
        agreed.exit_if_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert agreed.is_requested()
        assert passed_on.is_requested()
    assert stop.signal_number == signal.SIGTERM
    with pytest.raises(SystemExit, match="143"):
        agreed.exit_if_requested()


def test_a_signal_after_the_last_question_of_several_is_not_lost(monkeypatch):
    monkeypatch.setattr(processes, "are_several", lambda: True)
    # The other process has heard nothing.
    monkeypatch.setattr(
        processes, "exchange", lambda flags: np.asarray([flags, [0, flags[1]]])
    )
    now = [0.0]
    with signals.StopRequest() as stop:
        agreed = agreement.AgreedStop(stop, clock=lambda: now[0])
        for _ in range(12):
            now[0] += 0.1
            agreed.note_step()
            assert not agreed.is_requested()
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        agreed.exit_if_requested()
