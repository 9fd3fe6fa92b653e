"""The engine: brings the tables of ``NAME.views.db`` to the head of the log, and keeps them right.

One pass over the log's new rows feeds every projection. What they make of a chunk is worked out
beside the file and written in one short transaction together with the checkpoint, which names the
log's hash at its position. Two processes may do this at once: whoever finds that the checkpoint has
moved begins again from there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.errors import LedgerUnavailable
from ledger.garbage import uncollected
from ledger.log import GENESIS
from ledger.quick import replace
from ledger.sqlite_driver import connect, sqlite3
from ledger.sqlite_file import needs_immutable
from projections import views_file as views
from projections.feeding import KNOWN, LIVES, Feed, Stopped
from projections.past import Readable
from projections.standing import Progress, Status, known_names, status_of
from projections.tables import PROJECTIONS
from projections.views_damage import require_place
from projections.views_file import Mark

if TYPE_CHECKING:
    from projections.checking import Difference

__all__ = ["Engine", "Progress", "Status", "views_path"]

CHUNK = 10_000
"""Events per transaction: few enough that nobody waits long (a tenth of a second), enough that a page
of the file is written once and not with every chunk, which is a fifth of the time."""

TRIES_MAX = 1_000


def views_path(ledger: Path) -> Path:
    """Where the projections of a ledger's file lie."""
    return ledger.with_name(ledger.name + ".views.db")


class Engine:
    """The projections of one log, in the file at ``path``, which is made where it is not there.

    One thread uses it at a time, any number may; each process opens its own. Methods that write raise
    LedgerReadOnly where the file cannot be written and LedgerUnavailable where it is locked or damaged.
    """

    def __init__(self, log: Readable, path: Path) -> None:
        self.log = log
        self.path = path
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._feed: Feed | None = None
        self._kept_open: list[object] = []

    # --- what it offers --------------------------------------------------------------------------

    def catch_up(self, upto: int | None = None) -> Progress:
        """Bring every projection to the head, or to position ``upto``; make anew what needs it.

        A projection that fails stays where it is, and the others go on.
        """
        with self._lock, views.speaking_of(self.path):
            rebuilt = self._mend()
            events = self._advance(upto)
            return self._progress(events, rebuilt)

    def rebuild(self, names: Iterable[str] | None = None) -> Progress:
        """Make projections (all, or these) anew beside the live ones, then put them in their place.

        Meanwhile the live ones go on. Where all are wanted, a file that is damaged is taken away first.
        Raises LedgerUnavailable where another process does the same, InvalidInput for an unknown name.
        """
        from projections.rebuilding import rebuild_all

        wanted = known_names(names)
        with self._lock:
            return rebuild_all(self, wanted, may_discard=names is None)

    def check(self, names: Iterable[str] | None = None) -> Difference | None:
        """Make projections anew aside and compare: the first difference, or None.

        Only those that are live are compared, each at the position where it stands.
        """
        from projections.checking import check

        wanted = known_names(names)
        with self._lock, views.speaking_of(self.path):
            return check(self, wanted)

    def status(self) -> list[Status]:
        """Where each projection stands. Changes nothing; a file that is not there is not made."""
        head = self.log.head().position
        marks: dict[str, Mark] = {}
        gone: dict[str, list[str]] = {}
        if self.path.exists():
            with closing(self.connect()) as connection, views.speaking_of(self.path):
                marks = views.read_marks(connection)
                gone = {
                    name: views.missing(connection, cls)
                    for name, cls in PROJECTIONS.items()
                    if name in marks
                }
        return [status_of(name, marks.get(name), head, gone.get(name, [])) for name in PROJECTIONS]

    def connect(self) -> sqlite3.Connection:
        """A new connection to the tables, for reading only; the caller closes it."""
        require_place(self.path)
        if not self.path.exists():
            raise LedgerUnavailable(f"there is no {self.path}", "catch the projections up first")
        with views.speaking_of(self.path):
            immutable = needs_immutable(self.path)
            connection = connect(self.path, read_only=True, immutable=immutable)
            connection.execute("PRAGMA query_only = ON").close()
            return connection

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        with self._lock:
            for connection in (self._reader, self._writer):
                if connection is not None and os.getpid() == self._pid:
                    connection.close()
            self._reader = self._writer = None
            self._feed = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------

    def writer(self) -> sqlite3.Connection:
        """The connection that writes."""
        if os.getpid() != self._pid:
            # A connection must not be used, nor closed, on the other side of a fork.
            self._kept_open += [self._writer, self._reader, self._feed]
            self._writer = self._reader = self._feed = None
            self._pid = os.getpid()
        if self._writer is not None and not self._in_place():
            self.close()
        if self._writer is None:
            self._writer = views.open_views(self.path)
            self._identity = views.identity(self.path)
        return self._writer

    def _in_place(self) -> bool:
        """Whether the connections write what others read."""
        main, wal = views.identity(self.path)
        if self._identity == (main, None):
            # The write-ahead log comes with the first transaction.
            self._identity = (main, wal)
        return self._identity == (main, wal)

    def reader(self) -> sqlite3.Connection:
        """The connection whose view of the tables stands still while a chunk is worked out."""
        self.writer()
        if self._reader is None:
            self._reader = views.open_views(self.path, create=False)
        return self._reader

    def _prepare(self) -> dict[str, Mark]:
        """Bookkeeping and, the first time, empty tables; where each projection stands."""
        writer = self.writer()
        if not views.has_bookkeeping(writer):
            with views.writing(writer):
                if not views.has_bookkeeping(writer):
                    self._begin(writer)
        return views.read_marks(writer)

    def _begin(self, writer: sqlite3.Connection) -> None:
        """Everything anew, inside the caller's transaction."""
        views.create_bookkeeping(writer)
        marks = []
        for cls in PROJECTIONS.values():
            views.drop_views(writer, cls)
            for table in cls.tables:
                views.drop(writer, table.name)
        for cls in PROJECTIONS.values():
            views.create_tables(writer, cls, "", 1)
        for name, cls in PROJECTIONS.items():
            views.create_views(writer, cls)
            form = views.form_of(writer, cls)
            now = time.time_ns()
            marks.append(
                Mark(name, cls.version, 0, GENESIS, "live", None, None, now, None, 1, form)
            )
        views.write_marks(writer, marks)

    def _mend(self) -> tuple[str, ...]:
        """Make anew what cannot go on as it is; the names of those."""
        from projections.rebuilding import rebuild

        marks = self._prepare()
        broken = self._broken(marks)
        done: list[str] = []
        for note, names in broken.items():
            if rebuild(self, tuple(names), note, stale=True):
                done += names
        return tuple(done)

    def _broken(self, marks: dict[str, Mark]) -> dict[str, list[str]]:
        """Why → the projections that have to be made anew because of it."""
        writer = self.writer()
        broken: dict[str, list[str]] = {}
        reached: dict[tuple[int, bytes], bool] = {}
        for name, cls in PROJECTIONS.items():
            mark = marks.get(name)
            why = None
            if mark is None:
                why = "it is new"
            elif mark.version != cls.version:
                why = f"its version went from {mark.version} to {cls.version}"
            elif mark.state == "rebuilding":
                why = mark.note or "it was broken off"
            elif gone := views.missing(writer, cls):
                why = f"{', '.join(gone)} had been dropped"
            elif mark.form != views.form_of(writer, cls):
                why = "its tables had been altered"
            elif mark.state == "failed":
                why = "its event is known now" if self._known_now(mark) else None
            else:
                at = (mark.position, mark.hash)
                if at not in reached:
                    reached[at] = self._is_there(mark)
                if not reached[at]:
                    why = f"the log is another one at position {mark.position}"
            if why is not None:
                broken.setdefault(why, []).append(name)
        flagged = {name for names in broken.values() for name in names}
        live = [m for m in marks.values() if m.state == "live" and m.name not in flagged]
        if len({(m.position, m.hash) for m in live}) > 1:
            # What goes on goes on together; this is what a hand-edited bookkeeping comes to.
            broken["they stood at different positions"] = [m.name for m in live]
        concerned = flagged | {mark.name for mark in live}
        for why, names in broken.items():
            if LIVES in names:
                # The others cannot go on without it, so all are brought to one position together.
                return {why: [name for name in PROJECTIONS if name in concerned]}
        return broken

    def _known_now(self, mark: Mark) -> bool:
        if mark.failed_position is None or "does not know" not in (mark.error or ""):
            return False
        row = next(iter(self.log.read(mark.failed_position - 1, mark.failed_position)), None)
        return row is not None and row.schema <= KNOWN.get(row.type, 0)

    def _is_there(self, mark: Mark) -> bool:
        """Whether the log has the event with this hash at this position."""
        if mark.position == 0:
            return mark.hash == GENESIS
        row = next(iter(self.log.read(mark.position - 1, mark.position)), None)
        return row is not None and row.hash == mark.hash

    def _progress(self, events: int, rebuilt: tuple[str, ...]) -> Progress:
        marks = views.read_marks(self.writer()).values()
        going = [mark.position for mark in marks if mark.state == "live"]
        failed = tuple(mark.name for mark in marks if mark.state == "failed")
        head = self.log.head().position
        return Progress(min(going, default=0), head, events, rebuilt, failed)

    # --- catching up -----------------------------------------------------------------------------

    def _advance(self, upto: int | None) -> int:
        """Feed the live projections chunk by chunk; how many events that took."""
        events = 0
        limit: int | None = None
        moved = 0
        while moved < TRIES_MAX:
            with uncollected():
                done, limit = self._chunk(upto, limit)
            if done is None:
                moved += 1
                continue
            moved = 0
            if done == 0:
                return events
            events += done
        raise LedgerUnavailable(
            f"others write {self.path} all the time", "try again, or let one process catch up"
        )

    def _live(self, marks: dict[str, Mark]) -> list[Mark]:
        """The marks of what can be fed: the live ones, which all stand at one position."""
        live = [mark for mark in marks.values() if mark.state == "live"]
        if not any(mark.name == LIVES for mark in live):
            # Without what they stand on they would guess; a rebuild under way brings it back.
            live = [mark for mark in live if not PROJECTIONS[mark.name].follows_lives]
        return live

    def _chunk(self, upto: int | None, limit: int | None) -> tuple[int | None, int | None]:
        """Take one chunk: how many events (None: it has to be tried again), and the next's limit.

        The limit is a position before which a projection has to stop, found by failing once.
        """
        reader = self.reader()
        reader.execute("BEGIN")
        try:
            before = views.read_marks(reader)
            live = self._live(before)
            if not live:
                return 0, None
            position, hash_ = live[0].position, live[0].hash
            last = upto if limit is None else limit - 1
            feed = self._fed(live, (position, hash_))
            rows = list(islice(self.log.read(position, last), CHUNK))
            if not rows:
                return 0, None
            try:
                feed.take(rows)
            except Stopped as stop:
                return self._stop(stop, before, live, position)
        except BaseException:
            self._forget()
            raise
        finally:
            reader.execute("COMMIT")
        end = rows[-1]
        done = self._write(feed, before, live, (end.position, end.hash))
        return (None if done is None else len(rows)), None if done is None else limit_after(
            limit, end.position
        )

    def _fed(self, live: list[Mark], state: tuple[int, bytes]) -> Feed:
        names = [mark.name for mark in live]
        feed = self._feed
        if feed is None or list(feed.projections) != [n for n in PROJECTIONS if n in names]:
            feed = self._feed = Feed(names, self.reader())
        if feed.state != state:
            feed.forget()
        return feed

    def _forget(self) -> None:
        if self._feed is not None:
            self._feed.forget()

    def _stop(
        self, stop: Stopped, before: dict[str, Mark], live: list[Mark], position: int
    ) -> tuple[int | None, int | None]:
        """Some cannot go on. What lies before that event is taken first, by all; then they stop."""
        self._forget()
        failed_at = position + 1 if stop.position is None else stop.position
        if failed_at > position + 1:
            return None, failed_at
        writer = self.writer()
        with views.writing(writer):
            if views.read_marks(writer) == before:
                views.write_marks(
                    writer,
                    [
                        replace(
                            mark,
                            state="failed",
                            error=stop.why,
                            failed_position=failed_at,
                            updated_at=time.time_ns(),
                        )
                        for mark in live
                        if mark.name in stop.names
                    ],
                )
        self._feed = None
        return None, None

    def _write(
        self, feed: Feed, before: dict[str, Mark], live: list[Mark], state: tuple[int, bytes]
    ) -> bool | None:
        """Rows and checkpoint in one transaction; None where others came first."""
        writer = self.writer()
        now = time.time_ns()
        try:
            with views.writing(writer):
                if views.read_marks(writer) != before:
                    feed.forget()
                    return None
                feed.flush(writer)
                views.write_marks(
                    writer,
                    [
                        replace(mark, position=state[0], hash=state[1], updated_at=now)
                        for mark in live
                    ],
                )
        except Stopped as stop:
            self._stop(stop, before, live, live[0].position)
            return None
        except BaseException:
            feed.forget()
            raise
        feed.clean(state)
        return True


def limit_after(limit: int | None, position: int) -> int | None:
    """A limit that has been reached is none any more."""
    return None if limit is None or position >= limit - 1 else limit
