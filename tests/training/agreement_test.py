"""One process alone stops when it is asked to; several are in `together_test`."""

import os
import signal

import pytest

from elm_jax.training import agreement, signals


def test_one_process_stops_at_once_with_the_status_of_its_signal():
    with signals.StopRequest() as stop:
        agreed, passed_on = agreement.AgreedStop(stop), agreement.PassedOnStop(stop)
        assert not agreed()
        assert not passed_on()
        agreed.exit_if_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert agreed()
        assert passed_on()
    assert stop.signal_number == signal.SIGTERM
    with pytest.raises(SystemExit, match="143"):
        agreed.exit_if_requested()
