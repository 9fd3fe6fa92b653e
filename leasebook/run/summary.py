"""What a run says at its end: a few lines for a person, one JSON document for a program."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leasebook.mapping import allocation_out
from leasebook.run.starting import Limits
from leasebook.run.watching import Outcome
from leasebook.when import rfc3339
from ledger.amounts import format_amounts
from ledger.book import Allocation
from ledger.errors import LeasebookError, Refused
from ledger.requests import Amounts
from reports.efficiency import Efficiency
from reports.seff import Seff, seff_lines


class Speaker:
    """Writes to stderr: stdout is the command's. Someone who does not listen stops nothing.

    With ``as_json`` there is one line of JSON at the end and nothing else: what would be said on the
    way is kept in ``said``.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet = quiet
        self._as_json = as_json
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """One line that may be left out."""
        if self._as_json:
            self.said.append(text)
        elif not self._quiet:
            self._write(f"leasebook: {text}")

    def error(self, error: LeasebookError) -> None:
        """What went wrong beside the run itself and what to do, in one line."""
        hint = f"; {error.hint}" if error.hint else ""
        if self._as_json:
            self.said.append(f"{error.message}{hint}")
        else:
            self._write(f"leasebook: {error.message}{hint}")

    def failed(self, reason: str, error: LeasebookError) -> None:
        """Why the run came to nothing, as a line or as the contract's error document."""
        if not self._as_json:
            self.error(error)
            return
        about = {"reason": reason, "message": error.message, "hint": error.hint}
        self._write(json.dumps({"error": about}))

    def lines(self, lines: list[str]) -> None:
        """Several lines, as they are."""
        self._write("\n".join(lines))

    def _write(self, text: str) -> None:
        # Closed, full or somebody else's terminal: that is no reason to lose an exit code.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


@dataclass(slots=True)
class Account:
    """All that is known of one run at its end."""

    program: str
    code: int
    outcome: Outcome
    limits: Limits
    efficiency: Efficiency
    suggestion: Amounts
    allocation: Allocation | None = None
    unrecorded: str | None = None
    """Why nothing, or not everything, is in the ledger; None where it is all there."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The account as a JSON-ready dict. The fencing token stays out of it."""
        one, outcome = self.allocation, self.outcome
        allocation = None if one is None else allocation_out(one)
        if allocation is not None:
            allocation["fencing_token"] = None
        return {
            "outcome": "ran",
            "program": self.program,
            "exit_code": self.code,
            "signal": outcome.signal,
            "allocation": allocation,
            "recorded": self.unrecorded is None,
            "unrecorded_because": self.unrecorded,
            "started_at": rfc3339(outcome.usages[0].since),
            "ended_at": rfc3339(outcome.usages[-1].until),
            "wall_s": outcome.wall_ns / 1e9,
            "waited_s": _waited_ns(one) / 1e9,
            "efficiency": self.efficiency.to_json(),
            "suggestion": format_amounts(self.suggestion),
            "memory_peak_group": outcome.group_memory_peak,
            "oom_kills": outcome.oom_kills,
            "enforced": sorted(self.limits.enforced),
            "advisory": self.limits.advisory,
            "strays": outcome.strays,
            "strays_left": outcome.strays_left,
            "lost": None if outcome.lost is None else outcome.lost.why,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """The account in the manner of Slurm's ``seff``."""
        one, outcome = self.allocation, self.outcome
        return seff_lines(
            Seff(
                program=self.program,
                allocation=None if one is None else one.id,
                pool=None if one is None else one.pool,
                amounts={} if one is None else one.amounts,
                code=self.code,
                signal=outcome.signal,
                wall_ns=outcome.wall_ns,
                waited_ns=_waited_ns(one),
                efficiency=self.efficiency,
                group_memory_peak=outcome.group_memory_peak,
                limits=_limits_text(self.limits),
                suggestion=self.suggestion,
                notes=_notes(self),
            )
        )


def _waited_ns(allocation: Allocation | None) -> int:
    if allocation is None or allocation.granted_at is None:
        return 0
    return allocation.granted_at - allocation.requested_at


def _limits_text(limits: Limits) -> str | None:
    """Which limits the kernel held the command to, and why not the others."""
    parts = []
    if limits.enforced:
        parts.append(f"{' and '.join(sorted(limits.enforced))} enforced (cgroup v{limits.version})")
    if limits.advisory:
        reasons = dict.fromkeys(limits.advisory.values())
        parts.append(f"{' and '.join(sorted(limits.advisory))} advisory: {'; '.join(reasons)}")
    return "; ".join(parts) or None


def _notes(account: Account) -> list[str]:
    outcome, notes = account.outcome, []
    if outcome.oom_kills:
        count = "a process" if outcome.oom_kills == 1 else f"{outcome.oom_kills} processes"
        notes.append(f"the kernel killed {count} at the memory limit; ask for more memory")
    if outcome.lost is not None:
        notes.append(f"the command was stopped because its allocation was lost: {outcome.lost.why}")
    if outcome.strays:
        notes.append(_strays_text(outcome))
    if account.unrecorded is not None:
        notes.append(account.unrecorded)
    return notes + account.notes


def _strays_text(outcome: Outcome) -> str:
    count = f"{outcome.strays} process{'' if outcome.strays == 1 else 'es'} outlived the command"
    if not outcome.strays_left:
        return f"{count} and {'was' if outcome.strays == 1 else 'were'} ended"
    return f"{count}; {outcome.strays_left} still running without an allocation, as unmanaged use"


def refusal_json(program: str, refusal: Refused) -> dict[str, Any]:
    """A refused run's account."""
    return {
        "outcome": "refused",
        "program": program,
        "reason": refusal.reason,
        "message": refusal.message,
        "hint": refusal.hint,
        "result": refusal.result,
    }


def write_receipt(path: str | Path, account: dict[str, Any]) -> None:
    """Write an account into a file, whole or not at all. Raises OSError."""
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(account, indent=2, sort_keys=True) + "\n", "utf-8")
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
