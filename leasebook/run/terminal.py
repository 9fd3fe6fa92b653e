"""The terminal: a command that a person uses has to be usable, and stoppable with Ctrl-Z.

Three situations. *detached*: there is no terminal; the command gets a process group of its own, and
every signal is forwarded to that once. *foreground*: a shell started us as a job of our own on the
terminal; the command's group becomes the terminal's foreground group, and ours takes the terminal
back whenever the command stops or ends. *shared*: we are a part of something else on a terminal (a
pipeline, a script, a background job). A group of its own would take the command away from that
one's Ctrl-C and Ctrl-Z, so it stays in ours, and what the terminal sends (INT, QUIT, WINCH) reaches
it without us.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from typing import Any, Final, Literal

Mode = Literal["detached", "foreground", "shared"]
ECHO_S: Final = 0.2
"""Within so long a second SIGCONT is the one that has continued us."""

_FROM_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH})
_FOR_ALL: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""Signals for the command's whole group: a shell in between does not hand TERM on. The others go
to the command alone, because a program that does not expect USR1 dies of it."""


class Terminal:
    """This process's terminal, if it has one, and how the command stands to it."""

    def __init__(self) -> None:
        self.fd: int | None = None
        self.mode: Mode = "detached"
        self._settings: Any = None
        self._old_ttou: Any = None
        self._went_on = -math.inf
        with contextlib.suppress(OSError):
            self.fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if self.fd is None:
            return
        self.mode = "foreground" if self._is_ours() else "shared"
        if self.mode == "foreground":
            import termios

            with contextlib.suppress(termios.error):
                self._settings = termios.tcgetattr(self.fd)
            # Writing to the terminal, or taking it back, must not stop us when it is not ours.
            self._old_ttou = signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def _is_ours(self) -> bool:
        group = os.getpgrp()
        if group != os.getpid() or not (os.isatty(0) and os.isatty(1)):
            return False
        return self._foreground() == group

    def _foreground(self) -> int | None:
        try:
            return None if self.fd is None else os.tcgetpgrp(self.fd)
        except OSError:
            return None

    @property
    def own_group(self) -> bool:
        """Whether the command gets a process group of its own."""
        return self.mode != "shared"

    def _hand_to(self, group: int) -> None:
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self.fd, group)

    def give(self, pid: int) -> None:
        """Make the command's group the terminal's, if the terminal is ours to give."""
        if self.mode == "foreground" and self._foreground() == os.getpgrp():
            self._hand_to(pid)

    def take_for(self, group: int) -> None:  # pragma: no cover - between fork and exec
        """In the child, before it is the command: take the terminal, then mind SIGTTOU again."""
        self._hand_to(group)
        if self._old_ttou is not None:
            signal.signal(signal.SIGTTOU, self._old_ttou)

    def forward(self, pid: int, number: int) -> None:
        """Send a signal that we got on to the command."""
        if number == signal.SIGCONT:
            self.give(pid)
            if time.monotonic() - self._went_on < ECHO_S:
                # What continued us was handed on already; another thread may hear of it late, and then
                # it would undo a Ctrl-Z that has come since.
                return
        if self.mode == "shared":
            if number not in _FROM_TERMINAL and number != signal.SIGCONT:
                _send(os.kill, pid, number)
        elif number in _FOR_ALL or number == signal.SIGCONT:
            _send(os.killpg, pid, number)
        else:
            _send(os.kill, pid, number)

    def stopped(self, pid: int) -> bool:
        """The command has stopped: stop too, as the job that our shell knows, then go on with it.

        False where that is not ours to do: whoever stopped the command continues it. Where nobody
        could continue us (no shell, an orphaned group) the kernel does not let us stop, and the
        command goes on at once.
        """
        if self.mode != "foreground":
            return False
        self._hand_to(os.getpgrp())
        signal.raise_signal(signal.SIGTSTP)
        self.give(pid)
        _send(os.killpg, pid, signal.SIGCONT)
        self._went_on = time.monotonic()
        return True

    def restore(self, *, broken: bool) -> None:
        """Take the terminal back; with ``broken`` (the command was killed) its settings too."""
        if self.mode == "foreground":
            self._hand_to(os.getpgrp())
            if broken and self._settings is not None and self.fd is not None:
                import termios

                with contextlib.suppress(termios.error):
                    termios.tcsetattr(self.fd, termios.TCSADRAIN, self._settings)
            if self._old_ttou is not None:
                signal.signal(signal.SIGTTOU, self._old_ttou)
                self._old_ttou = None
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


def _send(how: Any, target: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        how(target, number)
