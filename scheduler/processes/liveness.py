"""Whether a process lives, judged only from where that can be seen, with the evidence.

``observe`` looks once, ``watch`` waits for the end. Death is never concluded from another host
or another pid namespace: there the answer is UNKNOWN, and heartbeats decide.
"""

from __future__ import annotations

import enum
import os
import select
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from ledger.errors import LeasebookError
from ledger.identity import ProcessIdentity
from scheduler.processes import identity as identities
from scheduler.processes import procfs

_POLL_S_MAX: Final = 0.05


class Liveness(enum.Enum):
    """What was seen of a process."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class NotObservable(LeasebookError):
    """The process cannot be seen from here, so it cannot be waited for."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at one process.

    ``how`` is what settled it: ``running``; ``gone``, ``reused`` (the pid is another process's),
    ``zombie``, ``boot_id`` (the machine has booted since); or, for UNKNOWN, ``host``,
    ``pid_namespace``, ``proc`` (``/proc`` is missing, unreadable or another namespace's),
    ``hidden``, ``start_time`` (none was recorded). ``at_ns`` is the wall clock's.
    """

    liveness: Liveness
    how: str
    at_ns: int
    detail: str
    identity: ProcessIdentity

    def evidence(self) -> dict[str, object]:
        """The observation as JSON-ready integers and text, fit for a hashed event."""
        return {
            "pid": self.identity.pid,
            "start_time": self.identity.start_time,
            "boot_id": self.identity.boot_id,
            "pid_namespace": self.identity.pid_namespace,
            "host": self.identity.host,
            "liveness": self.liveness.value,
            "how": self.how,
            "detail": self.detail,
            "observed_at": self.at_ns,
        }


def observe(identity: ProcessIdentity, *, at_ns: int | None = None) -> Observation:
    """Look at a process once. ``at_ns`` replaces the wall clock's time. Raises nothing.

    "The same host" is the same name and machine id. Machines cloned with both are one machine to
    this function; a door that takes identities from elsewhere has to know where they came from.
    """
    liveness, how, detail = _judge(identity)
    when = time.time_ns() if at_ns is None else at_ns
    return Observation(liveness, how, when, detail, identity)


def _judge(identity: ProcessIdentity) -> tuple[Liveness, str, str]:
    blind = _why_not_visible(identity)
    if blind is not None:
        return (Liveness.UNKNOWN, *blind)
    booted = identities.boot_id()
    if identity.boot_id and booted and identity.boot_id != booted:
        return (Liveness.DEAD, "boot_id", f"the machine has booted since, now {booted}")
    if not procfs.proc_shows_our_namespace():
        return (Liveness.UNKNOWN, "proc", "/proc is missing or is another pid namespace's")
    return _judge_here(identity)


def _why_not_visible(identity: ProcessIdentity) -> tuple[str, str] | None:
    here = identities.this_host()
    if identity.host != here:
        return ("host", f"seen from {here}, which is another host")
    if not identities.names_one_machine(here):
        return ("host", f"a host called {here!r} may be any machine: give this one a name")
    namespace = identities.pid_namespace()
    if identity.pid_namespace != namespace:
        return ("pid_namespace", f"seen from pid namespace {namespace or 'none'}")
    return None


def _judge_here(identity: ProcessIdentity) -> tuple[Liveness, str, str]:
    pid = identity.pid
    if pid <= 0:
        return (Liveness.UNKNOWN, "start_time", f"{pid} is no process's number")
    try:
        stat = procfs.read_stat(pid)
    except PermissionError:
        return (Liveness.UNKNOWN, "hidden", f"pid {pid} is hidden from this user")
    except OSError as error:
        return (Liveness.UNKNOWN, "proc", f"pid {pid} cannot be read: {error.strerror}")
    if stat is None:
        # A /proc mounted with hidepid=2 shows nothing of other users; the kernel still answers.
        if procfs.exists(pid):
            return (Liveness.UNKNOWN, "hidden", f"pid {pid} exists and is hidden from this user")
        return (Liveness.DEAD, "gone", f"pid {pid} is gone")
    if identity.start_time == 0:
        return (Liveness.UNKNOWN, "start_time", f"pid {pid} exists, its start was not recorded")
    if stat.start_time != identity.start_time:
        started = f"started at {stat.start_time}"
        return (Liveness.DEAD, "reused", f"pid {pid} is another process, {started}")
    if stat.ended:
        return (Liveness.DEAD, "zombie", f"pid {pid} has ended and holds nothing but its number")
    return (Liveness.ALIVE, "running", f"pid {pid} runs, state {stat.state}")


class ProcessWatch:
    """Waits for one process's end; use it as a context manager or ``close`` it.

    Holds a pidfd where the kernel has them (Linux 5.3), which stays with its process for ever,
    and looks again and again elsewhere.
    """

    def __init__(self, identity: ProcessIdentity) -> None:
        """Begin to watch. Raises NotObservable when the process cannot be seen from here."""
        self.identity = identity
        self._fd: int | None = None
        self._ended = False
        if self._look() is Liveness.ALIVE:
            self._open()
        if self._ended:
            self._fd = _always_readable()

    def _open(self) -> None:
        if not hasattr(os, "pidfd_open"):
            return
        try:
            self._fd = os.pidfd_open(self.identity.pid)
        except ProcessLookupError:
            self._ended = True
            return
        except OSError:
            # No such call (old kernel, sandbox) or no descriptor left: looking still works.
            return
        # The pid may have passed to another process before the descriptor was open. Since it is
        # open, the pid stays that process's, so one more look settles whose it is.
        try:
            self._look()
        except NotObservable:
            self.close()
            raise
        if self._ended:
            self.close()

    def _look(self) -> Liveness:
        seen = observe(self.identity)
        if seen.liveness is Liveness.UNKNOWN:
            raise NotObservable(
                f"process {self.identity.pid} cannot be watched from here: {seen.detail}",
                "judge it by heartbeats",
            )
        self._ended = self._ended or seen.liveness is Liveness.DEAD
        return seen.liveness

    def fileno(self) -> int:
        """A descriptor that is readable once the process has ended, for poll and event loops.

        Raises OSError where there are no pidfds, or after ``close``: use ``wait`` there.
        """
        if self._fd is None:
            raise OSError("this watch has no descriptor: use wait()")
        return self._fd

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process has ended, at most ``timeout_s`` seconds; True when it has."""
        if self._ended:
            return True
        if self._fd is None:
            self._ended = self._wait_by_looking(timeout_s)
        else:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            self._ended = bool(poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000))
        return self._ended

    def _wait_by_looking(self, timeout_s: float | None) -> bool:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = 0.002
        while self._look() is not Liveness.DEAD:
            left_s = pause_s if end is None else end - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, _POLL_S_MAX)
        return True

    def close(self) -> None:
        """Let the descriptor go; twice is fine."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> ProcessWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def watch(identity: ProcessIdentity) -> ProcessWatch:
    """Begin to wait for a process's end. Raises NotObservable when it cannot be seen from here."""
    return ProcessWatch(identity)


def _always_readable() -> int:
    """A descriptor that any poll reports at once: the end lies in the past."""
    reader, writer = os.pipe()
    os.write(writer, b"\0")
    os.close(writer)
    return reader
