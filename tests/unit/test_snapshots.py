"""Snapshots: a cache of the book that may be missing, garbled, stale or another ledger's, and then
costs nothing but time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import snapshots as snapshots_module
from ledger import writer as writer_module
from ledger.book import Book
from ledger.codec import from_row
from ledger.commands import StartTask
from ledger.events import Checkpointed
from ledger.evolve import evolve
from ledger.fields import book_digest, dump
from ledger.log import Head
from ledger.snapshots import Snapshots
from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import SqliteLog
from tests.ledgers import Ledger, check_whole, refolded
from tests.scenario import Scenario

EVERY = 20


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A ledger with a checkpoint and a snapshot every 20 events, closed after some use."""
    made = Ledger(tmp_path_factory.mktemp("used"), "sqlite")
    made.pool(n1={"cpu": 8000}, n2={"gpu": 4000, "cpu": 4000})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "CHECKPOINT_EVERY", EVERY)
        use(made)
    made.close()
    return made


@pytest.fixture
def ledger(used: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A copy of it, closed."""
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", EVERY)
    made = copy_of(used, tmp_path / "ledger", ".db", ".db.gate", ".db.views.db")
    made.close()
    yield made
    made.close()


def copy_of(ledger: Ledger, folder: Path, *suffixes: str) -> Ledger:
    """A ledger of the same files, at the same time."""
    folder.mkdir()
    for suffix in suffixes:
        name = ledger.path.stem + suffix
        shutil.copy(ledger.path.with_name(name), folder / name)
    made = Ledger(folder, "sqlite")
    made.clock.reading = ledger.clock.reading
    made.count = ledger.count
    return made


def use(ledger: Ledger, count: int = 40) -> None:
    """Grant, wait, refuse, release, let expire."""
    for number in range(count):
        allocation = ledger.got(10, holder=f"h{number % 3}", ttl=3 + number, task=f"t{number % 4}")
        ledger.clock.run(0.4)
        if number % 3 == 0:
            ledger.release(allocation, f"h{number % 3}")
        if number % 7 == 0:
            ledger.ask(9_000)
    ledger.ask(8000, holder="waits", wait=9)


def views(ledger: Ledger) -> Path:
    return ledger.path.with_name(ledger.path.name + ".views.db")


def rows(ledger: Ledger) -> list[Any]:
    connection = sqlite3.connect(str(views(ledger)))
    found = connection.execute(
        "SELECT position, hash, book FROM snapshots ORDER BY position"
    ).fetchall()
    connection.close()
    return list(found)


def change(ledger: Ledger, sql: str, *parameters: Any) -> None:
    connection = sqlite3.connect(str(views(ledger)), isolation_level=None)
    connection.execute(sql, parameters)
    connection.close()


def folded_from(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> int:
    """The position from which a newly opened writer folds; its state is checked to be right."""
    began: list[int] = []
    writer = ledger.another()
    read = writer.log.read

    def noted(after: int = 0, upto: int | None = None) -> Any:
        if upto is None:
            began.append(after)
        return read(after, upto)

    with monkeypatch.context() as patch:
        patch.setattr(writer.log, "read", noted)
        # What is due counts as ended for readers, so it is written down before the two are compared.
        writer.settle()
        digest = writer.read(lambda book, now: book_digest(book))
    assert digest == book_digest(refolded(writer.log))
    return began[0]


def test_a_snapshot_is_kept_at_every_checkpoint_with_the_digest_that_the_log_gives(
    ledger: Ledger,
) -> None:
    writer = ledger.another()
    checkpoints = {
        event.position: event.body
        for event in map(from_row, writer.log.read())
        if isinstance(event.body, Checkpointed)
    }
    kept = rows(ledger)
    assert len(kept) >= 3
    for position, hash_, data in kept:
        (row,) = writer.log.read(position - 1, position)
        assert row.hash == hash_
        book = Book()
        for event in map(from_row, writer.log.read(0, position)):
            evolve(book, event)
        assert dump(book) == data
        assert checkpoints[position + 1].book == book_digest(book)


def test_a_new_writer_begins_at_the_newest_snapshot(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = rows(ledger)[-1][0]
    assert folded_from(ledger, monkeypatch) == newest


def test_the_same_commands_from_a_snapshot_and_from_a_fold_give_the_same_rows(
    ledger: Ledger, tmp_path: Path
) -> None:
    written = []
    for name in ("with", "without"):
        suffixes = (".db", ".db.gate", *([".db.views.db"] if name == "with" else []))
        copy = copy_of(ledger, tmp_path / name, *suffixes)
        assert views(copy).exists() == (name == "with")
        before = copy.writer.log.head().position
        use(copy, 10)
        written.append(list(copy.writer.log.read(before)))
        check_whole(copy.writer)
        copy.close()
    assert len(written[0]) > 20
    assert written[0] == written[1]


@pytest.mark.parametrize("what", ["deleted", "emptied", "no database", "no table", "a folder"])
def test_without_a_usable_file_the_log_is_folded(
    ledger: Ledger, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = views(ledger)
    if what == "no table":
        change(ledger, "DROP TABLE snapshots")
    else:
        file.unlink()
    if what == "emptied":
        file.touch()
    elif what == "no database":
        file.write_bytes(b"not a database at all" * 100)
    elif what == "a folder":
        file.mkdir()
    assert folded_from(ledger, monkeypatch) == 0
    ledger.writer = ledger.another()
    use(ledger, 10)
    check_whole(ledger.writer)


@pytest.mark.parametrize(
    "garble",
    [
        lambda data: b"",
        lambda data: b"null",
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + b"\xff",
        lambda data: data.replace(b'"n1"', b'"n9"'),
        lambda data: data.replace(b'"cpu":8000', b'"cpu":9000'),
        lambda data: data.replace(b'"state":"active"', b'"state":"ended"', 1),
        lambda data: data.replace(b'"in_use":{"cpu":', b'"in_use":{"cpu":1'),
    ],
    ids=range(10),
)
def test_a_garbled_book_is_not_believed_though_it_may_read_well(
    ledger: Ledger, garble: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, _, data = rows(ledger)[-1]
    garbled = garble(data)
    assert garbled != data
    change(ledger, "UPDATE snapshots SET book = ? WHERE position = ?", garbled, newest)
    assert folded_from(ledger, monkeypatch) in (0, rows(ledger)[-2][0])


def test_a_book_under_another_position_is_not_believed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = rows(ledger)
    newest, older = kept[-1], kept[-2]
    change(ledger, "UPDATE snapshots SET book = ? WHERE position = ?", older[2], newest[0])
    assert folded_from(ledger, monkeypatch) == older[0]


def test_snapshots_of_another_ledger_are_ignored(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", EVERY)
    folder = tmp_path / "other"
    folder.mkdir()
    other = Ledger(folder, "sqlite")
    other.pool("else", n1={"cpu": 1})
    for number in range(3 * EVERY):
        other.do(StartTask(command_id=f"t{number}", task=f"t{number}", by="h"))
    other.close()
    assert len(rows(other)) >= 2
    shutil.copy(views(other), views(ledger))
    assert folded_from(ledger, monkeypatch) == 0


def test_snapshots_ahead_of_a_log_that_was_restored_are_ignored(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = rows(ledger)
    backup = tmp_path / "backup.db"
    shutil.copy(ledger.path, backup)
    ledger.writer = ledger.another()
    use(ledger, 40)
    ledger.close()
    assert rows(ledger)[-1][0] > kept[-1][0]
    shutil.copy(backup, ledger.path)
    assert folded_from(ledger, monkeypatch) <= kept[-1][0]
    # What is written from here on is another history: its snapshots replace the stale ones.
    ledger.writer = ledger.another()
    use(ledger, 60)
    check_whole(ledger.writer)
    ledger.close()
    assert folded_from(ledger, monkeypatch) > kept[-1][0]


def test_a_snapshot_that_no_checkpoint_vouches_for_is_not_believed(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy of the log that ends exactly where a snapshot was taken: the event that would prove it
    # is not there.
    kept = rows(ledger)
    newest, before = kept[-1][0], kept[-2][0]
    folder = tmp_path / "cut"
    folder.mkdir()
    with (
        SqliteLog.open(ledger.path) as log,
        SqliteLog.open(folder / "ledger.db", create=True) as cut,
        cut.transaction() as transaction,
    ):
        transaction.append(log.read(0, newest))
    shutil.copy(views(ledger), folder / views(ledger).name)
    ledger.path = folder / "ledger.db"
    assert folded_from(ledger, monkeypatch) == before


def test_snapshots_of_another_list_of_fields_are_ignored(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(ledger, "UPDATE snapshots SET fields = fields + 1")
    assert folded_from(ledger, monkeypatch) == 0


def test_a_locked_file_of_views_costs_a_snapshot_and_no_command(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(ledger)
    holder = sqlite3.connect(str(views(ledger)), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    ledger.writer = ledger.another()
    for number in range(EVERY + 5):
        ledger.do(StartTask(command_id=f"l{number}", task=f"l{number}", by="h"))
    assert ledger.types().count("checkpointed") > len(before)
    holder.execute("ROLLBACK")
    holder.close()
    check_whole(ledger.writer)
    assert rows(ledger) == before


def test_a_view_file_is_readable_by_its_owner_only(ledger: Ledger) -> None:
    assert views(ledger).stat().st_mode & 0o077 == 0


def test_old_snapshots_are_thinned_out_and_the_newest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots_module, "KEPT", 8)
    store = Snapshots(tmp_path / "x.db")
    scenario = Scenario()
    heads = {}
    for position in range(1, 41):
        scenario.book.position = position
        heads[position] = Head(position, bytes([position]) * 32, position)
        store.save(heads[position], dump(scenario.book))
    connection = sqlite3.connect(str(store.path))
    kept = [row[0] for row in connection.execute("SELECT position FROM snapshots ORDER BY 1")]
    connection.close()
    assert len(kept) <= 8
    assert kept[-4:] == [37, 38, 39, 40]
    assert kept[0] == 1
    newest = store.newest(heads.get)
    assert newest is not None
    assert newest.position == 40
    older = store.newest(heads.get, upto=39)
    assert older is not None
    assert older.position == 39
    assert store.newest(lambda position: None) is None
