"""Projections when things go wrong: failing, dropped, edited, foreign, killed, raced, unwritable."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.errors import InvalidInput, LedgerReadOnly, LedgerUnavailable
from ledger.log import Row
from ledger.memory_log import MemoryLog
from ledger.snapshots import Snapshots
from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import SqliteLog
from projections import engine as engine_module
from projections import rebuilding
from projections.engine import Engine, views_path
from projections.tables import PROJECTIONS
from projections.tables.base import Seen
from projections.tables.lives import Lives
from projections.tables.steps import Steps
from projections.tables.tenants import Tenants
from projections.views_damage import damage
from tests.integration.test_projections import contents, live_through, table
from tests.ledgers import end, line_of, python


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a history of a few hundred events."""
    path = tmp_path_factory.mktemp("ledger") / "l.db"
    with SqliteLog.open(path, create=True) as log:
        live_through(log, 11, 200)
    return path


@pytest.fixture
def engine(ledger: Path, tmp_path: Path) -> Iterator[Engine]:
    with SqliteLog.open(ledger) as log, Engine(log, tmp_path / "v.views.db") as one:
        yield one


def change(engine: Engine, *statements: str) -> None:
    with closing(sqlite3.connect(str(engine.path))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def state(engine: Engine, name: str) -> Any:
    return next(status for status in engine.status() if status.name == name)


class Head:
    """A log as it was when it had so many events, or with some of them replaced."""

    def __init__(self, log: Any, upto: int, replaced: dict[int, Row] | None = None) -> None:
        self._log, self._upto, self._replaced = log, upto, replaced or {}
        self._rows = [self._replaced.get(r.position, r) for r in log.read(0, upto)]

    def head(self) -> Any:
        last = self._rows[-1]
        return type(self._log.head())(last.position, last.hash, last.recorded_at)

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        yield from self._rows[after : len(self._rows) if upto is None else upto]

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        return [row for row in self._rows if row.allocation == allocation]


# --- failing ---------------------------------------------------------------------------------------


def test_failing_projection_stops_visibly_and_holds_up_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Steps._plain

    def failing(self: Steps, e: Seen) -> None:
        if e.position > 100:
            raise RuntimeError("it broke\nin two lines")
        whole(self, e)

    monkeypatch.setattr(Steps, "_plain", failing)
    progress = engine.catch_up()
    assert progress.failed == ("steps",)
    assert progress.position == engine.log.head().position
    stopped = state(engine, "steps")
    assert (stopped.state, stopped.error) == ("failed", "RuntimeError: it broke in two lines")
    assert stopped.failed_position > 100
    assert stopped.position == stopped.failed_position - 1
    assert table(engine, "SELECT max(position) FROM steps")[0][0] <= 100
    assert engine.catch_up().failed == ("steps",)
    assert engine.check() is None
    assert engine.rebuild(["steps"]).failed == ("steps",)
    monkeypatch.setattr(Steps, "_plain", whole)
    assert engine.rebuild(["steps"]).failed == ()
    assert engine.check() is None
    assert state(engine, "steps").state == "live"


def test_what_stands_on_a_failed_projection_stops_with_it_and_the_rest_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Lives, e: Seen) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Lives, "_adjusted", failing)
    progress = engine.catch_up()
    assert "allocations" in progress.failed and "refusals" not in progress.failed
    assert state(engine, "refusals").behind == 0
    monkeypatch.undo()
    assert engine.rebuild().failed == ()
    assert engine.check() is None


def test_fault_of_a_projection_while_it_writes_stops_it_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Tenants, connection: object) -> None:
        raise ValueError("unwritable")

    monkeypatch.setattr(Tenants, "flush", failing)
    assert engine.catch_up().failed == ("tenants",)
    assert state(engine, "steps").behind == 0


def test_event_of_an_unknown_type_stops_all_before_it_until_it_is_known(
    ledger: Path, tmp_path: Path
) -> None:
    with SqliteLog.open(ledger) as log:
        strange = next(iter(log.read(119, 120)))._replace(type="teleported")
        newer = Head(log, 150, {120: strange})
        with Engine(newer, tmp_path / "v.views.db") as engine:
            progress = engine.catch_up()
            assert len(progress.failed) == len(engine.status())
            for status in engine.status():
                assert (status.position, status.failed_position) == (119, 120)
                assert "'teleported'" in (status.error or "")
        # A program that knows it goes on by itself.
        with Engine(Head(log, 150), tmp_path / "v.views.db") as engine:
            assert engine.catch_up().failed == ()
            assert engine.check() is None


# --- dropped, edited, versions, foreign ------------------------------------------------------------


@pytest.mark.parametrize("name", ["steps", "spans", "series", "allocations", "queue"])
def test_dropped_table_or_view_is_noticed_and_made_anew(engine: Engine, name: str) -> None:
    engine.catch_up()
    whole = contents(engine)
    kind = "VIEW" if name == "series" else "TABLE"
    if kind == "TABLE":
        change(engine, "DROP VIEW series", f"DROP TABLE {name}")
    else:
        change(engine, f"DROP VIEW {name}")
    assert any(status.state == "rebuilding" for status in engine.status())
    assert engine.check() is not None
    assert engine.catch_up().rebuilt
    assert any("dropped" in (status.note or "") for status in engine.status())
    assert contents(engine) == whole


def test_dropped_table_that_others_stand_on_is_made_anew_wherever_they_stood(
    engine: Engine,
) -> None:
    engine.catch_up(90)
    change(engine, "DROP TABLE allocations")
    assert engine.catch_up().failed == ()
    assert {status.behind for status in engine.status()} == {0}
    assert engine.check() is None


def test_edited_row_is_found_by_a_check_and_mended_by_a_rebuild(engine: Engine) -> None:
    engine.catch_up()
    (id_,) = table(engine, "SELECT id FROM allocations ORDER BY id LIMIT 1 OFFSET 3")[0]
    change(engine, f"UPDATE allocations SET holder = 'mallory' WHERE id = '{id_}'")
    found = engine.check()
    assert found is not None
    assert (found.table, found.key, found.column) == ("allocations", {"id": id_}, "holder")
    assert found.live == "mallory" and found.rebuilt != "mallory"
    assert found.position == engine.log.head().position
    engine.rebuild(["allocations"])
    assert engine.check() is None


@pytest.mark.parametrize("statement", ["DELETE", "INSERT"])
def test_missing_and_added_rows_are_found(engine: Engine, statement: str) -> None:
    engine.catch_up()
    if statement == "INSERT":
        change(engine, "INSERT INTO tasks (tenant, task) VALUES ('zz', 'zz')")
    else:
        change(engine, "DELETE FROM tasks WHERE task = (SELECT max(task) FROM tasks)")
    found = engine.check()
    assert found is not None and found.table == "tasks" and found.column is None
    assert (found.rebuilt is None) == (statement == "INSERT")


def test_changed_version_makes_itself_anew(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.catch_up()
    monkeypatch.setattr(Steps, "version", 2)
    assert engine.catch_up().rebuilt == ("steps",)
    assert (state(engine, "steps").version, state(engine, "steps").state) == (2, "live")
    assert engine.catch_up().rebuilt == ()
    assert engine.check() is None


def test_tables_of_another_ledger_are_made_anew(engine: Engine) -> None:
    engine.catch_up()
    other = MemoryLog()
    live_through(other, 12, 40)
    with Engine(other, engine.path) as another:
        assert len(another.catch_up().rebuilt) == len(another.status())
        assert another.check() is None


def test_ledger_that_was_set_back_is_noticed(engine: Engine) -> None:
    engine.catch_up()
    with Engine(Head(engine.log, 90), engine.path) as earlier:
        assert earlier.catch_up().position == 90
        assert earlier.check() is None
        assert table(earlier, "SELECT max(position) FROM steps")[0][0] <= 90


def test_deleted_file_is_made_anew_while_it_was_open(engine: Engine) -> None:
    engine.catch_up()
    whole = contents(engine)
    for name in engine.path.parent.glob("v.views.db*"):
        name.unlink()
    engine.catch_up()
    assert contents(engine) == whole


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def garbled(path: Path) -> None:
    with path.open("r+b") as file:
        for at in range(2_000, path.stat().st_size, 9_000):
            file.seek(at)
            file.write(bytes(range(7, 207)))


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def header_lost(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(150))


DAMAGES = [truncated, garbled, no_database, header_lost]


def damaged_by(engine: Engine, how: Callable[[Path], None]) -> None:
    """A file that was whole, closed, and then damaged."""
    engine.catch_up()
    engine.close()
    how(engine.path)


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_file_is_one_clear_error_that_says_what_makes_it_anew(
    engine: Engine, how: Callable[[Path], None]
) -> None:
    damaged_by(engine, how)
    found = damage(engine.path)
    assert found is not None and "is damaged" in found and "\n" not in found
    for attempt in (
        engine.catch_up,
        engine.status,
        engine.check,
        lambda: engine.rebuild(["steps"]),
    ):
        try:
            attempt()
        except LedgerUnavailable as error:
            assert "damaged" in error.message
            assert "leasebook projections rebuild`" in error.hint


@pytest.mark.parametrize("how", DAMAGES)
def test_rebuild_of_all_makes_a_damaged_file_anew(
    engine: Engine, how: Callable[[Path], None]
) -> None:
    engine.catch_up()
    whole = contents(engine)
    damaged_by(engine, how)
    done = engine.rebuild()
    assert set(done.rebuilt) == set(PROJECTIONS) and done.failed == ()
    assert damage(engine.path) is None
    assert contents(engine) == whole and engine.check() is None
    assert [name.name for name in engine.path.parent.glob("*gone*")] == []


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_whatever_bytes_are_overwritten_or_lost_one_rebuild_is_enough(
    engine: Engine, data: st.DataObject
) -> None:
    engine.catch_up()
    engine.close()
    # Places as shares of the size, which is not the same after every rebuild.
    size = engine.path.stat().st_size
    shares = st.floats(0, 1, exclude_max=True)
    with engine.path.open("r+b") as file:
        for _ in range(data.draw(st.integers(0, 6))):
            file.seek(int(data.draw(shares) * size))
            file.write(data.draw(st.binary(min_size=1, max_size=300)))
        if data.draw(st.booleans()):
            file.truncate(int(data.draw(shares) * size))
    engine.rebuild()
    assert damage(engine.path) is None
    assert engine.check() is None and engine.catch_up().failed == ()


def test_old_write_ahead_log_of_a_damaged_file_does_not_come_back(engine: Engine) -> None:
    engine.catch_up()
    whole = contents(engine)
    log = engine.path.with_name(engine.path.name + "-wal")
    left = log.read_bytes()
    assert len(left) > 10_000
    engine.close()
    no_database(engine.path)
    # As a process leaves it that was killed.
    log.write_bytes(left)
    engine.rebuild()
    assert contents(engine) == whole and engine.check() is None


def test_damaged_file_is_made_anew_while_others_have_it_open(engine: Engine) -> None:
    engine.catch_up()
    whole = contents(engine)
    with (
        closing(engine.connect()) as reader,
        Engine(engine.log, engine.path) as other,
        Engine(engine.log, engine.path) as mender,
    ):
        other.catch_up()
        reader.execute("SELECT count(*) FROM steps").fetchone()
        truncated(engine.path)
        mender.rebuild()
        assert contents(mender) == whole
        # Whoever had the old one open takes the new one from here on.
        for _ in range(2):
            assert other.catch_up().failed == ()
            assert engine.catch_up().failed == ()
        assert contents(other) == contents(engine) == whole
    # Nor does closing the old one take anything from the new one.
    engine.close()
    assert damage(engine.path) is None
    assert contents(engine) == whole and engine.check() is None


def test_rebuild_that_was_killed_while_it_took_the_file_away_is_done_by_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged_by(engine, no_database)

    def killed(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            engine.rebuild()
    with pytest.raises(LedgerUnavailable, match="damaged"):
        engine.catch_up()
    engine.rebuild()
    assert engine.check() is None


MEND = """
import sys
from ledger.errors import LedgerUnavailable
from ledger.sqlite_log import SqliteLog
from pathlib import Path
from projections.engine import Engine
print("ready", flush=True)
sys.stdin.readline()
with SqliteLog.open(sys.argv[1]) as log, Engine(log, Path(sys.argv[2])) as engine:
    while True:
        try:
            engine.rebuild()
        except LedgerUnavailable as error:
            assert "another process" in error.message or "damaged" in error.message, error
        else:
            break
    print(engine.check(), engine.status()[0].position, flush=True)
"""


@pytest.mark.parametrize("how", [truncated, no_database])
def test_two_processes_that_make_a_damaged_file_anew_at_once_both_end_with_a_sound_one(
    engine: Engine, ledger: Path, how: Callable[[Path], None]
) -> None:
    damaged_by(engine, how)
    both = [python(MEND, ledger, engine.path) for _ in range(2)]
    for process in both:
        assert line_of(process) == "ready"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    head = engine.log.head().position
    assert [line_of(process) for process in both] == [f"None {head}"] * 2
    assert [end(process) for process in both] == [0, 0]
    assert damage(engine.path) is None and engine.check() is None


def test_views_that_cannot_be_written_are_one_clear_error(ledger: Path, tmp_path: Path) -> None:
    with SqliteLog.open(ledger) as log, Engine(log, tmp_path / "none" / "v.db") as engine:
        assert {status.state for status in engine.status()} == {"absent"}
        with pytest.raises((LedgerReadOnly, LedgerUnavailable)):
            engine.catch_up()


def test_unknown_projection_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="no projection"):
        engine.rebuild(["nonsense"])


def test_snapshots_in_the_same_file_stay(engine: Engine, tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "v")
    assert snapshots.path == engine.path
    snapshots.save(engine.log.head(), b"a book")
    engine.catch_up()
    engine.rebuild()
    assert table(engine, "SELECT count(*) FROM snapshots") == [(1,)]


# --- rebuilding beside readers and others ----------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        ("UPDATE projections SET position = NULL, hash = NULL, state = NULL, generation = NULL",),
        ("UPDATE projections SET state = 'junk'",),
        ("UPDATE projections SET generation = NULL WHERE name = 'steps'",),
        ("UPDATE projections SET position = -3 WHERE name = 'pools'",),
        ("DROP TABLE spans", "CREATE VIEW spans AS SELECT 1"),
        ("DROP VIEW series", "CREATE TABLE series (a)"),
        ("DROP TABLE projections", "CREATE VIEW projections AS SELECT 1"),
    ],
)
def test_nonsense_put_there_by_hand_is_made_anew(
    engine: Engine, statements: tuple[str, ...]
) -> None:
    engine.catch_up()
    expected = contents(engine)
    change(engine, *statements)
    assert engine.catch_up().failed == ()
    assert engine.check() is None
    assert contents(engine) == expected
    assert {status.state for status in engine.status()} == {"live"}
    assert engine.rebuild().failed == ()


def test_another_copy_of_sqlite_in_this_process_takes_nothing_away_from_other_readers(
    ledger: Path, tmp_path: Path
) -> None:
    import sqlite3 as standard

    path = tmp_path / "v.views.db"
    with SqliteLog.open(ledger) as log, Engine(log, path) as engine:
        for upto in (50, 100, 150):
            engine.catch_up(upto)
            with closing(standard.connect(path)) as connection:
                (position,) = connection.execute("SELECT min(position) FROM projections").fetchone()
            assert position == upto
        assert engine.check() is None


def test_readers_always_have_an_answer_while_all_is_made_anew(engine: Engine) -> None:
    engine.catch_up()
    expected = table(engine, "SELECT count(*), sum(granted) FROM series")
    stop, found, errors = threading.Event(), [], []

    def read() -> None:
        with closing(engine.connect()) as connection:
            while not stop.is_set():
                try:
                    found.append(
                        tuple(
                            connection.execute(
                                "SELECT count(*), sum(granted) FROM series"
                            ).fetchone()
                        )
                    )
                except Exception as error:
                    errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        engine.rebuild()
    stop.set()
    reader.join()
    assert not errors
    assert set(found) == set(expected)
    names = table(engine, "SELECT name FROM sqlite_master")
    assert not [name for (name,) in names if "__" in name and not name.startswith("sqlite_")]


def test_live_tables_go_on_while_they_are_made_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CHUNK", 10)
    monkeypatch.setattr(rebuilding, "CHUNKS_BETWEEN", 2)
    half = engine.log.head().position // 2
    engine.catch_up(half)
    seen = []
    whole = rebuilding._Rebuild._chunk

    def watched(self: Any, upto: int | None) -> bool:
        seen.append(state(engine, "steps").position)
        return whole(self, upto)

    monkeypatch.setattr(rebuilding._Rebuild, "_chunk", watched)
    engine.rebuild(["steps"])
    assert seen[0] == half and seen[-1] == engine.log.head().position
    assert engine.check() is None


def test_second_rebuild_at_the_same_time_is_refused(engine: Engine) -> None:
    engine.catch_up()
    with rebuilding._alone(engine) as alone:
        assert alone
        with pytest.raises(LedgerUnavailable, match="another process"):
            engine.rebuild()


CATCH_UP = """
import sys
from projections import engine as e
from ledger.sqlite_log import SqliteLog
from pathlib import Path
e.CHUNK = 7
print("ready", flush=True)
sys.stdin.readline()
with SqliteLog.open(sys.argv[1]) as log, e.Engine(log, Path(sys.argv[2])) as engine:
    print(engine.catch_up().position, flush=True)
"""


def test_two_processes_that_catch_up_at_once_take_each_event_once(
    engine: Engine, ledger: Path
) -> None:
    both = [python(CATCH_UP, ledger, engine.path) for _ in range(2)]
    for process in both:
        assert line_of(process) == "ready"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    head = engine.log.head().position
    assert [line_of(process) for process in both] == [str(head), str(head)]
    assert [end(process) for process in both] == [0, 0]
    assert engine.check() is None


KILLED = """
import sys
from projections import engine as e, rebuilding as r
from ledger.sqlite_log import SqliteLog
from pathlib import Path
e.CHUNK = 5
with SqliteLog.open(sys.argv[1]) as log, e.Engine(log, Path(sys.argv[2])) as engine:
    if sys.argv[3] == "rebuild":
        engine.catch_up()
    print("go", flush=True)
    while True:
        engine.rebuild() if sys.argv[3] == "rebuild" else engine.catch_up()
        if sys.argv[3] == "catch_up":
            sys.exit(0)
"""


@pytest.mark.parametrize("what", ["catch_up", "rebuild"])
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.07, 0.2])
def test_killed_at_any_moment_the_next_catch_up_is_right(
    engine: Engine, ledger: Path, what: str, after_s: float
) -> None:
    process = python(KILLED, ledger, engine.path, what)
    assert line_of(process) == "go"
    time.sleep(after_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end(process)
    assert engine.catch_up().failed == ()
    assert state(engine, "allocations").behind == 0
    assert engine.check() is None
    assert engine.rebuild().failed == ()
    assert engine.check() is None
    names = table(engine, "SELECT name FROM sqlite_master")
    assert not [name for (name,) in names if "__" in name and not name.startswith("sqlite_")]


def test_path_of_the_views_lies_beside_the_ledger(tmp_path: Path) -> None:
    assert views_path(tmp_path / "a.db") == Snapshots(tmp_path / "a.db").path
