"""Audit: a trail through the log that somebody who was not there can follow.

:func:`audit` collects it; :func:`trail_text`, :func:`trail_document` and :func:`trail_csv` show it.
As CloudEvents it is written by :mod:`reports.exporting.cloudevents`.
"""

from __future__ import annotations

from reports.audit.entries import EVENTS_MAX, Asked, Entry, Link, Rests, Trail
from reports.audit.telling import trail_text
from reports.audit.trail import audit
from reports.audit.writing import trail_csv, trail_document

__all__ = [
    "EVENTS_MAX",
    "Asked",
    "Entry",
    "Link",
    "Rests",
    "Trail",
    "audit",
    "trail_csv",
    "trail_document",
    "trail_text",
]
