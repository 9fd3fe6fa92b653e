"""Which process holds: the identity that tells a live process from a recycled pid."""

from __future__ import annotations

from ledger.quick import dataclass


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process as it can be told apart for ever.

    A pid alone is recycled; (host, boot_id, pid_namespace, pid, start_time) never is.
    ``start_time`` is the kernel's start time in clock ticks since boot (field 22 of
    ``/proc/PID/stat``); 0 where the system does not tell. ``pid_namespace`` is the inode of
    ``/proc/PID/ns/pid`` as text, empty where there is none.
    """

    host: str
    pid: int
    start_time: int
    boot_id: str
    pid_namespace: str
