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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ledger.locks import OwnedLock

PATIENCE_S = 5.0
"""How long a fork waits for other threads to leave; then it happens all the same."""

_LOOK_EVERY_S = 0.0005


class _Door:
    """Who is inside, by thread, and the door that a fork holds shut meanwhile.

    An interrupt (Ctrl-C) may strike between any two calls, also inside a fork's own, where nobody
    hears of it. So who holds the door is asked of the lock, and nobody is counted for longer than
    they are inside.
    """

    def __init__(self) -> None:
        self.when_shut: list[Callable[[], None]] = []
        self.start_anew()

    def start_anew(self) -> None:
        """With nobody inside, as in a forked child."""
        self._door = OwnedLock()
        self._inside: set[int] = set()

    def is_inside(self) -> bool:
        """Whether this thread is."""
        return threading.get_ident() in self._inside

    def enter(self) -> None:
        """Go in, once nobody forks."""
        with self._door.lock:
            self._inside.add(threading.get_ident())

    def leave(self) -> None:
        """Go out; nothing where this thread is not inside."""
        self._inside.discard(threading.get_ident())

    def before_fork(self) -> None:
        """Shut the door and wait until the others are out."""
        end = time.monotonic() + PATIENCE_S
        try:
            self._shut(end)
        except BaseException:
            self._shut(end)
            raise

    def _shut(self, end: float) -> None:
        if not self._door.is_mine():
            self._door.take(threading.TIMEOUT_MAX)
        while self._inside - {threading.get_ident()} and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
        for act in self.when_shut:
            act()

    def after_fork_in_parent(self) -> None:
        """Open the door again."""
        if self._door.is_mine():
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
    if _DOOR.is_inside():
        yield
        return
    try:
        _DOOR.enter()
        yield
    finally:
        _DOOR.leave()


def when_shut(act: Callable[[], None]) -> None:
    """Have ``act`` called in every fork, once the door is shut and nobody else is inside; it may be
    called again in the same fork."""
    _DOOR.when_shut.append(act)
