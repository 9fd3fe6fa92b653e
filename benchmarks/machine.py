"""The machine on which a benchmark ran: what one has to know to read its figures."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ledger.sqlite_driver import SQLITE_VERSION, sqlite3


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on, from the longest mount point above it."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, mount, found = line.split()[:3]
        if folder.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def describe(folder: Path) -> dict[str, str]:
    """CPU, cores, memory, kernel, Python, SQLite, and the file system under ``folder``."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    virtual = "hypervisor" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return {
        "CPU": _cpu() + (" (virtual machine)" if virtual else ""),
        "Cores": str(len(os.sched_getaffinity(0))),
        "Memory": f"{pages / 2**30:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": f"{SQLITE_VERSION} ({sqlite3.__name__.split('.')[0]})",
        "File system": _file_system(folder.resolve()),
    }
