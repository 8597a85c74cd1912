"""An interruption that Python swallows comes again."""

import os
import signal
import time

import pytest

from calibrant.cli import interrupts

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


class Swallows:
    """An exception inside ``__del__`` is ignored by Python, also a KeyboardInterrupt."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_swallowed_interruption_is_raised_again(monkeypatch):
    monkeypatch.setattr(interrupts, "AGAIN", 0.2)
    swallowed = []
    monkeypatch.setattr("sys.unraisablehook", lambda info: swallowed.append(info.exc_type))
    before = signal.getsignal(signal.SIGINT)

    def work():
        with interrupts.firm():
            Swallows()
            assert swallowed == [KeyboardInterrupt]
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_without_an_interruption_nothing_happens():
    with interrupts.firm():
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
