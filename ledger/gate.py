"""The writers' gate: one lock file per ledger that lets processes write in turn.

Waiting in SQLite itself is unfair: it polls, and a busy writer starves the others. The kernel wakes
those who wait in ``flock`` at once. The file also carries a small note, which whoever holds the
gate may leave for the next holder.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from struct import Struct
from types import TracebackType
from zlib import crc32

from ledger.errors import LedgerReadOnly, LedgerUnavailable
from ledger.locks import OwnedLock

PATIENCE_S = 30.0
"""How long a caller waits for a lock before the wait counts as a failure, in seconds."""

NOTE_BYTES_MAX = 250
"""The longest note that :meth:`Gate.write_note` takes, in bytes."""

_NOTE_HEAD = Struct(">HI")


class Gate:
    """The gate of one ledger: taken before its write lock, given back after the commit.

    Between threads it is a lock, between processes an exclusive ``flock``. One object serves one
    process: after a fork the child takes a file of its own.

    An interrupt (Ctrl-C) may strike between any two calls. So what has been taken can be told at any
    moment from the lock's owner and the descriptors, and :meth:`release` may be called once too often.
    """

    def __init__(self, path: Path, *, owner: os.stat_result | None = None) -> None:
        """A gate at ``path``; the file is made when it is first taken.

        ``owner`` is the ledger file's stat: a gate that root makes belongs to the ledger's owner.
        """
        self.path = path
        self._owner = owner
        self._thread_lock = OwnedLock()
        self._waiter: _Waiter | None = None
        self._fd = -1
        self._pid = 0
        self._last_note = (b"", b"")

    def acquire(self, patience_s: float = PATIENCE_S) -> None:
        """Take the gate, waiting up to ``patience_s`` seconds.

        Raises: :class:`~ledger.errors.LedgerUnavailable` when it stays taken, naming the holder
        where the system tells; :class:`~ledger.errors.LedgerReadOnly` without permission.
        """
        if self._thread_lock.is_mine() or not self._thread_lock.take(patience_s):
            raise LedgerUnavailable(
                f"{self.path} is held by a transaction of this process for over {patience_s:g} s",
                "end that transaction, then try again",
            )
        try:
            if self._pid != os.getpid():
                self.forget()
            if self._fd < 0:
                self._fd, self._pid = self._open(), os.getpid()
            if not self._take_at_once():
                self._wait(patience_s)
        except OSError as error:
            self.release()
            raise LedgerUnavailable(
                f"the gate {self.path} cannot be locked ({error.strerror})",
                "put the ledger on a local disk",
            ) from error
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the gate back; nothing where this thread does not hold it."""
        try:
            self._let_go()
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        if not self._thread_lock.is_mine():
            return
        if self._waiter is not None:
            self._waiter.abandon()
            self._waiter = None
        try:
            if self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
                # An interrupt on the way in may have left the place in the queue too.
                _queue(self._fd, _LOCK_NOW, fcntl.F_UNLCK)
        except OSError:
            # It goes with the descriptor.
            self.forget()
        self._thread_lock.release()

    def __enter__(self) -> Gate:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return self._thread_lock.is_mine()

    def read_note(self) -> bytes:
        """The last note, empty when there is none or a crash left half of one."""
        if self._fd < 0 or self._pid != os.getpid():
            try:
                raw = self.path.read_bytes()
            except OSError:
                return b""
        else:
            raw = os.pread(self._fd, _NOTE_HEAD.size + NOTE_BYTES_MAX, 0)
            if raw != self._last_note[0]:
                self._last_note = (raw, _note_in(raw))
            return self._last_note[1]
        return _note_in(raw)

    def write_note(self, note: bytes) -> None:
        """Leave a note of at most :data:`NOTE_BYTES_MAX` bytes; only while the gate is held.

        It is not synced to disk: a power cut may lose it, which reads as no note.

        Raises: ``ValueError`` for a longer one, :class:`~ledger.errors.LedgerUnavailable` when the
        file cannot be written.
        """
        if len(note) > NOTE_BYTES_MAX:
            raise ValueError(f"a note has at most {NOTE_BYTES_MAX} bytes, not {len(note)}")
        try:
            os.pwrite(self._fd, _NOTE_HEAD.pack(len(note), crc32(note)) + note, 0)
        except OSError as error:
            raise LedgerUnavailable(
                f"the gate {self.path} cannot be written ({error.strerror})",
                "check the disk and its free space, then try again",
            ) from error

    def forget(self) -> None:
        """Close the file without touching a lock that a parent process may hold through it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def pause(self, patience_s: float) -> bool:
        """Keep this process's threads out, for a fork; false when the gate stays in use."""
        if self._thread_lock.is_mine():
            return False
        return self._thread_lock.take(patience_s)

    def resume(self) -> None:
        """End a pause."""
        self._thread_lock.release()

    def after_fork_in_child(self) -> None:
        """Start anew in a child process, where no thread of the parent exists any more."""
        self._thread_lock = OwnedLock()
        self._waiter = None
        self.forget()

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        with self._thread_lock.lock:
            self.forget()

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            kind = LedgerReadOnly if error.errno in _FORBIDDEN else LedgerUnavailable
            raise kind(
                f"the gate {self.path} cannot be opened ({error.strerror})",
                "check the permissions of the ledger's folder",
            ) from error
        made = os.fstat(fd)
        if made.st_uid == os.geteuid() and made.st_mode & 0o600 != 0o600:
            # The umask took away what the owner needs.
            os.fchmod(fd, 0o600)
        if self._owner is not None and os.geteuid() == 0 and made.st_uid == 0:
            os.fchown(fd, self._owner.st_uid, self._owner.st_gid)
        return fd

    def _take_at_once(self) -> bool:
        """Whether the gate was free, and nobody waited for it.

        Before the gate itself a caller takes its place in the queue, a lock on one byte of the
        file. Whoever waits at the gate keeps the place until it is through, so a process that has
        just left cannot come back in before it: with the gate alone one of four busy processes
        got half of the commits.
        """
        try:
            _queue(self._fd, _LOCK_NOW, fcntl.F_WRLCK)
        except (BlockingIOError, PermissionError):
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            _queue(self._fd, _LOCK_NOW, fcntl.F_UNLCK)
        return True

    def _wait(self, patience_s: float) -> None:
        """Block in the kernel's queue, in a thread of its own because ``flock`` has no timeout."""
        waiter = self._waiter = _Waiter(self._open())
        waiter.start()
        if not waiter.came(patience_s):
            holder = holders_of([self.path]) or "another program"
            raise LedgerUnavailable(
                f"the ledger is being written by {holder}, and {self.path} stayed locked for"
                f" {patience_s:g} s",
                "end that program, or try again later",
            )
        before = self._fd
        # In one line without a call, where no interrupt strikes.
        self._fd, self._waiter = waiter.fd, None
        os.close(before)


def _note_in(raw: bytes) -> bytes:
    """The note in what was read from the file; empty when there is none, or half of one."""
    if len(raw) < _NOTE_HEAD.size:
        return b""
    length, checksum = _NOTE_HEAD.unpack_from(raw)
    note = raw[_NOTE_HEAD.size : _NOTE_HEAD.size + length]
    return note if len(note) == length and crc32(note) == checksum else b""


_QUEUE = Struct("hhqqi4x")
_LOCK_NOW: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_LOCK_WAIT: int | None = getattr(fcntl, "F_OFD_SETLKW", None)
_QUEUE_AT = 1 << 20
_PLACES = {
    kind: _QUEUE.pack(kind, os.SEEK_SET, _QUEUE_AT, 1, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK)
}


def _queue(fd: int, command: int | None, kind: int) -> None:
    """Take or leave the place in the queue; nothing where the system has no such locks."""
    if command is not None:
        fcntl.fcntl(fd, command, _PLACES[kind])


_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class _Waiter:
    """Waits for the lock on a descriptor; one that is no longer wanted lets go of it again.

    Nothing of ``threading`` above its locks is used: an interrupt inside ``Event.wait`` or
    ``Thread.start`` can leave a lock of theirs taken for ever.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._arrival = threading.Lock()
        self._arrival.acquire()
        self._decision = threading.Lock()
        self._arrived = False
        self._abandoned = False
        self._error: OSError | None = None

    def start(self) -> None:
        """Begin to wait, in a thread that ends with the process."""
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            _queue(self.fd, _LOCK_WAIT, fcntl.F_WRLCK)
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            _queue(self.fd, _LOCK_WAIT, fcntl.F_UNLCK)
        except OSError as error:
            self._error = error
        with self._decision:
            self._arrived = True
            if self._abandoned:
                os.close(self.fd)
        self._arrival.release()

    def came(self, patience_s: float) -> bool:
        """Whether the lock came in time. Raises OSError where it cannot be taken."""
        if not self._arrival.acquire(timeout=patience_s):
            return False
        if self._error is not None:
            raise self._error
        return True

    def abandon(self) -> None:
        """The lock is no longer wanted: let go of it, now or when it comes. Safe to call twice."""
        with self._decision:
            self._abandoned = True
            if self._arrived and self.fd >= 0:
                fd, self.fd = self.fd, -1
                os.close(fd)


def holders_of(paths: Iterable[Path]) -> str:
    """Who holds a write lock on one of these files: ``pid 12 (python3)``; empty when unknown.

    Read from ``/proc/locks`` (proc(5)); processes of other pid namespaces and hosts do not show.
    """
    inodes = set()
    for path in paths:
        try:
            inodes.add(path.stat().st_ino)
        except OSError:
            continue
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    names = {}
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[1] == "->" or fields[3] != "WRITE":
            continue
        inode = fields[5].rpartition(":")[2]
        if inode.isdigit() and int(inode) in inodes and int(fields[4]) > 0:
            names[int(fields[4])] = _program(int(fields[4]))
    return ", ".join(f"pid {pid} ({name})" for pid, name in sorted(names.items()))


def _program(pid: int) -> str:
    if pid == os.getpid():
        return "this process"
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"
