"""What a caller can ask of a run, and what is checked before anything happens."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ledger.amounts import parse_duration_ns
from ledger.errors import InvalidInput, LeasebookError
from ledger.requests import DEFAULT_PRIORITY

REFUSED: Final = 124
FAILED: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
OF_SIGNAL: Final = 128
"""Exit codes of a run itself, as ``timeout`` and ``env`` have them; 128 + n as a shell."""

WAIT_NS_DEFAULT: Final = 24 * 3600 * 10**9
"""How long a run waits for its turn unless told otherwise."""

STRAYS: Final = ("kill", "keep")
IF_UNAVAILABLE: Final = ("fail", "wait", "proceed")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a command.

    ``amounts`` as ``{"cpu": "2", "memory": "4GiB"}``; empty takes what history suggests, else a
    fair share. ``pool`` None is the allocation this process runs in, else ``local``. ``tenant``,
    ``task`` and ``holder`` None are those of that allocation, else the usual defaults. ``wait`` is
    how long a place in the queue is kept (None: a day, 0: not at all). ``receipt`` is a file for a
    JSON account of the run. ``strays`` says what becomes of processes that outlive the command.
    ``if_unavailable`` is for a ledger that cannot be used: ``fail``, ``wait`` for it, or
    ``proceed`` unrecorded; ``proceed`` goes on too where there is no capacity, which the ledger
    records as the refusal it is. ``quiet`` says nothing but errors, ``as_json`` writes the account
    to stderr as one line of JSON in place of the summary and of everything else; where the command was
    not started, as ``{"error": {"reason", "message", "hint"}}``.
    """

    amounts: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None
    task: str | None = None
    holder: str | None = None
    tenant: str | None = None
    wait: int | float | str | None = None
    receipt: str | Path | None = None
    strays: str = "kill"
    if_unavailable: str = "fail"
    priority: str = DEFAULT_PRIORITY
    select: Mapping[str, str] | None = None
    quiet: bool = False
    as_json: bool = False

    @property
    def wait_ns(self) -> int:
        """How long to wait for a turn; 0 is not at all. Raises InvalidDuration."""
        if self.wait is None:
            return WAIT_NS_DEFAULT
        return parse_duration_ns(self.wait, allow_zero=True)

    def check(self) -> None:
        """Raise InvalidInput for what can never be right."""
        for name, given, known in (
            ("strays", self.strays, STRAYS),
            ("if_unavailable", self.if_unavailable, IF_UNAVAILABLE),
        ):
            if given not in known:
                raise InvalidInput(f"{name} cannot be {given!r}", f"choose {' or '.join(known)}")
        assert self.wait_ns >= 0


class CannotStart(LeasebookError):
    """The command cannot be started; ``code`` is what a shell would exit with."""

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(message, hint)
        self.code = code

    @property
    def reason(self) -> str:
        """The word for it where a program is told."""
        return "not_found" if self.code == NOT_FOUND else "not_executable"


def program_of(argv: Sequence[str]) -> str:
    """The program's name, which is all that is ever recorded of a command line."""
    return (os.path.basename(argv[0]) or argv[0])[:100]


def check_command(argv: Sequence[str]) -> None:
    """See that a command can be started before anybody waits for capacity.

    Raises InvalidInput for no command, CannotStart for one that is not there (127) or that may not
    be executed (126).
    """
    if not argv or not argv[0]:
        raise InvalidInput("there is no command to run", "give one: leasebook run -- COMMAND …")
    if any("\0" in word for word in argv):
        raise InvalidInput("a command cannot hold a NUL character", "leave it out")
    name = argv[0]
    if shutil.which(name) is not None:
        return
    if os.path.dirname(name) and os.path.exists(name):
        why = "is a folder" if os.path.isdir(name) else "may not be executed"
        raise CannotStart(f"{program_of(argv)} {why}", "see `ls -l`", NOT_EXECUTABLE)
    raise CannotStart(f"{program_of(argv)}: no such command", "check its name and PATH", NOT_FOUND)


def cannot_start(argv: Sequence[str], error: OSError) -> CannotStart:
    """What a failed start means, as a shell says it."""
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    return CannotStart(
        f"{program_of(argv)} cannot be started: {error.strerror or error}",
        "check the program, and the interpreter its first line names",
        NOT_FOUND if missing else NOT_EXECUTABLE,
    )
