"""Making projections anew beside the live ones, and putting them in their place in one transaction."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from ledger.errors import LedgerUnavailable
from ledger.garbage import uncollected
from ledger.log import GENESIS
from ledger.quick import replace
from projections import views_file as views
from projections.feeding import Feed, Stopped, with_lives
from projections.tables import PROJECTIONS
from projections.views_file import Mark

if TYPE_CHECKING:
    from projections.engine import Engine
    from projections.standing import Progress

CHUNKS_BETWEEN = 5
"""How many chunks are taken before the live projections are brought up in between."""

SWAPS_MAX = 1_000


@contextmanager
def _alone(engine: Engine) -> Iterator[bool]:
    """Whether this is the only rebuild of the file; ends with the process, whatever ends that."""
    name = engine.path.with_name(engine.path.name + ".rebuild")
    handle = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def rebuild_all(engine: Engine, names: tuple[str, ...], *, may_discard: bool) -> Progress:
    """As :meth:`projections.engine.Engine.rebuild`, of these names.

    ``may_discard``: a file that is damaged is taken away before. It holds nothing but what can be made
    anew, of all projections.
    """
    if not may_discard:
        return _made_anew(engine, names)
    _take_away_damaged(engine)
    used, _ = views.identity(engine.path)
    try:
        return _made_anew(engine, names)
    except views.ViewsDamaged:
        # Some damage shows only where a page is used.
        _take_away_damaged(engine, used)
        return _made_anew(engine, names)


def _made_anew(engine: Engine, names: tuple[str, ...]) -> Progress:
    with views.speaking_of(engine.path):
        engine._prepare()
        if not rebuild(engine, names, "asked for"):
            raise _busy()
        return engine._progress(engine._advance(None), names)


def _take_away_damaged(engine: Engine, used: object = None) -> None:
    """Take the file away if a look at all of it shows damage, or it is the one that failed in use.

    Raises LedgerUnavailable where another process is at it.
    """
    with views.speaking_of(engine.path), _alone(engine) as alone:
        # Nobody takes the file away while another one looks at it, or has just made it anew.
        if not alone:
            raise _busy()
        same = used is not None and views.identity(engine.path)[0] == used
        if same or views.damage(engine.path) is not None:
            engine.close()
            views.discard(engine.path)


def _busy() -> LedgerUnavailable:
    return LedgerUnavailable("another process is making projections anew", "wait until it is done")


def rebuild(engine: Engine, names: tuple[str, ...], note: str, *, stale: bool = False) -> bool:
    """Make these anew. False where another process is at it, and nothing was done.

    ``stale`` ones cannot be fed as they are, so they wait; the others go on meanwhile.
    """
    with _alone(engine) as alone:
        if not alone:
            return False
        views.clear_leftovers(engine.writer())
        _Rebuild(engine, names, note, stale).run()
        views.clear_leftovers(engine.writer())
    return True


class _Rebuild:
    """One rebuild: the shadow tables, how far they are, and which of them had to stop."""

    def __init__(self, engine: Engine, names: tuple[str, ...], note: str, stale: bool) -> None:
        self._engine = engine
        self._names = names
        self._note = note
        self._stale = stale
        self._writer = engine.writer()
        self._fed = with_lives(names)
        self._position, self._hash = 0, GENESIS
        self._limit: int | None = None
        self._failed: dict[str, tuple[int, bytes, int, str]] = {}

    def run(self) -> None:
        """From the first event to the swap."""
        self._begin()
        for chunks in range(1, 2**62):
            if not self._chunk(None):
                break
            if chunks % CHUNKS_BETWEEN == 0:
                self._engine._advance(None)
        for _ in range(SWAPS_MAX):
            self._engine._advance(None)
            while self._chunk(self._others()):
                pass
            if self._swap():
                return
        raise LedgerUnavailable(
            f"others write {self._engine.path} all the time, and nothing was put in place",
            "try again, or let one process catch up",
        )

    def _begin(self) -> None:
        writer = self._writer
        with views.writing(writer):
            marks = views.read_marks(writer)
            known = max((mark.generation for mark in marks.values()), default=0)
            self._generation = max(known, views.last_generation(writer)) + 1
            self._suffix = f"__new{self._generation}"
            for name in self._fed:
                views.create_tables(writer, PROJECTIONS[name], self._suffix, self._generation)
            # The number is taken at once, so that no two rebuilds ever use the same names.
            changed = []
            for name in self._names:
                mark = marks.get(name)
                if mark is None:
                    mark = self._mark(name, 0, GENESIS, "rebuilding", None, None, "")
                state = "rebuilding" if self._stale else mark.state
                note = self._note if self._stale else mark.note
                changed.append(replace(mark, generation=self._generation, state=state, note=note))
            views.write_marks(writer, changed)
        self._feed = Feed(self._fed, writer, self._suffix)

    def _mark(
        self,
        name: str,
        position: int,
        hash_: bytes,
        state: str,
        error: str | None,
        failed_position: int | None,
        form: str,
    ) -> Mark:
        return Mark(
            name,
            PROJECTIONS[name].version,
            position,
            hash_,
            state,
            error,
            failed_position,
            time.time_ns(),
            self._note,
            self._generation,
            form,
        )

    def _chunk(self, upto: int | None) -> bool:
        """Take one chunk into the shadow tables. False where there is nothing more to take."""
        from projections.engine import CHUNK

        if not self._feed.projections:
            return False
        last = upto if self._limit is None else self._limit - 1
        rows = list(islice(self._engine.log.read(self._position, last), CHUNK))
        if not rows:
            if self._limit is not None:
                self._limit = None
                return True
            return False
        try:
            with uncollected():
                self._feed.take(rows)
                with views.writing(self._writer):
                    self._feed.flush(self._writer)
        except Stopped as stop:
            self._stop(stop)
            return True
        end = rows[-1]
        self._position, self._hash = end.position, end.hash
        self._feed.clean((end.position, end.hash))
        if self._limit is not None and end.position >= self._limit - 1:
            self._limit = None
        return True

    def _stop(self, stop: Stopped) -> None:
        """Some cannot go on here either: they are put in place as far as they came."""
        self._feed.forget()
        at = self._position + 1 if stop.position is None else stop.position
        if at > self._position + 1:
            self._limit = at
            return
        for name in stop.names:
            self._failed[name] = (self._position, self._hash, at, stop.why)
        self._feed.drop(stop.names)

    def _others(self) -> int | None:
        """Where those stand that are not made anew here, and that these go on with; None: none do."""
        marks = views.read_marks(self._writer).values()
        others = [m.position for m in marks if m.state == "live" and m.name not in self._names]
        return min(others, default=None)

    def _swap(self) -> bool:
        """Put the shadow tables in place, unless others have gone on meanwhile."""
        writer = self._writer
        with views.writing(writer):
            marks = views.read_marks(writer)
            live = [mark for mark in marks.values() if mark.state == "live"]
            staying = [mark for mark in live if mark.name not in self._names]
            going = [name for name in self._names if name not in self._failed]
            if going and any(mark.position != self._position for mark in staying):
                return False
            ahead = any(mark.position > self._position for mark in live)
            if going and ahead and not self._stale:
                # Nobody who has read his own write may find it gone.
                return False
            changed = []
            for name in self._names:
                views.swap_in(writer, PROJECTIONS[name], self._suffix, self._generation)
                form = views.form_of(writer, PROJECTIONS[name])
                if name in self._failed:
                    position, hash_, at, why = self._failed[name]
                    changed.append(self._mark(name, position, hash_, "failed", why, at, form))
                else:
                    changed.append(
                        self._mark(name, self._position, self._hash, "live", None, None, form)
                    )
            views.write_marks(writer, changed)
        self._engine._feed = None
        return True
