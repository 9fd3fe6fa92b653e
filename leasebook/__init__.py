"""Leasebook: an event-sourced allocation ledger for fleets that share limited resources.

``leasebook.open(where)`` gives a :class:`ResourceManager`; ``await leasebook.aopen(where)`` the same
for asyncio. Everything else here is what they take, give and raise. Names are loaded when they are
first used, so that importing this costs next to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from leasebook.aio import AsyncResourceManager
    from leasebook.manager import ResourceManager
    from leasebook.values import (
        AllocationHandle,
        AllocationRequest,
        AllocationResult,
        BatchResult,
        MemoryRequest,
        MetricsSnapshot,
        MonitoringFilters,
        ReleaseResult,
    )
    from ledger.errors import (
        InvalidInput,
        LeasebookError,
        LedgerCorrupt,
        LedgerReadOnly,
        LedgerUnavailable,
        LimitExceeded,
        NotALedger,
        Reason,
        Refused,
    )

_HOMES = {
    "leasebook.manager": ("ResourceManager",),
    "leasebook.aio": ("AsyncResourceManager",),
    "leasebook.values": (
        "AllocationHandle",
        "AllocationRequest",
        "AllocationResult",
        "BatchResult",
        "MemoryRequest",
        "MetricsSnapshot",
        "MonitoringFilters",
        "ReleaseResult",
    ),
    "ledger.errors": (
        "InvalidInput",
        "LeasebookError",
        "LedgerCorrupt",
        "LedgerReadOnly",
        "LedgerUnavailable",
        "LimitExceeded",
        "NotALedger",
        "Reason",
        "Refused",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AllocationHandle",
    "AllocationRequest",
    "AllocationResult",
    "AsyncResourceManager",
    "BatchResult",
    "InvalidInput",
    "LeasebookError",
    "LedgerCorrupt",
    "LedgerReadOnly",
    "LedgerUnavailable",
    "LimitExceeded",
    "MemoryRequest",
    "MetricsSnapshot",
    "MonitoringFilters",
    "NotALedger",
    "Reason",
    "Refused",
    "ReleaseResult",
    "ResourceManager",
    "__version__",
    "aopen",
    "open",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'leasebook' has no attribute {name!r}")
    from importlib import import_module

    from leasebook.guard import check_packages

    check_packages()
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def open(where: str | Path | None = None, **options: Any) -> ResourceManager:
    """Open a ledger for use from threads, and make it if it is not there.

    ``where`` is a path, or ``":memory:"``; None: as ``$LEASEBOOK_LEDGER``, ``leasebook.toml`` or the
    user's own. Options: ``create`` (True), ``read_only`` (False). Raises NotALedger,
    LedgerUnavailable, LedgerCorrupt, InvalidInput.
    """
    from leasebook.guard import check_packages

    check_packages()
    from leasebook.manager import Ledger, ResourceManager

    return ResourceManager(Ledger.open(where, **options))


async def aopen(where: str | Path | None = None, **options: Any) -> AsyncResourceManager:
    """As :func:`open`, for asyncio."""
    from leasebook.guard import check_packages

    check_packages()
    from leasebook.aio import AsyncResourceManager

    return await AsyncResourceManager.open(where, **options)
