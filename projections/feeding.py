"""Feeding: rows of the log pass through a set of projections, which stop one by one where they fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import orjson

from ledger.errors import LeasebookError
from ledger.events import AnyBody
from ledger.forks import no_fork
from ledger.log import Row
from ledger.sqlite_driver import DRIVER_ERRORS, sqlite3
from projections.tables import PROJECTIONS
from projections.tables.base import Handler, Projection, Seen

KNOWN = {cls.TYPE: cls.SCHEMA for cls in get_args(AnyBody)}
"""Event type → the newest schema of it that is understood here."""

LIVES = "allocations"
_PASSED_ON = (LeasebookError, *DRIVER_ERRORS, OSError, MemoryError)
"""What is no fault of a projection: it stays where it is, and the caller hears of it."""


class Stopped(Exception):
    """Some projections cannot go on: ``names``, at which event (None: not known), and why."""

    def __init__(self, names: Sequence[str], position: int | None, why: str) -> None:
        super().__init__(why)
        self.names = tuple(names)
        self.position = position
        self.why = why


def with_lives(names: Iterable[str]) -> list[str]:
    """These projections and what they stand on, in the order in which they are fed."""
    wanted = set(names)
    if any(PROJECTIONS[name].follows_lives for name in wanted):
        wanted.add(LIVES)
    return [name for name in PROJECTIONS if name in wanted]


class Feed:
    """Projections that stand at one position of the log, on the tables of one suffix.

    ``state`` is (position, hash) of the last event they hold, as far as it was flushed and committed;
    None while nothing at hand can be trusted.
    """

    def __init__(self, names: Iterable[str], reader: sqlite3.Connection, suffix: str = "") -> None:
        self.suffix = suffix
        self.state: tuple[int, bytes] | None = None
        self.projections: dict[str, Projection] = {}
        for name in PROJECTIONS:
            if name in set(names):
                self.projections[name] = PROJECTIONS[name]()
                self.projections[name].bind(reader, suffix)
        self._by_type: dict[str, list[tuple[str, Handler]]] = {}
        self._route()

    def _route(self) -> None:
        routes: dict[str, list[tuple[str, Handler]]] = {type_: [] for type_ in KNOWN}
        for name, projection in self.projections.items():
            for type_, handler in projection.handlers().items():
                routes[type_].append((name, handler))
        self._by_type = routes

    def drop(self, names: Iterable[str]) -> None:
        """Feed these no more."""
        for name in names:
            self.projections.pop(name, None)
        self._route()
        self.forget()

    def forget(self) -> None:
        """Let go of everything that is at hand."""
        self.state = None
        for projection in self.projections.values():
            projection.forget()

    def take(self, rows: Sequence[Row]) -> None:
        """Pass rows through, in order. Raises Stopped; what is at hand is worthless then."""
        with no_fork():
            self._take(rows)

    def _take(self, rows: Sequence[Row]) -> None:
        by_type, known, loads = self._by_type, KNOWN, orjson.loads
        e = Seen()
        nothing: list[Any] = []
        name = ""
        position = None
        try:
            for row in rows:
                # fmt: off
                (position, e.at, e.recorded_at, type_, schema, e.tenant, e.pool, e.allocation,
                 e.holder, e.task, _, text, _, _, _) = row
                # fmt: on
                name = ""
                handlers = by_type.get(type_)
                if handlers is None or schema > known[type_]:
                    raise _unknown(self.projections, type_, schema, position)
                if not handlers:
                    continue
                e.position, e.type, e.data = position, type_, loads(text)
                e.life = e.was = e.let_go = e.taken = e.ended = None
                e.opened = e.closed = e.removed = e.shifted = nothing
                for name, handle in handlers:  # noqa: B007 - it names who failed, below
                    handle(e)
        except (Stopped, *_PASSED_ON):
            raise
        except Exception as error:
            raise Stopped(self._dependents(name), position, _told(error)) from error

    def _dependents(self, name: str) -> list[str]:
        """What stops with a projection: what stands on it; all, where the event itself is bad."""
        if name == "":
            return list(self.projections)
        if name != LIVES:
            return [name]
        return [n for n, p in self.projections.items() if p.follows_lives]

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what has changed, inside the caller's transaction. Raises Stopped."""
        for name, projection in self.projections.items():
            try:
                projection.flush(connection)
            except _PASSED_ON:
                raise
            except Exception as error:
                raise Stopped(self._dependents(name), None, _told(error)) from error

    def clean(self, state: tuple[int, bytes]) -> None:
        """What was flushed is committed: the tables stand at ``state`` now."""
        self.state = state
        for projection in self.projections.values():
            projection.clean()


def _unknown(names: Iterable[str], type_: str, schema: int, position: int) -> Stopped:
    why = f"event {position} is {type_!r} (schema {schema}), which this program does not know"
    return Stopped(list(names), position, why)


def _told(error: Exception) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
