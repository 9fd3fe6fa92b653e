"""The doctor on how fast a ledger grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from leasebook.doctor import ledgers
from ledger.log import EMPTY, Head
from ledger.sqlite_log import SqliteLog
from tests.rows import START_NS, row_after

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ledger"
    made.mkdir(mode=0o700)
    return made


def grown(path: Path, count: int, every_ns: int, *, before: int = 0) -> SqliteLog:
    """A log of ``before`` events at once, then ``count`` events, one each ``every_ns``."""
    log = SqliteLog.open(path, create=True)
    head, rows = EMPTY, []
    for number in range(-before, count):
        instant = START_NS + (number if number < 0 else number * every_ns)
        row = row_after(head, recorded_at=instant)
        head = Head(row.position, row.hash, row.recorded_at)
        rows.append(row)
    with log.transaction() as transaction:
        transaction.append(rows)
    return log


def test_growth_is_measured_over_the_last_days_only(folder: Path) -> None:
    # A thousand at once long ago, then one every hour for ten days: the last week counts.
    log = grown(folder / "ledger.db", 240, HOUR, before=1_000)
    (finding,) = ledgers.growth(log, days=7)
    log.close()
    assert finding.facts["over_days"] == 7
    assert finding.facts["events_per_day"] == 24
    per_event = finding.facts["bytes_per_event"]
    assert per_event == pytest.approx(log_size(folder) / 1_240, rel=0.5)
    assert finding.facts["bytes_per_day"] == pytest.approx(24 * per_event, rel=0.02)
    assert "24 events a day" in finding.message
    assert finding.level == "ok"


def log_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_ledger_younger_than_a_week_is_measured_over_its_life(folder: Path) -> None:
    log = grown(folder / "ledger.db", 50, HOUR)
    (finding,) = ledgers.growth(log)
    log.close()
    assert finding.facts["over_days"] == pytest.approx(49 / 24, abs=0.01)
    assert finding.facts["events_per_day"] == 24
    # Fifty events fill no file: what one takes cannot be told from that.
    assert finding.facts["bytes_per_day"] is None


def test_a_disk_that_growth_will_fill_soon_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = grown(folder / "ledger.db", 1_100, HOUR)
    monkeypatch.setattr(ledgers, "DAYS_LEFT_WARN", 10**12)
    (finding,) = ledgers.growth(log)
    log.close()
    assert finding.level == "warn"
    assert "the disk is full in" in finding.message
