"""What went wrong, as the command line says it: one line or one JSON document, and an exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import (
    InvalidInput,
    LeasebookError,
    LedgerCorrupt,
    LedgerReadOnly,
    LedgerUnavailable,
    LimitExceeded,
    NotALedger,
    Reason,
    Refused,
)

if TYPE_CHECKING:
    from pathlib import Path

DONE: Final = 0
FAILED: Final = 1
INVALID: Final = 2
REFUSED: Final = 3
MISSING: Final = 4
CONFLICT: Final = 5
UNPROVEN: Final = 6
WAITING: Final = 7
INTERRUPTED: Final = 130
"""As a shell counts a command that Ctrl-C ended."""
PIPE_CLOSED: Final = 141
"""As a shell counts a command whose reader went away."""

_OF_REASON: Final = {
    Reason.NO_SUCH_POOL: MISSING,
    Reason.NO_SUCH_ALLOCATION: MISSING,
    Reason.STALE_TOKEN: CONFLICT,
    Reason.COMMAND_ID_REUSED: CONFLICT,
    Reason.ALREADY_ENDED: CONFLICT,
    Reason.ALREADY_EXISTS: CONFLICT,
    Reason.INVALID: INVALID,
}

# Faults that are no refusal have no place in the enum of reasons; these words join it at the doors.
_FAULTS: Final[tuple[tuple[type[LeasebookError], str, int], ...]] = (
    (InvalidInput, "invalid", INVALID),
    (NotALedger, "not_a_ledger", INVALID),
    (LimitExceeded, "limit_exceeded", REFUSED),
    (LedgerReadOnly, "read_only", FAILED),
    (LedgerUnavailable, "unavailable", FAILED),
    (LedgerCorrupt, "corrupt", FAILED),
)


class Failure(Exception):
    """A failed command: reason, message, hint and exit code, ready to be said."""

    def __init__(self, reason: str, message: str, hint: str, code: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.code = code

    def to_json(self) -> dict[str, Any]:
        """The contract's error document."""
        return {
            "error": {
                "reason": self.reason,
                "message": one_line(self.message),
                "hint": one_line(self.hint),
            }
        }

    def line(self) -> str:
        """``leasebook: what; why; what to do``."""
        parts = [one_line(part) for part in (self.message, self.hint) if part]
        return "leasebook: " + "; ".join(parts)


def one_line(text: str) -> str:
    """The text without line breaks or runs of spaces, and without what a terminal would act on."""
    joined = " ".join(str(text).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in joined)


@contextlib.contextmanager
def about_file(file: str | Path) -> Iterator[None]:
    """A system's error within it that names no file, as that of a full disk, is about this one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(file)) from error


def code_of(reason: str) -> int:
    """The exit code of a refusal for this reason."""
    return _OF_REASON.get(Reason(reason), REFUSED)


def code_beside_command(code: int) -> int:
    """The exit code of ``run`` for a failure of ours, so that it is not taken for the command's."""
    return 124 if code == REFUSED else 125


def failure_from(error: Exception) -> Failure:
    """Any exception as a failure; what nobody foresaw is an internal error."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, Refused):
        from leasebook.cli.text import refusal_text

        message = error.message if error.result is None else refusal_text(error.result, hint=False)
        return Failure(error.reason, message, error.hint, code_of(error.reason))
    for kind, reason, code in _FAULTS:
        if isinstance(error, kind):
            return Failure(reason, error.message, error.hint, code)
    if isinstance(error, LeasebookError):
        return Failure("unavailable", error.message, error.hint, FAILED)
    if isinstance(error, OSError):
        what = error.strerror or type(error).__name__
        where = f"{error.filename}: " if error.filename else ""
        return Failure(
            "unavailable", f"{where}{what}", "check the path, its permissions and the disk", FAILED
        )
    return Failure(
        "internal",
        f"internal error: {type(error).__name__}: {error}",
        "this is a fault in the program: LEASEBOOK_DEBUG=1 shows where; please report it",
        FAILED,
    )
