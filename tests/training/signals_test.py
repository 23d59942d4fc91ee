import os
import signal

import pytest

from elm_jax.training import signals


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_sets_the_flag_and_the_exit_status(number, status, capfd):
    with signals.StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    with pytest.raises(SystemExit) as caught:
        stop.exit_if_requested()
    assert caught.value.code == status
    assert f"{number.name}: saving after this step" in capfd.readouterr().err


def test_a_second_signal_is_not_held_back():
    with signals.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with signals.StopRequest() as stop:
        pass
    assert before == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stop.exit_if_requested()  # nothing was requested: goes on
