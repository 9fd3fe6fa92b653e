"""A file that should stay where it is: whether the one at its path is still the same.

Asked around every commit, so it is not asked with ``stat``. Linux from 6.13 on keeps coarse times for a
file until somebody looks at them; each look makes the next write give the file a new time, which the
next sync has to write down as well. On the machine of ``docs/benchmarks.md`` a commit took 100 µs more.
The name that the system has for an open file tells as much, and costs nothing.
"""

from __future__ import annotations

import os

_O_PATH: int | None = getattr(os, "O_PATH", None)


class HeldFile:
    """One file by an open descriptor that reads and locks nothing; closing it drops no lock either."""

    __slots__ = ("_fd", "_identity", "_link", "_name", "path")

    def __init__(self, path: str) -> None:
        """Raises OSError where there is no such file."""
        self.path = path
        self._fd = -1
        self._name = ""
        self._identity = (0, 0)
        if _O_PATH is not None:
            self._fd = os.open(path, _O_PATH | os.O_CLOEXEC)
            self._link = f"/proc/self/fd/{self._fd}"
            self._name = _name_of(self._link)
        if not self._name:
            found = os.stat(path)
            self._identity = (found.st_dev, found.st_ino)

    def is_in_place(self) -> bool:
        """Whether it has neither been removed nor renamed, nor its folder."""
        if self._name:
            return _name_of(self._link) == self._name
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
        fd, self._fd, self._name = self._fd, -1, ""
        if fd >= 0:
            os.close(fd)


def _name_of(link: str) -> str:
    """What the system calls an open file; of one that was removed, another name. Empty without /proc."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def held(path: str) -> HeldFile | None:
    """The file at a path, or None where there is none."""
    try:
        return HeldFile(path)
    except OSError:
        return None
