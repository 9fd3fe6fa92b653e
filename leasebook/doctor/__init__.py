"""``leasebook doctor``: what is wrong, or only odd, with a ledger and the machine it lies on.

``examine`` looks at everything and raises nothing; ``ledgers`` are the checks of the ledger itself,
``machine`` those of its surroundings. ``accept_clock`` is the one thing that it can mend.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from leasebook.doctor.finding import Finding, Level, as_json, as_text, guarded, worst

if TYPE_CHECKING:
    from ledger.receipts import Receipt
    from ledger.writer import Writer

__all__ = ["Finding", "Level", "accept_clock", "as_json", "as_text", "examine", "worst"]


def examine(path: Path | None = None) -> list[Finding]:
    """Everything the doctor finds about the ledger at ``path`` and this machine. Raises nothing.

    Without a path it is the ledger that a command would use. Nothing is created or written to the
    ledger: one that is not there yet is a finding, not a fault.
    """
    from leasebook.doctor import ledgers, machine
    from leasebook.settings import ledger_path, which_ledger
    from ledger.errors import LeasebookError

    findings = guarded("packages", machine.packages)
    findings += guarded("sqlite", ledgers.sqlite)
    try:
        path = ledger_path(which_ledger(None if path is None else str(path)))
    except (LeasebookError, OSError, RuntimeError) as error:
        hint = error.hint if isinstance(error, LeasebookError) else ""
        findings.append(Finding("ledger", "bad", f"no ledger can be told: {error}", hint))
    else:
        findings += ledgers.examine_ledger(path)
        findings += guarded("other ledgers", lambda: machine.other_ledgers(path))
        findings += guarded("sandbox", lambda: machine.sandbox(path.parent))
    findings += guarded("cgroup", machine.control_groups)
    findings += guarded("bytecode", machine.bytecode)
    return findings


def accept_clock(writer: Writer, who: str | None = None) -> Receipt:
    """Take the wall clock at its word after a jump, as ``who`` (by default the user) decides.

    Clears the alert; its receipt is returned (``unchanged`` where nothing was alerted). A jump
    forward is adopted in the next commit, which follows at once, and the leases that it touched
    are extended by as much. Raises what :meth:`ledger.writer.Writer.execute` raises.
    """
    from leasebook.calling import new_command_id
    from leasebook.settings import default_holder
    from ledger.clock import CLOCK_ALERT
    from ledger.commands import ClearAlert, WriteDue

    receipt = writer.execute(
        ClearAlert(
            command_id=new_command_id(),
            alert=CLOCK_ALERT,
            by=who or default_holder(),
            reason="the wall clock was accepted",
        )
    )
    writer.execute(WriteDue(command_id=""))
    return receipt
