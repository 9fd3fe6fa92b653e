"""What a ledger takes on disk, with a write-ahead log beside it and without."""

from __future__ import annotations

from pathlib import Path

from ledger.sqlite_log import SqliteLog


def test_the_size_counts_what_is_there_and_misses_nothing_that_is_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with SqliteLog.open(path, create=True) as log:
        beside = path.with_name(path.name + "-wal")
        expected = path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
        assert log.size_bytes() == expected
        beside.unlink(missing_ok=True)
        assert log.size_bytes() == path.stat().st_size
