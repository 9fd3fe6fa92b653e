"""Waking waiters in other processes: a datagram socket each, in ``NAME.wake/`` beside the ledger.

A commit that others may be waiting for sends one empty datagram to every socket there. A lost one
costs a waiter no more than its own next look, so nothing here is ever an error.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Imported where it is used: most processes neither ring nor listen, and should start fast.
    import socket

_DATAGRAM = b"!"


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[str]:
    """A name for a directory that is short enough for a socket's address (108 bytes)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{descriptor}"
        yield short if os.path.isdir(short) else str(directory)
    finally:
        os.close(descriptor)


class Bell:
    """Rings for others, and listens for their ringing once somebody here waits."""

    def __init__(self, ledger: Path) -> None:
        self.directory = ledger.with_name(ledger.name + ".wake")
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self._pid = os.getpid()

    def _leave_the_parents(self) -> None:
        """In a forked child: the socket is the parent's, and so is the thread that listened."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._lock = threading.Lock()
        if self._socket is not None:
            # Only this process's descriptor: to shut it down would deafen the parent.
            self._socket.close()
        self._socket = self._path = None

    def ring(self) -> None:
        """Wake every other process that listens on this ledger."""
        self._leave_the_parents()
        try:
            names = os.listdir(self.directory)
        except OSError:
            return
        if not names:
            return
        import socket

        own = None if self._path is None else self._path.name
        with (
            contextlib.suppress(OSError),
            _short(self.directory) as short,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            for name in names:
                if name != own:
                    self._send(sender, short, name)

    def _send(self, sender: socket.socket, short: str, name: str) -> None:
        try:
            sender.sendto(_DATAGRAM, f"{short}/{name}")
        except ConnectionRefusedError:
            # Its process is gone and left the socket behind.
            with contextlib.suppress(OSError):
                (self.directory / name).unlink()
        except OSError:
            pass

    def listen(self, rung: Callable[[], None]) -> None:
        """Call ``rung`` in a thread of its own whenever another process rings. Once is enough."""
        self._leave_the_parents()
        with self._lock:
            if self._socket is not None:
                return
            import socket

            with contextlib.suppress(OSError):
                self.directory.mkdir(mode=0o700, exist_ok=True)
                receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                name = f"{self._pid}-{os.urandom(4).hex()}"
                with _short(self.directory) as short:
                    receiver.bind(f"{short}/{name}")
                self._socket, self._path = receiver, self.directory / name
                # An interrupt inside Thread.start would leave the new thread stuck for ever.
                _thread.start_new_thread(self._run, (receiver, rung))

    def _run(self, receiver: socket.socket, rung: Callable[[], None]) -> None:
        while True:
            try:
                if not receiver.recv(16):
                    return
            except OSError:
                return
            with contextlib.suppress(Exception):
                rung()

    def close(self) -> None:
        """Stop listening and take the socket away."""
        self._leave_the_parents()
        with self._lock:
            receiver, path = self._socket, self._path
            self._socket = self._path = None
        if receiver is not None:
            import socket

            with contextlib.suppress(OSError):
                receiver.shutdown(socket.SHUT_RDWR)
            receiver.close()
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()
