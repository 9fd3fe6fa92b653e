"""The flow of a run: open, ask, wait, start, watch, record, release, say how it was.

Whatever happens in between, the command's exit code comes through and the allocation is given back;
what the ledger cannot take is spooled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leasebook.run.guardian import Guardian
from leasebook.run.options import (
    FAILED,
    OF_SIGNAL,
    REFUSED,
    CannotStart,
    RunOptions,
    check_command,
    program_of,
)
from leasebook.run.signals import Signals
from ledger.errors import (
    LeasebookError,
    LedgerCorrupt,
    LedgerReadOnly,
    LedgerUnavailable,
    NotALedger,
    Reason,
    Refused,
)

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager
    from leasebook.run.holding import Ask, Hold
    from leasebook.run.summary import Account, Speaker

__all__ = ["RunOptions", "run"]

Where = str | Path | None
Opener = Callable[[], "ResourceManager"]

_INFRASTRUCTURE: Final = (LedgerUnavailable, LedgerCorrupt, NotALedger)

_NO_CAPACITY: Final = frozenset(
    {
        Reason.INSUFFICIENT_CAPACITY,
        Reason.EXCEEDS_POOL,
        Reason.UNMANAGED_USE,
        Reason.RESERVED_FOR_WAITING,
        Reason.QUEUE_FULL,
        Reason.WAIT_TIMED_OUT,
    }
)
"""Refusals after which ``proceed`` goes on. A quota or a priority that is not allowed is a rule
somebody made, and no lack of anything."""

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)


def run(where: Where | Opener, options: RunOptions, argv: Sequence[str]) -> int:
    """Hold resources while a command runs, and measure it; the exit code to leave with.

    ``where`` names the ledger as :func:`leasebook.open` takes it, or opens it. For the main thread
    of a program, before it has started threads. The command's own code comes back, 128 + n for
    signal n; 124 refused, 125 own failure, 126 not executable, 127 not found.
    """
    from leasebook.run.summary import Speaker

    speaker = Speaker(quiet=options.quiet, as_json=options.as_json)
    guardian: Guardian | None = None
    try:
        options.check()
        check_command(argv)
        guardian = Guardian.start()
        with Signals() as signals:
            return _Run(where, options, argv, signals, guardian, speaker).go()
    except CannotStart as error:
        speaker.failed(error.reason, error)
        return error.code
    except LeasebookError as error:
        from leasebook.cli.failures import failure_from

        speaker.failed(failure_from(error).reason, error)
        return FAILED
    except KeyboardInterrupt:
        return _interrupted(speaker, options, 2)
    finally:
        if guardian is not None:
            guardian.dismiss()


def _interrupted(speaker: Speaker, options: RunOptions, number: int) -> int:
    """The exit code of a run that a signal ended before its command began; a program is told why."""
    if options.as_json:
        speaker.failed("interrupted", LeasebookError(f"interrupted by signal {number}", ""))
    return OF_SIGNAL + number


class _Run:
    """One run on its way."""

    def __init__(
        self,
        where: Where | Opener,
        options: RunOptions,
        argv: Sequence[str],
        signals: Signals,
        guardian: Guardian | None,
        speaker: Speaker,
    ) -> None:
        self.where = where
        self.options = options
        self.argv = argv
        self.program = program_of(argv)
        self.signals = signals
        self.guardian = guardian
        self.speaker = speaker
        self.wait_until = time.monotonic() + options.wait_ns / 1e9

    def go(self) -> int:
        """All of it; the exit code."""
        from leasebook.run.executing import Execution, ledger_name
        from leasebook.run.holding import Interrupted

        manager: ResourceManager | None = None
        try:
            try:
                manager, hold, unrecorded = self._hold()
            except Interrupted as interrupted:
                return _interrupted(self.speaker, self.options, interrupted.number)
            except Refused as refusal:
                return self._refused(refusal)
            path = None if manager is None else manager.ledger.path
            ledger = ledger_name(self.where) if path is None else str(path.absolute())
            account = Execution(
                self.options,
                self.argv,
                self.signals,
                self.guardian,
                self.speaker,
                manager,
                hold,
                unrecorded,
                ledger,
            ).run()
        finally:
            self._close(manager)
        self._report(account)
        return account.code

    def _close(self, manager: ResourceManager | None) -> None:
        if manager is None:
            return
        try:
            manager.close()
        except LeasebookError as error:
            # All is written or spooled by now; this says only that the files close badly.
            self.speaker.error(error)

    # --- before ----------------------------------------------------------------------------------

    def _open(self) -> ResourceManager:
        if callable(self.where):
            return self.where()
        import leasebook

        return leasebook.open(self.where)

    def _hold(self) -> tuple[ResourceManager | None, Hold | None, str | None]:
        """The ledger and what it granted; or, where that may be, why the run goes unrecorded.

        Raises Refused, Interrupted, and what opening a ledger raises.
        """
        from leasebook.run.holding import Interrupted, fresh_command_id

        command_id = fresh_command_id()
        manager: ResourceManager | None = None
        attempt = 0
        said = False
        while True:
            try:
                if manager is None:
                    manager = self._open()
                return manager, self._acquire(manager, command_id), None
            except Refused as refusal:
                if self.options.if_unavailable == "proceed" and refusal.reason in _NO_CAPACITY:
                    return manager, None, f"refused: {refusal.message}"
                self._close(manager)
                raise
            except _INFRASTRUCTURE as error:
                if self.options.if_unavailable == "proceed":
                    self._close(manager)
                    return None, None, error.message
                if not self._may_wait_for(error):
                    self._close(manager)
                    raise
                if not said:
                    self.speaker.note(f"{error.message}; waiting for the ledger")
                    said = True
            except BaseException:
                self._close(manager)
                raise
            time.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1
            number = self.signals.asked_to_end()
            if number is not None:
                self._close(manager)
                raise Interrupted(number)

    def _may_wait_for(self, error: LeasebookError) -> bool:
        """Whether trying again may help: not where the file itself is wrong."""
        return (
            self.options.if_unavailable == "wait"
            and isinstance(error, LedgerUnavailable)
            and not isinstance(error, LedgerReadOnly)
            and time.monotonic() < self.wait_until
        )

    def _acquire(self, manager: ResourceManager, command_id: str) -> Hold:
        from leasebook.run.holding import acquire, as_input, prepare

        self._record_spooled(manager)
        ask: Ask = prepare(manager, self.options, self.speaker.note)
        left_ns = max(0, round((self.wait_until - time.monotonic()) * 1e9))
        hold = acquire(
            manager,
            ask,
            self.options,
            self.program,
            command_id,
            left_ns if self.options.wait_ns else 0,
            self.signals,
            self.speaker.note,
        )
        if hold.sized:
            amounts = as_input(hold.allocation.amounts)
            shown = " ".join(f"{name}={text}" for name, text in amounts.items())
            self.speaker.note(f"{hold.id} takes {shown}, {hold.sized}")
        return hold

    def _record_spooled(self, manager: ResourceManager) -> None:
        from leasebook.run.spool import SpoolUnusable, record_spooled

        try:
            spooled = record_spooled(manager)
        except SpoolUnusable as error:
            # What is in there waits for a better day; the ledger is here, and so is this run.
            self.speaker.note(error.message)
            return
        if spooled:
            self.speaker.note(f"recorded {spooled} spooled entries of earlier runs")

    def _refused(self, refusal: Refused) -> int:
        from leasebook.run.summary import refusal_json

        self._write(refusal_json(self.program, refusal))
        self.speaker.failed(refusal.reason, refusal)
        return REFUSED

    def _report(self, account: Account) -> None:
        """Say how it was: a summary or JSON on stderr, and the receipt."""
        import json

        document = account.to_json()
        noted = document["notes"]
        document["notes"] = [*noted, *self.speaker.said]
        self._write(document)
        if self.options.as_json:
            # Once more: that the receipt could not be written is said too.
            document["notes"] = [*noted, *self.speaker.said]
            self.speaker.lines([json.dumps(document, sort_keys=True)])
        elif not self.options.quiet:
            self.speaker.lines(account.lines())

    def _write(self, document: dict[str, Any]) -> None:
        from leasebook.run.summary import write_receipt

        if self.options.receipt is None:
            return
        try:
            write_receipt(self.options.receipt, document)
        except OSError as error:
            # The command has run; its exit code is worth more than its receipt.
            what = f"the receipt {self.options.receipt} cannot be written ({error.strerror})"
            self.speaker.error(LeasebookError(what, "give another file"))
