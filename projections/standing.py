"""Where projections stand, as values that the engine answers with."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.errors import InvalidInput
from ledger.quick import dataclass
from projections.tables import PROJECTIONS
from projections.views_file import Mark


@dataclass(frozen=True, slots=True)
class Progress:
    """What a catch-up came to: the position that is reached, how many events that took, and what was
    made anew or stands still.

    ``position`` is the lowest one of all that go on; ``head`` the log's own.
    """

    position: int
    head: int
    events: int
    rebuilt: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """One projection: where it stands, beside the log's ``head``, and whether it goes on.

    ``state``: ``live``, ``rebuilding``, ``failed``, or ``absent`` before its first catch-up. ``error``
    is why it failed, at ``failed_position``; ``note`` why it was made anew the last time.
    """

    name: str
    version: int
    position: int
    head: int
    state: str
    error: str | None
    failed_position: int | None
    updated_at: int | None
    note: str | None
    tables: tuple[str, ...]

    @property
    def behind(self) -> int:
        """How many events it has still to take."""
        return max(0, self.head - self.position)


def known_names(names: Iterable[str] | None) -> tuple[str, ...]:
    """The names of projections, all where none are given. Raises InvalidInput for an unknown one."""
    wanted = tuple(PROJECTIONS if names is None else names)
    for name in wanted:
        if name not in PROJECTIONS:
            raise InvalidInput(
                f"there is no projection {name[:40]!r}", f"it is one of {', '.join(PROJECTIONS)}"
            )
    return wanted or tuple(PROJECTIONS)


def status_of(name: str, mark: Mark | None, head: int, gone: list[str]) -> Status:
    """A projection\'s status from its mark; ``gone`` are its tables and views that are not there."""
    cls = PROJECTIONS[name]
    tables = tuple(table.name for table in cls.tables) + tuple(cls.views)
    if mark is None:
        return Status(name, cls.version, 0, head, "absent", None, None, None, None, tables)
    state, note = mark.state, mark.note
    if mark.state == "live" and gone:
        state, note = (
            "rebuilding",
            f"{', '.join(gone)} was dropped: the next catch-up makes it anew",
        )
    elif mark.state == "live" and mark.version != cls.version:
        state, note = "rebuilding", "its version changed: the next catch-up makes it anew"
    return Status(
        name,
        mark.version,
        mark.position,
        head,
        state,
        mark.error,
        mark.failed_position,
        mark.updated_at,
        note,
        tables,
    )
