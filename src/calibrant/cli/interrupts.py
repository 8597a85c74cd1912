"""Ctrl-C that cannot get lost.

Python swallows an exception that is raised inside a destructor or some callbacks of compiled code, and a Ctrl-C that lands
there would do nothing. So it is raised again until the command has ended.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 2.0  # seconds; time enough for what is under way to be cleaned up


@contextmanager
def firm() -> Iterator[None]:
    """While active, an interruption is raised again every two seconds until the block is left."""
    if not hasattr(signal, "setitimer"):  # not on every platform; there one may have to press twice
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        raise KeyboardInterrupt

    before = [(kind, signal.signal(kind, stop)) for kind in (signal.SIGINT, signal.SIGALRM)]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, handler in before:
            signal.signal(kind, handler)
