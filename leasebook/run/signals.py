"""Signals: taken as a list, in the loop that waits for them, never in the middle of something.

A handler only notes its signal and wakes the loop. What was ignored when this process started
(SIGHUP under ``nohup``) stays ignored, for the command too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections import deque
from types import FrameType, TracebackType
from typing import Any, Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that ask a program to go."""

_TAKEN: Final = (
    *ENDING,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGCHLD,
)


class Signals:
    """Takes signals while it is entered; for the main thread (elsewhere it only waits)."""

    def __init__(self) -> None:
        self._noted: deque[int] = deque()
        self._old: dict[int, Any] = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._old_wakeup = -1
        self.started = False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in _TAKEN:
                ignored = signal.getsignal(number) is signal.SIG_IGN
                # With SIGCHLD ignored the kernel reaps by itself, and exit codes are lost.
                if not ignored or number == signal.SIGCHLD:
                    self._old[number] = signal.signal(number, self._note)
            self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._old:
            signal.set_wakeup_fd(self._old_wakeup)
            for number, handler in self._old.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._old.clear()
        os.close(self._reader)
        os.close(self._writer)

    @property
    def taken(self) -> tuple[int, ...]:
        """The signals that have a handler here, and that a child has to reset."""
        return tuple(self._old)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and number in self._noted
        self._noted.append(number)
        if again and not self.started:
            # Somebody insists while a ledger is slow to answer, and no command runs yet.
            raise KeyboardInterrupt

    def wake(self) -> None:
        """Make ``wait`` return now; from any thread."""
        with contextlib.suppress(OSError):
            os.write(self._writer, b"\0")

    def wait(self, timeout_s: float) -> list[int]:
        """Wait for signals, a ``wake`` or the time; the signals since the last call."""
        if not self._noted:
            select.select([self._reader], [], [], max(0.0, timeout_s))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass
        noted = []
        while self._noted:
            noted.append(self._noted.popleft())
        return noted

    def drop(self, number: int) -> None:
        """Forget a signal that was noted."""
        for _ in range(self._noted.count(number)):
            self._noted.remove(number)

    def asked_to_end(self) -> int | None:
        """The first signal so far that asks to go, or None; nothing is taken out."""
        return next((number for number in tuple(self._noted) if number in ENDING), None)
