"""Making a process's identity: who a pid is, on which machine, boot and pid namespace.

On Linux this reads four small files and imports nothing heavy, because every hook calls it.
"""

from __future__ import annotations

import functools
import os
from typing import Final

from ledger.identity import ProcessIdentity
from scheduler.processes import procfs

_NAMES_OF_NOBODY: Final = frozenset({"", "(none)", "localhost", "localhost.localdomain"})


def identify(pid: int | None = None) -> ProcessIdentity:
    """The identity of process ``pid``, or of this process.

    ``pid_namespace`` is the namespace in which ``pid`` is that number, which is this process's
    own: a container's process that the host names by the host's pid can be judged by the host.
    Raises ProcessLookupError when there is no such process or it is hidden from us.
    """
    own = pid is None or pid == os.getpid()
    stat = procfs.read_own_stat() if own else _other(pid if pid is not None else 0)
    return of_stat(stat, pid=os.getpid() if own else stat.pid)


def of_stat(stat: procfs.ProcStat, *, pid: int | None = None) -> ProcessIdentity:
    """The identity of a process of this machine that has just been read."""
    return ProcessIdentity(
        host=this_host(),
        pid=stat.pid if pid is None else pid,
        start_time=stat.start_time,
        boot_id=boot_id(),
        pid_namespace=pid_namespace(),
    )


def _other(pid: int) -> procfs.ProcStat:
    if pid <= 0:
        raise ProcessLookupError(f"{pid} is no process: a pid is 1 or more")
    if not procfs.proc_shows_our_namespace():
        raise ProcessLookupError(
            f"process {pid} cannot be looked up: /proc is not that of this pid namespace"
        )
    try:
        stat = procfs.read_stat(pid)
    except PermissionError:
        raise ProcessLookupError(
            f"process {pid} is hidden from this user: run as its owner or as root"
        ) from None
    if stat is None:
        raise ProcessLookupError(f"there is no process {pid} (or it is hidden from this user)")
    return stat


def this_host() -> str:
    """This machine's name, and after a ``#`` eight digits that stand for its machine id.

    A name alone does not tell machines apart: fleets of virtual machines are all called ``vm``.
    The machine id is confidential (machine-id(5)), so a digest keyed with our name stands for
    it. Where the system has none, the name stands alone.
    """
    mark = _machine_mark()
    name = os.uname().nodename
    return f"{name}#{mark}" if mark else name


def names_one_machine(host: str) -> bool:
    """Whether a host's text can stand for one machine; ``localhost`` cannot."""
    return host not in _NAMES_OF_NOBODY


def _machine_mark() -> str:
    machine_id = _constant("/etc/machine-id")
    return _digest(machine_id) if machine_id else ""


@functools.lru_cache(maxsize=1)
def _digest(machine_id: str) -> str:
    import hashlib

    return hashlib.blake2b(
        machine_id.encode(), key=b"leasebook", digest_size=4, usedforsecurity=False
    ).hexdigest()


def boot_id() -> str:
    """The kernel's random id of this boot; empty where the system has none.

    Elsewhere than on Linux start times are dates, which tell boots apart by themselves.
    """
    return _constant("/proc/sys/kernel/random/boot_id")


def pid_namespace() -> str:
    """The inode of this process's pid namespace as text; empty where there is none."""
    try:
        link = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return link.partition("[")[2].rstrip("]")


_constants: dict[str, str] = {}


def _constant(path: str) -> str:
    """The first line of a file that stays the same while we run; empty where it is not there.

    A failure is not remembered: a process that is out of descriptors now is not later.
    """
    if path not in _constants:
        try:
            with open(path, encoding="ascii") as file:
                line = file.readline().strip()
        except (OSError, UnicodeDecodeError):
            return ""
        _constants[path] = line
    return _constants[path]
