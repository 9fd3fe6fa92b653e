"""Several processes on one ledger: locks, forks, and being killed in the middle of a write."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO

import pytest

from ledger.errors import LedgerUnavailable
from ledger.gate import Gate
from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify
from tests.rows import append, redact

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    SqliteLog.open(path, create=True).close()
    return path


def _start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _pipe(end: IO[str] | None) -> IO[str]:
    assert end is not None
    return end


# Writers that are killed.

_WRITER = """
import os, sys
from ledger.sqlite_log import SqliteLog
from tests.rows import append, redact
log = SqliteLog.open(sys.argv[1])
while True:
    rows = append(log, *[{"metadata": "m" * 500}] * 3)
    os.write(1, b"%d %s\\n" % (rows[-1].position, rows[-1].hash.hex().encode()))
    if rows[-1].position % 4 == 0:
        redact(log, rows[0].position)
"""


def test_what_was_acknowledged_survives_twenty_kills_in_the_middle_of_writes(path: Path) -> None:
    chance = random.Random(5)
    acknowledged: dict[int, str] = {}
    for _ in range(5):
        writers = [_start(_WRITER, path) for _ in range(4)]
        first_lines = [_pipe(writer.stdout).readline() for writer in writers]
        for writer, first_line in zip(writers, first_lines, strict=True):
            time.sleep(chance.uniform(0, 0.03))
            writer.kill()
            lines = (first_line + _pipe(writer.stdout).read()).splitlines(keepends=True)
            # The last line may be cut in two by the kill; then nothing was acknowledged by it.
            whole = [line.split() for line in lines if line.endswith("\n")]
            acknowledged.update((int(position), hash_) for position, hash_ in whole)
            writer.communicate()
        with SqliteLog.open(path) as log:
            result = verify(log, notes=((p, bytes.fromhex(h)) for p, h in acknowledged.items()))
            assert result.ok, result.reason
            assert result.events >= max(acknowledged)
            assert log.quick_check() == []
            append(log, {})
    assert len(acknowledged) > 20


def test_writers_of_several_processes_lose_no_append(path: Path) -> None:
    code = (
        "import sys\n"
        "from ledger.sqlite_log import SqliteLog\n"
        "from tests.rows import append\n"
        "log = SqliteLog.open(sys.argv[1])\n"
        "for _ in range(60): append(log, {'holder': sys.argv[2]})\n"
    )
    writers = [_start(code, path, f"w{number}") for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    for writer in writers:
        writer.communicate()
    with SqliteLog.open(path) as log:
        holders = [row.holder for row in log.read()]
        assert {holder: holders.count(holder) for holder in set(holders)} == {
            f"w{number}": 60 for number in range(4)
        }
        assert verify(log).ok


# Others that hold a lock.

_GATE_HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1] + ".gate", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""
_FILE_HOLDER = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("code", [_GATE_HOLDER, _FILE_HOLDER])
def test_another_program_that_holds_the_lock_is_named_when_patience_ends(
    path: Path, code: str
) -> None:
    with SqliteLog.open(path, patience_s=0.2) as log:
        rows = append(log, {})
        holder = _start(code, path)
        assert _pipe(holder.stdout).readline() == "held\n"
        with pytest.raises(LedgerUnavailable) as caught:
            append(log, {})
        if Path("/proc/locks").exists():
            assert f"pid {holder.pid} (" in caught.value.message
        else:
            assert "another program" in caught.value.message
        # Readers are not held up, and once the lock is free writers go on.
        assert list(log.read()) == rows
        holder.communicate("\n")
        append(log, {})
        assert verify(log).ok


def test_a_writer_that_waits_gets_in_as_soon_as_the_gate_is_free(path: Path) -> None:
    holder = _start(_GATE_HOLDER, path)
    assert _pipe(holder.stdout).readline() == "held\n"
    with SqliteLog.open(path, patience_s=60) as log:
        waiting = threading.Thread(target=append, args=(log, {}))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        holder.communicate("\n")
        waiting.join()
        assert log.head().position == 1


def test_a_place_given_up_does_not_hold_the_gate_later(path: Path) -> None:
    gates = [Gate(path.with_name("ledger.db.gate")) for _ in range(4)]
    with gates[0]:
        for gate in gates[1:]:
            with pytest.raises(LedgerUnavailable, match="stayed locked for"):
                gate.acquire(0.05)
    for gate in gates:
        gate.acquire(10)
        gate.release()
        gate.close()


def test_a_lock_in_the_same_process_is_told_from_another_programs(path: Path) -> None:
    with SqliteLog.open(path) as one, SqliteLog.open(path, patience_s=0.1) as other:
        with one.transaction(), pytest.raises(LedgerUnavailable) as caught:
            append(other, {})
        if Path("/proc/locks").exists():
            assert f"pid {os.getpid()} (this process)" in caught.value.message


def test_a_reader_in_another_program_holds_up_no_writer(path: Path) -> None:
    with SqliteLog.open(path, patience_s=0.2) as log:
        append(log, {})
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        append(log, {})
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        reader.close()


# Forks.


def _in_child(work: object) -> int:
    """Run a function in a forked child and return its exit code: 0 when it returned."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_parent_and_child_both_go_on_after_a_fork(path: Path) -> None:
    with SqliteLog.open(path) as log:
        append(log, {"metadata": "{}"})
        before = list(log.read())

        def child() -> None:
            assert list(log.read(0, 1)) == before
            for _ in range(20):
                append(log, {"holder": "child"})
            redact(log, 1)

        pid = os.fork()
        if pid == 0:
            try:
                child()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        for _ in range(20):
            append(log, {"holder": "parent"})
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        result = verify(log)
        assert (result.ok, result.events, result.redacted) == (True, 42, 1)


def test_a_child_outlives_its_parents_connections(path: Path) -> None:
    log = SqliteLog.open(path)
    append(log, {})
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(ready, 1)
            append(log, {})
            assert verify(log).events == 3
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    append(log, {})
    log.close()
    os.write(go, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with SqliteLog.open(path) as again:
        assert verify(again).events == 3
    os.close(ready)
    os.close(go)


def test_a_fork_in_the_middle_of_a_transaction_leaves_the_child_without_the_ledger(
    path: Path,
) -> None:
    def child() -> None:
        for use in (lambda: append(log, {}), lambda: list(log.read()), log.head):
            with pytest.raises(LedgerUnavailable, match="forked in the middle"):
                use()

    with SqliteLog.open(path) as log:
        append(log, {})
        with log.transaction() as transaction:
            position = transaction.head().position
            assert _in_child(child) == 0
        assert position == 1
        append(log, {})
        assert verify(log).events == 2


def test_a_fork_waits_for_the_writes_of_other_threads(path: Path) -> None:
    stop = threading.Event()
    with SqliteLog.open(path) as log:

        def work() -> None:
            while not stop.is_set():
                append(log, {})

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            codes = [_in_child(lambda: append(log, {"holder": "child"})) for _ in range(5)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert codes == [0] * 5
        assert verify(log).ok
        assert [row.holder for row in log.read()].count("child") == 5
