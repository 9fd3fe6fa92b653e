"""The file ``NAME.views.db``: its connections, the tables in it, and the bookkeeping of projections.

The file may be deleted at any time, and the writer keeps snapshots in it, so every transaction here
is short.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.forks import no_fork
from ledger.quick import dataclass
from ledger.sqlite_driver import connect, sqlite3
from projections.tables import PROJECTIONS
from projections.tables.base import Projection, Table, quoted
from projections.views_damage import ViewsDamaged as ViewsDamaged
from projections.views_damage import damage as damage
from projections.views_damage import discard as discard
from projections.views_damage import require_place
from projections.views_damage import speaking_of as speaking_of

PATIENCE_S = 30.0
"""How long a transaction waits for others that write views at that moment."""

CACHE_KIB = 65_536
WAL_TRIES = 50
WAL_PAGES = 8_192
"""Moving the write-ahead log into the file seldom saves a tenth of a catch-up, for 32 MiB of disk."""

BOOKKEEPING = "projections"
_BOOK = Table(
    BOOKKEEPING,
    {
        "name": "TEXT",
        "version": "INTEGER",
        "position": "INTEGER",
        "hash": "BLOB",
        "state": "TEXT",
        "error": "TEXT",
        "failed_position": "INTEGER",
        "updated_at": "INTEGER",
        "note": "TEXT",
        "generation": "INTEGER",
        "form": "TEXT",
    },
    ("name",),
)
STATES = ("live", "rebuilding", "failed")
_INDEX = re.compile(r"\w+?_(\d{1,18})_\d+")
_TYPES = {"TEXT": str, "INTEGER": int, "BLOB": bytes}


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a projection stands, as its row in table ``projections`` says.

    ``generation`` grows with each making anew; ``form`` is the SQL of its tables as they were made.
    """

    name: str
    version: int
    position: int
    hash: bytes
    state: str
    error: str | None
    failed_position: int | None
    updated_at: int
    note: str | None
    generation: int
    form: str

    def is_sound(self) -> bool:
        """Whether it can be what was written here."""
        numbers: tuple[object, ...] = (
            self.version,
            self.position,
            self.generation,
            self.updated_at,
            self.failed_position if self.state == "failed" else 0,
        )
        texts: tuple[object, ...] = (self.form, self.state)
        hash_: object = self.hash
        return (
            all(isinstance(number, int) and number >= 0 for number in numbers)
            and all(isinstance(text, str) for text in texts)
            and isinstance(hash_, bytes)
            and self.state in STATES
        )


def open_views(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """A connection to the views file, which is made where it is not there.

    Raises: the driver's own errors and OSError; use it inside :func:`speaking_of`.
    """
    require_place(path)
    if create and not path.exists():
        with contextlib.suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            os.close(os.open(path, flags, 0o600))
    with no_fork():
        connection = connect(path, patience_s=PATIENCE_S)
        _use_wal(connection)
        # As for the snapshots beside: whatever a power cut takes can be made anew from the log.
        connection.execute("PRAGMA synchronous = OFF").close()
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}").close()
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}").fetchone()
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Have a write-ahead log. Where others make the file at this moment, SQLite does not wait itself."""
    for left in reversed(range(WAL_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or not left:
                raise
            time.sleep(0.02)
        else:
            return


def identity(path: Path) -> tuple[object, object]:
    """Which file lies at a path, and which write-ahead log beside it; None for what is not there.

    The log may go while it is in use: another copy of SQLite in this process, such as the standard
    library's under pandas, takes the locks of this one for its own, and clears up when it closes.
    """
    found: list[object] = []
    for name in (path, path.with_name(path.name + "-wal")):
        try:
            stat = os.stat(name)
            found.append((stat.st_dev, stat.st_ino))
        except OSError:
            found.append(None)
    return found[0], found[1]


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One short transaction that has the write lock from its begin. The log must not be read in it."""
    with no_fork():
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


# --- tables --------------------------------------------------------------------------------------


def create_table_sql(table: Table, name: str) -> str:
    """The statement that makes a table, as sqlite-utils writes it."""
    import sqlite_utils

    database = sqlite_utils.Database(sqlite3.connect(":memory:"))
    try:
        sql = database.create_table_sql(
            name,
            {column: _TYPES[type_] for column, type_ in table.columns.items()},
            pk=table.key if len(table.key) > 1 else table.key[0],
            not_null=table.key,
            strict=True,
        )
        sql = sql.rstrip().removesuffix(";")
        # sqlite-utils has no word for it. With long keys it saves half of the writing.
        return sql + ", WITHOUT ROWID" if table.clustered else sql
    finally:
        database.close()


def create_tables(
    connection: sqlite3.Connection, projection: type[Projection], suffix: str, generation: int
) -> None:
    """Make a projection's tables and indexes, empty. Indexes keep their names through a swap."""
    for table in projection.tables:
        connection.execute(create_table_sql(table, table.name + suffix))
        for number, columns in enumerate(table.indexes):
            index = quoted(f"{table.name}_{generation}_{number}")
            connection.execute(f"CREATE INDEX {index} ON {quoted(table.name + suffix)} ({columns})")


def create_views(connection: sqlite3.Connection, projection: type[Projection]) -> None:
    """Make a projection's views anew over its tables."""
    for name, sql in projection.views.items():
        drop(connection, name)
        connection.execute(f"CREATE VIEW {quoted(name)} AS {sql.strip()}")


def drop_views(connection: sqlite3.Connection, projection: type[Projection]) -> None:
    """Take a projection's views away."""
    for name in projection.views:
        drop(connection, name)


def drop(connection: sqlite3.Connection, name: str) -> None:
    """Take a table or a view away, whichever of them somebody put there under this name."""
    kinds = kinds_of(connection)
    if name in kinds:
        connection.execute(f"DROP {kinds[name]} {quoted(name)}")


def kinds_of(connection: sqlite3.Connection) -> dict[str, str]:
    """The name of each table and view in the file → ``table`` or ``view``."""
    return dict(
        connection.execute("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')")
    )


def last_generation(connection: sqlite3.Connection) -> int:
    """The highest generation that names of indexes tell of, whatever became of the bookkeeping."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
    found = [_INDEX.fullmatch(str(name)) for (name,) in names]
    return max((int(match[1]) for match in found if match), default=0)


def form_of(connection: sqlite3.Connection, projection: type[Projection]) -> str:
    """The SQL of a projection's tables and views as they are in the file, to see a change by."""
    names = [table.name for table in projection.tables] + list(projection.views)
    marks = ", ".join("?" * len(names))
    found = connection.execute(
        f"SELECT sql FROM sqlite_master WHERE name IN ({marks}) ORDER BY name", names
    )
    return "\n".join(str(row[0]) for row in found)


def missing(connection: sqlite3.Connection, projection: type[Projection]) -> list[str]:
    """Tables and views of a projection that are not in the file."""
    present = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    names = [table.name for table in projection.tables] + list(projection.views)
    return [name for name in names if name not in present]


def swap_in(
    connection: sqlite3.Connection, projection: type[Projection], suffix: str, generation: int
) -> None:
    """Put the tables of a suffix in the place of the live ones, inside the caller's transaction."""
    drop_views(connection, projection)
    kinds = kinds_of(connection)
    for table in projection.tables:
        if kinds.get(table.name) == "view":
            drop(connection, table.name)
        elif table.name in kinds:
            connection.execute(
                f"ALTER TABLE {quoted(table.name)} RENAME TO"
                f" {quoted(f'{table.name}__old{generation}')}"
            )
        connection.execute(
            f"ALTER TABLE {quoted(table.name + suffix)} RENAME TO {quoted(table.name)}"
        )
    create_views(connection, projection)


PIECE_ROWS = 5_000


def clear_leftovers(connection: sqlite3.Connection) -> None:
    """Take away what swaps and broken-off rebuilds left, in pieces, so that nobody waits long."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        " AND (name GLOB '*__old[0-9]*' OR name GLOB '*__new[0-9]*')"
    ).fetchall()
    for (name,) in found:
        indexes = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?"
            " AND sql IS NOT NULL",
            (name,),
        ).fetchall()
        for (index,) in indexes:
            connection.execute(f"DROP INDEX IF EXISTS {quoted(index)}")
        key = _key_of(connection, name)
        gone = PIECE_ROWS
        while gone == PIECE_ROWS:
            gone = connection.execute(
                f"DELETE FROM {quoted(name)} WHERE ({key}) IN"
                f" (SELECT {key} FROM {quoted(name)} LIMIT {PIECE_ROWS})"
            ).rowcount
        connection.execute(f"DROP TABLE IF EXISTS {quoted(name)}")


def _key_of(connection: sqlite3.Connection, name: str) -> str:
    """What tells the rows of a table apart, as columns in SQL."""
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    if "WITHOUT ROWID" not in sql:
        return "rowid"
    columns = connection.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
    return ", ".join(quoted(row[1]) for row in columns if row[5])


# --- bookkeeping ---------------------------------------------------------------------------------

_MARKS = f"SELECT {', '.join(_BOOK.columns)} FROM {BOOKKEEPING}"
_WRITE_MARK = (
    f"INSERT OR REPLACE INTO {BOOKKEEPING} ({', '.join(_BOOK.columns)})"
    f" VALUES ({', '.join('?' * len(_BOOK.columns))})"
)


def read_marks(connection: sqlite3.Connection) -> dict[str, Mark]:
    """Where each projection stands; empty where there is no bookkeeping yet.

    Of a row that somebody edited into nonsense nothing is kept: what it was about is made anew.
    """
    try:
        with no_fork():
            found = connection.execute(_MARKS).fetchall()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return {}
        raise
    marks = {row[0]: Mark(*row) for row in found if row[0] in PROJECTIONS}
    return {name: mark for name, mark in marks.items() if mark.is_sound()}


def write_marks(connection: sqlite3.Connection, marks: Iterable[Mark]) -> None:
    """Write where projections stand, inside the caller's transaction."""
    connection.executemany(
        _WRITE_MARK,
        [tuple(getattr(mark, column) for column in _BOOK.columns) for mark in marks],
    )


def has_bookkeeping(connection: sqlite3.Connection) -> bool:
    """Whether the table of bookkeeping is there, in the form that is needed."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({BOOKKEEPING})")]
    return columns == list(_BOOK.columns)


def create_bookkeeping(connection: sqlite3.Connection) -> None:
    """Make the table of bookkeeping anew, inside the caller's transaction."""
    drop(connection, BOOKKEEPING)
    connection.execute(create_table_sql(_BOOK, BOOKKEEPING))
