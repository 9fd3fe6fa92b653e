"""Leasebook: an event-sourced allocation ledger for fleets that share limited resources.

``leasebook.open(where)`` gives a :class:`ResourceManager`; ``await leasebook.aopen(where)``, or
``async with leasebook.aopen(where) as book``, the same for asyncio. Everything else here is what they
take, give and raise. Names are loaded when they are first used, so that importing this costs next to
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from collections.abc import Generator

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


class _Opening:
    """A ledger that is about to be opened: await it, or enter it with ``async with``."""

    def __init__(self, where: str | Path | None, options: dict[str, Any]) -> None:
        self._where = where
        self._options = options
        self._opened: AsyncResourceManager | None = None

    def __await__(self) -> Generator[Any, None, AsyncResourceManager]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncResourceManager:
        self._opened = await self._open()
        return await self._opened.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(*error)

    async def _open(self) -> AsyncResourceManager:
        from leasebook.guard import check_packages

        check_packages()
        from leasebook.aio import AsyncResourceManager

        return await AsyncResourceManager.open(self._where, **self._options)


def aopen(where: str | Path | None = None, **options: Any) -> _Opening:
    """As :func:`open`, for asyncio: ``await aopen(…)``, or ``async with aopen(…) as book``."""
    return _Opening(where, options)
