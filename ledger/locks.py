"""Locks for code that an interrupt may strike between any two calls.

A ``with`` on one of C Python's own locks is safe from Ctrl-C; an ``acquire`` with a timeout is not,
because the interrupt can come when the lock has been taken and nobody knows yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class OwnedLock:
    """A lock that knows whether the asking thread holds it, so that an interrupted caller can tell."""

    __slots__ = ("is_mine", "lock", "release")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """For a ``with`` that waits as long as it takes."""
        self.release = self.lock.release
        # threading.Condition relies on it too: it is part of what a lock of Python's offers.
        self.is_mine: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]

    def take(self, timeout_s: float) -> bool:
        """Take it within a time; an interrupt leaves it untaken. Not for a thread that holds it."""
        try:
            return self.lock.acquire(timeout=timeout_s)
        except BaseException:
            if self.is_mine():
                self.release()
            raise
