"""Forks: none happens while a thread is inside SQLite.

The library keeps locks of its own, for memory and for its notes on files. A process that forks while
another thread holds one leaves its child with a lock that nobody will ever open, so that the child
hangs at its first query. Every use of SQLite that is not one of a log's own connections, which see to
it themselves (:mod:`ledger.sqlite_connections`), therefore goes inside :func:`no_fork`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 5.0
"""How long a fork waits for other threads to leave; then it happens all the same."""

_LOOK_EVERY_S = 0.0005


class _Door:
    """Who is inside, by thread, and the door that a fork holds shut meanwhile."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """With nobody inside, as in a forked child."""
        self._door = threading.Lock()
        self._inside: dict[int, int] = {}

    def enter(self) -> None:
        """Go in, once nobody forks; again as often as one likes."""
        me = threading.get_ident()
        if me in self._inside:
            self._inside[me] += 1
            return
        with self._door:
            self._inside[me] = 1

    def leave(self) -> None:
        """Go out as often as one went in."""
        me = threading.get_ident()
        self._inside[me] -= 1
        if not self._inside[me]:
            del self._inside[me]

    def before_fork(self) -> None:
        """Shut the door and wait until the others are out."""
        self._door.acquire()
        me, end = threading.get_ident(), time.monotonic() + PATIENCE_S
        while self._inside.keys() - {me} and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)

    def after_fork_in_parent(self) -> None:
        """Open the door again."""
        self._door.release()


_DOOR = _Door()

# What is registered last runs first before a fork: logs end their transactions before the door shuts,
# so nobody waits at the door with a log in hand. This module is imported by theirs.
os.register_at_fork(
    before=_DOOR.before_fork,
    after_in_parent=_DOOR.after_fork_in_parent,
    after_in_child=_DOOR.start_anew,
)


@contextmanager
def no_fork() -> Iterator[None]:
    """A stretch of SQLite during which other threads' forks wait. Hold no log's lock to be got in it:
    a fork holds those already."""
    _DOOR.enter()
    try:
        yield
    finally:
        _DOOR.leave()
