"""Faults of the storage: damage, a full disk, missing permissions, network file systems.

The rule of all of them: an error of the house in one line, never a traceback of the driver, never a
wrong answer, and a log that is as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import filesystem
from ledger.errors import LeasebookError, LedgerCorrupt, LedgerReadOnly, LedgerUnavailable
from ledger.filesystem import is_network, kind_in, kind_of
from ledger.log import Head, Row
from ledger.sqlite_driver import sqlite3, translate
from ledger.sqlite_log import SqliteLog
from ledger.verify import VerifyResult, verify
from tests.rows import append, ordinary_allocation, plain_rows, row_after

_ROOT = Path(__file__).parents[2]
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of 400 rows, all of them in its file and none in a write-ahead log."""
    path = tmp_path / "ledger.db"
    with SqliteLog.open(path, create=True) as log:
        for start in range(0, 100, 25):
            append(log, *[s for n in range(start, start + 25) for s in ordinary_allocation(n)])
    return path


def _look(path: Path, head: Head) -> tuple[list[Row] | None, VerifyResult | None]:
    """Everything a reader would do; only errors of the house may come out of it."""
    try:
        with SqliteLog.open(path, read_only=True) as log:
            result = verify(log, notes=[head[:2]])
            rows = list(log.read())
            log.rows_of_allocation("A201")
            log.rows_of_command("default", "c")
            log.quick_check()
            return rows, result
    except LeasebookError as error:
        assert "\n" not in error.message
        return None, None


# Damage.


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_give_an_error_or_change_nothing(path: Path, seed: int) -> None:
    with SqliteLog.open(path) as log:
        head, rows = log.head(), list(log.read())
    content = bytearray(path.read_bytes())
    chance = random.Random(seed)
    start = chance.randrange(len(content))
    for place in range(start, min(start + chance.choice([1, 16, 512, PAGE]), len(content))):
        content[place] ^= chance.randrange(1, 256)
    path.write_bytes(content)
    seen, result = _look(path, head)
    if result is not None and result.ok:
        assert seen == rows
    elif result is not None:
        assert result.first_bad is not None
        assert 1 <= result.first_bad <= head.position


def test_a_damaged_page_in_the_middle_is_reported_everywhere(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with SqliteLog.open(path) as log:
        head = log.head()
    raw = sqlite3.connect(path)
    # The leaf pages of the table lie between its indexes' pages, so each is looked at.
    leaf = (
        raw.execute(
            "SELECT pageno FROM dbstat WHERE name = 'events' AND pagetype = 'leaf'"
        ).fetchall()
        if _has_dbstat(raw)
        else [(_leaf_pages(content)[10] // PAGE + 1,)]
    )
    raw.close()
    start = (leaf[len(leaf) // 2][0] - 1) * PAGE
    content[start : start + PAGE] = bytes(PAGE)
    path.write_bytes(content)
    with SqliteLog.open(path) as log:
        with pytest.raises(LedgerCorrupt, match="damaged") as caught:
            list(log.read())
        assert caught.value.hint
        assert log.quick_check() != []
        result = verify(log)
        assert not result.ok
        assert result.first_bad is not None
        assert 1 < result.first_bad < head.position
        sound = list(log.read(0, result.first_bad - 1))
        assert len(sound) == result.events
        assert sound[-1].hash == result.head


def _has_dbstat(raw: sqlite3.Connection) -> bool:
    try:
        raw.execute("SELECT 1 FROM dbstat LIMIT 1").fetchall()
    except sqlite3.OperationalError:
        return False
    return True


def _leaf_pages(content: bytes | bytearray) -> list[int]:
    """Where the leaf pages of tables begin (type 13, https://sqlite.org/fileformat2.html)."""
    return [start for start in range(PAGE, len(content), PAGE) if content[start] == 13]


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_file_is_never_taken_for_whole(path: Path, tenths: int) -> None:
    with SqliteLog.open(path) as log:
        head = log.head()
    size = path.stat().st_size
    for end in {size * tenths // 10, size * tenths // 10 // PAGE * PAGE, size - PAGE, size - 1}:
        if end:
            os.truncate(path, end)
            _, result = _look(path, head)
            assert result is None or not result.ok


def test_a_damaged_ledger_is_not_written_further(path: Path) -> None:
    content = bytearray(path.read_bytes())
    last = _leaf_pages(content)[-1]
    content[last : last + PAGE] = bytes(PAGE)
    path.write_bytes(content)
    with SqliteLog.open(path) as log:
        with pytest.raises(LedgerCorrupt), log.transaction() as transaction:
            transaction.append([row_after(transaction.head())])
        with pytest.raises(LedgerCorrupt):
            log.head()


def test_a_damaged_first_page_is_damage_and_not_another_kind_of_file(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:16] = os.urandom(16)
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match="damaged header"):
        SqliteLog.open(path)


def test_a_ledger_without_its_table_is_damaged(path: Path) -> None:
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER events_no_delete")
    raw.execute("DROP TABLE events")
    raw.commit()
    raw.close()
    with SqliteLog.open(path) as log, pytest.raises(LedgerCorrupt, match="lacks a part"):
        log.head()


# The write-ahead log.


@pytest.fixture
def crashed(tmp_path: Path, path: Path) -> Iterator[tuple[Path, list[Row]]]:
    """A ledger as a crash leaves it: 400 rows in the file, 50 commits in the write-ahead log."""
    with SqliteLog.open(path) as log:
        for _ in range(50):
            append(log, {"metadata": '{"k":"v"}'})
        copy = tmp_path / "crashed" / "ledger.db"
        copy.parent.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        yield copy, list(log.read())


def test_commits_in_the_write_ahead_log_survive_a_crash(crashed: tuple[Path, list[Row]]) -> None:
    path, rows = crashed
    with SqliteLog.open(path) as log:
        assert list(log.read()) == rows
        append(log, {})
        assert verify(log).ok


def test_garbage_after_the_last_commit_is_ignored(crashed: tuple[Path, list[Row]]) -> None:
    path, rows = crashed
    with open(f"{path}-wal", "ab") as wal:
        wal.write(os.urandom(3 * PAGE + 7))
    with SqliteLog.open(path) as log:
        assert list(log.read()) == rows
        append(log, {})
        assert verify(log).ok


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_or_garbled_write_ahead_log_loses_whole_commits_from_its_end_only(
    crashed: tuple[Path, list[Row]], seed: int
) -> None:
    path, rows = crashed
    wal = Path(f"{path}-wal")
    content = bytearray(wal.read_bytes())
    chance = random.Random(seed)
    place = chance.randrange(len(content))
    if seed % 2:
        content[place:] = b""
    else:
        content[place] ^= 0xFF
    wal.write_bytes(content)
    with SqliteLog.open(path) as log:
        left = list(log.read())
        assert left == rows[: len(left)]
        assert len(left) >= 400
        assert verify(log).ok
        # What is gone shows against the last head that was noted elsewhere.
        last = rows[-1]
        whole = verify(log, notes=[(last.position, last.hash)])
        assert whole.ok == (left == rows)
        append(log, {})
        assert verify(log).ok


def test_a_lost_write_ahead_log_leaves_what_the_file_holds(
    crashed: tuple[Path, list[Row]],
) -> None:
    path, rows = crashed
    os.unlink(f"{path}-wal")
    with SqliteLog.open(path) as log:
        assert list(log.read()) == rows[:400]


# A full disk.


def test_a_full_database_refuses_the_append_and_goes_on_when_there_is_room(path: Path) -> None:
    with SqliteLog.open(path) as log:
        rows = append(log, {})
        writer = log._files.writer()
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerUnavailable, match="no space left") as caught:
            append(log, *[{"metadata": "x" * 5_000}] * 20)
        assert not isinstance(caught.value, LedgerReadOnly)
        assert log.head().position == rows[-1].position
        writer.execute("PRAGMA max_page_count = 1000000")
        append(log, *[{"metadata": "x" * 5_000}] * 20)
        assert verify(log).ok


_LIMITED = """
import resource, signal, sys
from ledger.errors import LedgerUnavailable
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify
from tests.rows import append
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = SqliteLog.open(sys.argv[1])
append(log, {})
acknowledged = log.head()
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
refused = 0
for _ in range(200):
    try:
        acknowledged = max(acknowledged, append(log, {"metadata": "x" * 3_000})[-1])
    except LedgerUnavailable as error:
        assert "nothing was recorded" in error.message, error.message
        refused += 1
assert refused, "the limit was never met"
assert log.head().position == acknowledged[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
append(log, {})
result = verify(log)
assert result.ok and result.events == acknowledged[0] + 1, result
"""


def test_a_disk_that_fills_up_while_writing_loses_nothing_that_was_acknowledged(
    path: Path,
) -> None:
    _run(_LIMITED, path)
    with SqliteLog.open(path) as log:
        assert verify(log).ok


def _run(code: str, *arguments: object, **options: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_ledger_on_a_full_disk_can_still_be_read(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    with SqliteLog.open(path, create=True) as log:
        append(log, {})
        with pytest.raises(LedgerUnavailable) as caught:
            for _ in range(200):
                append(log, {"metadata": "x" * 5_000})
        assert not isinstance(caught.value, LedgerReadOnly)
        head = log.head()
        assert head.position > 10
        assert verify(log).events == head.position
    with SqliteLog.open(path) as log:
        assert log.head() == head


def test_a_ledger_that_nobody_has_open_is_read_on_a_full_disk_too(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    with SqliteLog.open(path, create=True) as log:
        append(log, {})
        head = log.head()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for _ in range(2):
        with SqliteLog.open(path) as log:
            assert log.head() == head
            with pytest.raises(LedgerUnavailable, match="no space left") as caught:
                append(log, {})
            assert not isinstance(caught.value, LedgerReadOnly)
            assert log.head() == head
    filler.unlink()
    with SqliteLog.open(path) as log:
        append(log, {})
        assert log.head().position == head.position + 1
        assert verify(log).ok


def test_no_ledger_is_begun_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(500 * 1024))
    path = small_disk / "ledger.db"
    with pytest.raises(LedgerUnavailable):
        SqliteLog.open(path, create=True)
    (small_disk / "filler").unlink()
    with SqliteLog.open(path, create=True) as log:
        append(log, {})


# Permissions. Root may do everything, so that a process of another user is needed.


@pytest.fixture
def public(path: Path) -> Iterator[Path]:
    """The ledger in a folder that everybody can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="leasebook-test-") as name:
        Path(name).chmod(0o755)
        shutil.copy(path, Path(name) / "ledger.db")
        yield Path(name) / "ledger.db"


def _as_nobody(code: str, path: Path) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    prelude = (
        "import os, sys\n"
        "from ledger.errors import *\n"
        "from ledger.backup import backup\n"
        "from ledger.sqlite_log import SqliteLog\n"
        "from ledger.verify import verify\n"
        "from tests.rows import append\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    )
    return _run(prelude + code, path)


_READS = """
with SqliteLog.open(sys.argv[1], create=True) as log:
    assert verify(log).ok
    print(log.head().position)
    assert "no permission" in log.read_only_reason, log.read_only_reason
    try:
        append(log, {})
    except LedgerReadOnly as error:
        print(error.message)
"""


def test_a_ledger_in_a_folder_that_cannot_be_written_is_read(public: Path) -> None:
    for file in public.parent.iterdir():
        file.chmod(0o644)
    public.parent.chmod(0o755)
    names = sorted(public.parent.iterdir())
    lines = _as_nobody(_READS, public).splitlines()
    assert lines[0] == "400"
    assert "no permission to write" in lines[1]
    assert sorted(public.parent.iterdir()) == names


def test_a_ledger_that_others_are_writing_is_read_from_such_a_folder_too(public: Path) -> None:
    public.parent.chmod(0o755)
    public.chmod(0o644)
    with SqliteLog.open(public) as log:
        append(log, {})
        for file in public.parent.iterdir():
            file.chmod(0o644)
        assert _as_nobody(_READS, public).splitlines()[0] == "401"
        append(log, {})
        assert verify(log).ok


def test_a_read_only_file_is_read_and_not_written(public: Path) -> None:
    public.parent.chmod(0o777)
    public.chmod(0o444)
    lines = _as_nobody(_READS, public).splitlines()
    assert lines[0] == "400"
    assert "no permission to write" in lines[1]


_FAILS = """
for create in (False, True):
    try:
        SqliteLog.open(sys.argv[1], create=create)
    except LedgerUnavailable as error:
        print(type(error).__name__, error.message)
"""


def test_a_ledger_that_cannot_be_read_says_so(public: Path) -> None:
    public.parent.chmod(0o755)
    public.chmod(0o600)
    lines = _as_nobody(_FAILS, public).splitlines()
    assert len(lines) == 2
    assert all("Permission denied" in line for line in lines)
    public.parent.chmod(0o700)
    assert len(_as_nobody(_FAILS, public).splitlines()) == 2


def test_a_ledger_cannot_be_made_where_nothing_can_be_written(public: Path) -> None:
    public.parent.chmod(0o755)
    missing = public.parent / "sub" / "new.db"
    missing.parent.mkdir()
    lines = _as_nobody(_FAILS, missing).splitlines()
    assert len(lines) == 2
    assert "no ledger at" in lines[0]
    assert "no ledger can be made at" in lines[1]


def test_root_leaves_the_owner_able_to_write(public: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder, ledger = public.parent, public
    os.chown(folder, 65534, 65534)
    os.chown(ledger, 65534, 65534)
    ledger.chmod(0o600)
    with SqliteLog.open(ledger) as log:
        append(log, {})
        assert {file.stat().st_uid for file in folder.iterdir()} == {65534}
        theirs = "with SqliteLog.open(sys.argv[1]) as log: append(log, {}); print(log.head()[0])"
        assert _as_nobody(theirs, ledger) == "402\n"
        append(log, {})
        assert verify(log).ok


@pytest.fixture
def read_only_medium(path: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "medium"
    place.mkdir()
    shutil.copy(path, place / "ledger.db")
    for arguments in ("--bind", str(place), str(place)), ("-o", "remount,ro,bind", str(place)):
        if subprocess.run(["mount", *arguments], capture_output=True).returncode:
            subprocess.run(["umount", "-l", str(place)], capture_output=True)
            pytest.skip("no permission to mount a read-only medium")
    yield place / "ledger.db"
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_ledger_on_a_read_only_medium_is_read(read_only_medium: Path) -> None:
    for read_only in (False, True):
        with SqliteLog.open(read_only_medium, read_only=read_only) as log:
            assert verify(log).events == 400
            with pytest.raises(LedgerReadOnly):
                append(log, {})


# File systems.

_TABLE = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 27 0:30 / /home rw,relatime shared:2 - nfs4 server:/home rw
32 31 0:31 / /home/local\040disk rw - xfs /dev/vdb rw
33 27 0:32 / /mnt/x rw - ext4 /dev/vdc rw
34 27 0:33 / /mnt/x rw - fuse.sshfs me@there: rw
this line is no mount
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/x.db", "ext4"),
        ("/home/me/x.db", "nfs4"),
        ("/home", "nfs4"),
        ("/homely/x.db", "ext4"),
        ("/home/local disk/x.db", "xfs"),
        ("/mnt/x/y", "fuse.sshfs"),
        ("/proc/self", "proc"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str) -> None:
    assert kind_in(_TABLE, path) == kind


def test_network_file_systems_are_told_from_local_ones() -> None:
    for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "glusterfs", "fuse.sshfs"):
        assert is_network(kind), kind
    for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.ntfs-3g", "", "apfs"):
        assert not is_network(kind), kind


def test_this_machines_temporary_folder_is_local(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "not there yet") == kind_of(tmp_path)
    assert not is_network(kind_of(tmp_path))


def test_a_ledger_on_a_network_file_system_is_refused_with_an_explanation(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        f"27 1 254:0 / / rw - ext4 /dev/vda rw\n31 27 0:30 / {tmp_path} rw - nfs4 s rw\n"
    )
    monkeypatch.setattr(filesystem, "MOUNTS", table)
    for name in (path, tmp_path / "new" / "other.db"):
        with pytest.raises(LedgerUnavailable, match="network file system \\(nfs4\\)") as caught:
            SqliteLog.open(name, create=True)
        assert "leasebook serve" in caught.value.hint
    assert not (tmp_path / "new").exists()


# The table of translations.


def _error(kind: type[sqlite3.Error], text: str, code: int | None = None) -> sqlite3.Error:
    error = kind(text)
    if code is not None:
        error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("with_code", [True, False])
@pytest.mark.parametrize(
    ("text", "code", "expected", "part"),
    [
        ("database is locked", 5, LedgerUnavailable, "locked by pid 7 (vi)"),
        ("database table is locked", 6, LedgerUnavailable, "locked"),
        ("attempt to write a readonly database", 8, LedgerReadOnly, "cannot be written"),
        ("disk I/O error", 10 | 6 << 8, LedgerUnavailable, "the disk failed"),
        ("database disk image is malformed", 11, LedgerCorrupt, "damaged"),
        ("database or disk is full", 13, LedgerUnavailable, "no space left"),
        ("unable to open database file", 14, LedgerUnavailable, "cannot be opened"),
        ("file is not a database", 26, LedgerCorrupt, "damaged"),
        ("string or blob too big", 18, LedgerCorrupt, "damaged"),
        ("unsupported file format", 1, LedgerCorrupt, "damaged"),
        ("Could not decode to UTF-8 column 'data'", 1, LedgerCorrupt, "damaged"),
        ("no such table: events", 1, LedgerCorrupt, "lacks a part"),
        ("something new", 1, LedgerUnavailable, "something new"),
    ],
)
def test_every_error_of_the_driver_has_one_of_the_house(
    text: str, code: int, expected: type[LeasebookError], part: str, with_code: bool
) -> None:
    error = _error(sqlite3.OperationalError, text, code if with_code else None)
    made = translate(error, Path("/x/ledger.db"), held_by=lambda: "pid 7 (vi)")
    assert type(made) is expected
    assert part in made.message
    assert "/x/ledger.db" in made.message
    assert "\n" not in made.message + made.hint
    assert made.hint


def test_the_gate_on_a_full_or_forbidden_place_is_unavailable(tmp_path: Path) -> None:
    from ledger.gate import Gate

    gate = Gate(tmp_path / "missing" / "x.gate")
    with pytest.raises(LedgerUnavailable, match=os.strerror(errno.ENOENT)):
        gate.acquire(0.1)
    gate.path.parent.mkdir()
    with gate:
        assert gate.path.exists()
    link = tmp_path / "link.gate"
    link.symlink_to(gate.path)
    with pytest.raises(LedgerUnavailable):
        Gate(link).acquire(0.1)
    assert plain_rows(0) == []
