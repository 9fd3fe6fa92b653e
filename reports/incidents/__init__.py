"""Incident bundles: one file with a window of a ledger that checks itself on a bare Python.

:func:`reports.incidents.writing.export` makes one, :func:`open_bundle` checks and opens one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.incidents.reading import Bundle as Bundle
    from reports.incidents.reading import open_bundle as open_bundle
    from reports.incidents.writing import export as export


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: inside a bundle only the check is there."""
    if name in ("Bundle", "open_bundle"):
        from reports.incidents import reading

        return getattr(reading, name)
    if name == "export":
        from reports.incidents.writing import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
