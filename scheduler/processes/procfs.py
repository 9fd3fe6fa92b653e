"""What the system tells about single processes: the kernel's ``/proc``, and psutil elsewhere.

Times of processors are nanoseconds, memory is bytes. A start time is in clock ticks since boot
on Linux (field 22 of ``/proc/PID/stat``) and in hundredths of a second since 1970 elsewhere.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any, Final

LINUX: Final[bool] = sys.platform.startswith("linux")
"""Whether ``/proc`` is to be read; psutil is asked elsewhere."""

PROC: Final = "/proc"

_TICK_NS: Final = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, slots=True)
class ProcStat:
    """One process at one moment.

    ``own_cpu_ns`` is what its threads used, ``children_cpu_ns`` what the children used that have
    exited and that it has waited for (with theirs in turn). ``session`` is 0 where unknown.
    """

    pid: int
    ppid: int
    start_time: int
    state: str
    threads: int
    session: int
    own_cpu_ns: int
    children_cpu_ns: int

    @property
    def key(self) -> tuple[int, int]:
        """Pid and start time, which together are not recycled while the machine is up."""
        return (self.pid, self.start_time)

    @property
    def ended(self) -> bool:
        """Whether it runs no more: dead, or a zombie whose last thread is gone.

        A leader that called ``pthread_exit`` shows as a zombie too while its other threads run
        on; the count of threads tells the two apart.
        """
        return self.state in ("X", "x") or (self.state == "Z" and self.threads <= 1)


def parse_stat(raw: bytes) -> ProcStat:
    """Read one line of ``/proc/PID/stat`` (proc(5)). Raises ValueError for anything else.

    The name in parentheses may itself hold spaces and parentheses, so fields count from the last
    closing one.
    """
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        raise ValueError("not a line of /proc/PID/stat")
    return ProcStat(
        pid=int(head.partition(b" ")[0]),
        state=fields[0].decode("ascii"),
        ppid=int(fields[1]),
        session=int(fields[3]),
        own_cpu_ns=(int(fields[11]) + int(fields[12])) * _TICK_NS,
        children_cpu_ns=max(0, int(fields[13]) + int(fields[14])) * _TICK_NS,
        threads=int(fields[17]),
        start_time=int(fields[19]),
    )


def read_stat(pid: int) -> ProcStat | None:
    """One process, or None when ``/proc`` does not show it. Raises PermissionError if hidden."""
    if not LINUX:
        return stat_by_psutil(pid)
    return _read_stat(str(pid))


def read_own_stat() -> ProcStat:
    """This process, whichever pid namespace ``/proc`` belongs to. Raises ProcessLookupError."""
    stat = _read_stat("self") if LINUX else stat_by_psutil(os.getpid())
    if stat is None:
        raise ProcessLookupError("this process cannot see itself: mount /proc")
    return stat


def _read_stat(name: str) -> ProcStat | None:
    try:
        with open(f"{PROC}/{name}/stat", "rb", buffering=0) as file:
            raw = file.read(4096)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return None
    return parse_stat(raw) if raw else None


def scan() -> dict[int, ProcStat]:
    """All processes that can be seen, by pid; those that hide or vanish meanwhile are left out."""
    if not LINUX:
        return scan_by_psutil()
    found: dict[int, ProcStat] = {}
    for name in os.listdir(PROC):
        if name.isdigit():
            try:
                stat = _read_stat(name)
            except PermissionError:
                continue
            if stat is not None:
                found[stat.pid] = stat
    return found


def proc_shows_our_namespace() -> bool:
    """Whether pids in ``/proc`` mean what they mean to us.

    ``/proc`` may be missing, or still be mounted from the pid namespace this process was started
    from; then nothing may be concluded from a pid that is not there.
    """
    if not LINUX:
        return True
    try:
        return os.readlink(f"{PROC}/self") == str(os.getpid())
    except OSError:
        return False


def exists(pid: int) -> bool:
    """Whether the kernel knows ``pid``, also where ``/proc`` hides other users' processes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def memory(pid: int, *, want_pss: bool = True) -> tuple[int | None, int]:
    """(PSS or None, RSS) of one process in bytes; (0, 0) when it is gone.

    PSS (``/proc/PID/smaps_rollup``) shares a page's size among those that map it, so it can be
    added up over a tree. RSS counts shared pages once in every process. PSS is None where it may
    not be read: another user's process, an old kernel, another system.
    """
    if not LINUX:
        return _memory_by_psutil(pid)
    try:
        with open(f"{PROC}/{pid}/statm", "rb", buffering=0) as file:
            rss = int(file.read(256).split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return (0, 0)
    return (_pss(pid) if want_pss and rss else (0 if not rss else None), rss)


def _pss(pid: int) -> int | None:
    try:
        with open(f"{PROC}/{pid}/smaps_rollup", "rb", buffering=0) as file:
            raw = file.read(8192)
    except ProcessLookupError:
        return 0
    except OSError:
        # Forbidden, or the kernel has no such file; a process that has just ended uses nothing.
        return None if os.path.exists(f"{PROC}/{pid}") else 0
    for line in raw.splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None


def psutil_module() -> Any:
    """psutil, imported only now: it costs more than a hook's whole start-up."""
    return importlib.import_module("psutil")


def stat_by_psutil(pid: int) -> ProcStat | None:
    """One process by psutil, for systems without ``/proc``. Raises PermissionError if hidden."""
    psutil = psutil_module()
    try:
        return _stat_of(psutil, psutil.Process(pid))
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        raise PermissionError(f"process {pid} may not be looked at") from None


def scan_by_psutil() -> dict[int, ProcStat]:
    """All processes that psutil may look at, by pid."""
    psutil = psutil_module()
    found: dict[int, ProcStat] = {}
    for process in psutil.process_iter():
        try:
            found[process.pid] = _stat_of(psutil, process)
        except psutil.Error:
            continue
    return found


def _stat_of(psutil: Any, process: Any) -> ProcStat:
    with process.oneshot():
        zombie = process.status() == psutil.STATUS_ZOMBIE
        times = process.cpu_times()
        return ProcStat(
            pid=process.pid,
            ppid=process.ppid(),
            start_time=round(process.create_time() * 100),
            state="Z" if zombie else "S",
            threads=0 if zombie else 1,
            session=0,
            own_cpu_ns=round((times.user + times.system) * 1e9),
            children_cpu_ns=round(
                (getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0))
                * 1e9
            ),
        )


def _memory_by_psutil(pid: int) -> tuple[int | None, int]:
    psutil = psutil_module()
    try:
        return (None, int(psutil.Process(pid).memory_info().rss))
    except psutil.NoSuchProcess:
        return (0, 0)
    except psutil.AccessDenied:
        return (None, 0)
