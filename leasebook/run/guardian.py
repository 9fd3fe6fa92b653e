"""The guardian: a small process that ends the command when this one is killed without a word.

``kill -9`` of a run leaves nobody to stop the command: its allocation would be taken back as
crashed while the command ran on, unrecorded. The kernel's parent-death signal reaches only the
first process of it, and not what a shell or a build started. So before anything else is started,
and while this process has no threads yet, it forks a guardian that waits at a pipe. As long as the
pipe is open it does nothing; when it closes without a farewell, the guardian ends the command's
process tree and control group: TERM, a moment, KILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from ledger.identity import ProcessIdentity

GRACE_S: Final = 1.0
"""Between TERM and KILL. The capacity is being handed on meanwhile, so it is short."""

_FAREWELL: Final = "farewell"
_LINE_MAX: Final = 65_536


class Guardian:
    """One guardian process; ``pid`` is its."""

    def __init__(self, pid: int, fd: int) -> None:
        """Use :meth:`start`."""
        self.pid = pid
        self._fd = fd

    @classmethod
    def start(cls) -> Guardian | None:
        """Fork a guardian; None where the system lets us have no more processes."""
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            return None
        if pid == 0:
            _guard(reader)
        os.close(reader)
        return cls(pid, writer)

    def watch(self, root: ProcessIdentity, groups: Iterable[Path]) -> None:
        """Say whom to end: a process with all that it started, and who is in these groups."""
        self._tell(
            {
                "host": root.host,
                "pid": root.pid,
                "start_time": root.start_time,
                "boot_id": root.boot_id,
                "pid_namespace": root.pid_namespace,
                "groups": [str(group) for group in groups],
            }
        )

    def _tell(self, what: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, json.dumps(what).encode() + b"\n")

    def dismiss(self) -> None:
        """Say farewell and wait until it is gone; twice is fine."""
        if self._fd < 0:
            return
        self._tell(_FAREWELL)
        os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _guard(reader: int) -> NoReturn:
    """The guardian's whole life, in the forked child."""
    code = 0
    try:
        _withdraw(reader)
        _serve(reader)
    except BaseException:
        code = 1
    finally:
        os._exit(code)


def _withdraw(reader: int) -> None:
    """Leave the terminal, the caller's pipes and everybody's signals alone."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    top = os.sysconf("SC_OPEN_MAX")
    highest = max((int(name) for name in _open_descriptors()), default=min(top, 4096))
    os.closerange(3, reader)
    os.closerange(reader + 1, highest + 1)


def _open_descriptors() -> list[str]:
    try:
        return os.listdir("/dev/fd")
    except OSError:
        return []


def _serve(reader: int) -> None:
    said = b""
    while chunk := os.read(reader, _LINE_MAX):
        said = (said + chunk)[-_LINE_MAX:]
    lines = [json.loads(line) for line in said.splitlines() if line]
    if lines and lines[-1] != _FAREWELL:
        _end(lines[-1])


def _end(command: dict[str, Any]) -> None:
    from scheduler.processes.enclosure import Enclosure
    from scheduler.processes.ending import end_tree

    groups = {path: Path(path) for path in command.pop("groups")}
    enclosure = Enclosure(1, groups)
    end_tree([ProcessIdentity(**command)], GRACE_S, members=enclosure.pids)
    enclosure.kill()
    enclosure.remove()
