"""Running the command under what it holds, and giving that back whatever happens."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from leasebook.calling import new_command_id
from leasebook.run import spool
from leasebook.run.environment import sized_environment
from leasebook.run.guardian import Guardian
from leasebook.run.holding import Hold, Keeper, Unfinished, settle, usage_fields
from leasebook.run.measuring import Meter, running_clock
from leasebook.run.options import RunOptions, program_of
from leasebook.run.signals import Signals
from leasebook.run.starting import Command, Limits, enclose, start
from leasebook.run.summary import Account, Speaker
from leasebook.run.terminal import Terminal
from leasebook.run.watching import Outcome, Watch
from leasebook.settings import default_holder, ledger_path, which_ledger
from ledger.book import Allocation, Book
from ledger.codec import from_row
from ledger.errors import LeasebookError
from ledger.events import UsageRecorded
from reports.efficiency import Efficiency, Use, efficiency_of, measure, rounded_bytes
from scheduler.processes.ending import end_tree
from scheduler.processes.identity import identify
from scheduler.processes.tree import become_subreaper

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager


class Execution:
    """One command, from its start to the release of what it held.

    ``hold`` None runs it without an allocation, because of ``unrecorded``.
    """

    def __init__(
        self,
        options: RunOptions,
        argv: Sequence[str],
        signals: Signals,
        guardian: Guardian | None,
        speaker: Speaker,
        manager: ResourceManager | None,
        hold: Hold | None,
        unrecorded: str | None,
        ledger: str | None,
    ) -> None:
        self._options = options
        self._argv = argv
        self._program = program_of(argv)
        self._signals = signals
        self._guardian = guardian
        self._speaker = speaker
        self._manager = manager
        self._hold = hold
        self._unrecorded = unrecorded
        self._ledger = ledger
        self._notes: list[str] = []
        self._limits = Limits(frozenset(), {})
        self._keeper: Keeper | None = None
        self._meter: Meter | None = None

    def run(self) -> Account:
        """Start it, watch it, record and release. Raises CannotStart, LedgerUnavailable."""
        if self._unrecorded is not None:
            self._speaker.note(f"running without an allocation: {self._unrecorded}")
        terminal = Terminal()
        broken = False
        try:
            outcome = self._start_and_watch(terminal)
            broken = outcome.signal is not None
        except BaseException:
            self._give_back([] if self._meter is None else self._meter.closed)
            raise
        finally:
            terminal.restore(broken=broken)
        self._give_back(outcome.usages)
        if self._hold is None:
            self._spool_unrecorded(outcome)
        return self._account(outcome)

    # --- the command -----------------------------------------------------------------------------

    def _start_and_watch(self, terminal: Terminal) -> Outcome:
        enclosure, limits = None, self._limits
        if self._hold is not None:
            enclosure, limits = enclose(self._hold.id, self._hold.allocation.amounts)
        with contextlib.suppress(OSError):
            # Without it a daemon's double fork gets away from the tree; the group still has it.
            become_subreaper()
        clock = running_clock(self._now())
        env = self._environment()
        self._signals.started = True
        command = start(self._argv, env, terminal, self._signals.taken, enclosure, limits)
        self._limits = command.limits
        terminal.give(command.process.pid)
        root = identify(command.process.pid)
        try:
            if self._guardian is not None:
                groups = () if command.enclosure is None else command.enclosure.directories()
                self._guardian.watch(root, groups)
            self._meter = Meter(root, command.enclosure, clock)
            if self._hold is not None:
                self._keeper = Keeper(self._hold, self._signals.wake, self._program)
            return Watch(
                command,
                root,
                self._meter,
                self._signals,
                terminal,
                self._keeper,
                self._options.strays,
            ).run()
        except BaseException:
            _abandon(command)
            raise

    def _now(self) -> int:
        """Ledger time, or the wall clock's where there is no ledger."""
        if self._manager is not None:
            with contextlib.suppress(LeasebookError):
                return self._manager.ledger.writer.read(lambda book, now: now)
        return time.time_ns()

    def _environment(self) -> dict[str, str]:
        hold = self._hold
        if hold is None:
            return sized_environment(os.environ, {}, (), allocation=None, ledger=self._ledger)
        one, path = hold.allocation, hold.manager.ledger.path
        hidden = "gpu" not in one.amounts and hold.manager.ledger.writer.read(
            lambda book, now: _has_cards(book, one)
        )
        env = sized_environment(
            os.environ,
            one.amounts,
            one.placements,
            allocation=None if path is None else one.id,
            ledger=None if path is None else str(path.absolute()),
            holder=self._options.holder,
            cards_hidden=hidden,
        )
        if "gpu" in one.amounts:
            self._check_cards(env, one)
        return env

    def _check_cards(self, env: dict[str, str], one: Allocation) -> None:
        """Say so where the user's own choice of cards is not what was granted."""
        shown = env.get("CUDA_VISIBLE_DEVICES", "")
        granted = {card for p in one.placements for card in (p.devices or {}).get("gpu", {})}
        if set(shown.split(",")) != granted:
            self._notes.append(
                f"CUDA_VISIBLE_DEVICES={shown} was set before and was left so; granted: "
                + ",".join(sorted(granted))
            )

    # --- after it --------------------------------------------------------------------------------

    def _give_back(self, usages: list[UsageRecorded]) -> None:
        """Record the use and release; what the ledger does not take is spooled."""
        hold = self._hold
        if hold is None:
            return
        recorded = frozenset[int]() if self._keeper is None else self._keeper.stop()
        unfinished = settle(hold, [u for u in usages if u.since not in recorded])
        if unfinished is not None:
            self._spool_unfinished(hold, unfinished)

    def _spool_unfinished(self, hold: Hold, unfinished: Unfinished) -> None:
        what = f"the end of {hold.id} could not be recorded: {unfinished.error.message}"
        self._spool(
            {
                "kind": "unfinished",
                "allocation": hold.id,
                "tenant": hold.tenant,
                "holder": hold.allocation.holder,
                "token": hold.allocation.token,
                "usages": [usage_fields(usage) for usage in unfinished.usages],
            },
            what,
        )

    def _spool_unrecorded(self, outcome: Outcome) -> None:
        total = _total(outcome.usages)
        self._spool(
            {
                "kind": "unrecorded",
                "program": self._program,
                "holder": self._options.holder or default_holder(),
                "task": self._options.task,
                "tenant": self._options.tenant,
                "pool": self._options.pool,
                "started_at": outcome.usages[0].since,
                "ended_at": outcome.usages[-1].until,
                "exit_code": outcome.code,
                "used": total.used_seconds,
                "peak": total.peak,
                "basis": total.bases,
                "why": self._unrecorded or "",
            },
            f"it ran without an allocation: {self._unrecorded}",
        )

    def _spool(self, entry: dict[str, Any], what: str) -> None:
        ledger = self._ledger
        if ledger is None:
            self._unrecorded = what
            return
        try:
            spool.add({"v": 1, "id": new_command_id(), "ledger": ledger, **entry})
            self._unrecorded = f"{what}; spooled, and recorded by the next run"
        except LeasebookError as error:
            self._unrecorded = f"{what}; nor could it be spooled: {error.message}"
            self._speaker.error(error)

    def _account(self, outcome: Outcome) -> Account:
        allocation, row = self._from_ledger()
        if row is None:
            row = self._from_memory(outcome)
        suggestion = dict(row.suggestion)
        if outcome.oom_kills and allocation is not None and "memory" in allocation.amounts:
            # The peak stops at the limit, so it says nothing about what would have done.
            suggestion["memory"] = rounded_bytes(allocation.amounts["memory"] * 3 // 2)
        return Account(
            program=self._program,
            code=outcome.code,
            outcome=outcome,
            limits=self._limits,
            efficiency=row,
            suggestion=suggestion,
            allocation=allocation,
            unrecorded=self._unrecorded,
            notes=self._notes,
        )

    def _from_ledger(self) -> tuple[Allocation | None, Efficiency | None]:
        """The allocation at its end and its row, as the record has them; as known where it fails."""
        hold = self._hold
        if hold is None:
            return None, None
        try:
            writer = hold.manager.ledger.writer
            events = [from_row(row) for row in writer.log.rows_of_allocation(hold.id)]
            now = writer.read(lambda book, now: now)
            return writer.present(hold.id) or hold.allocation, efficiency_of(events, now=now)
        except LeasebookError:
            return hold.allocation, None

    def _from_memory(self, outcome: Outcome) -> Efficiency:
        use = Use("" if self._hold is None else self._hold.id)
        if self._hold is not None:
            one = self._hold.allocation
            use.requested_at = one.requested_at
            use.grant(one.granted_at or outcome.usages[0].since, one.amounts)
        use.usages = outcome.usages
        return measure(use, now=outcome.usages[-1].until)


def _total(usages: list[UsageRecorded]) -> Efficiency:
    use = Use("")
    use.usages = usages
    return measure(use, now=usages[-1].until)


def _has_cards(book: Book, allocation: Allocation) -> bool:
    """Whether the pool has cards where the allocation stands."""
    pool = book.pools.get(allocation.pool)
    nodes = {} if pool is None else pool.space.nodes
    return any(p.node in nodes and nodes[p.node].cards.get("gpu") for p in allocation.placements)


def _abandon(command: Command) -> None:
    """End a command that we cannot watch any more: nothing may run on unrecorded."""
    enclosure = command.enclosure
    with contextlib.suppress(ProcessLookupError):
        members = None if enclosure is None else enclosure.pids
        end_tree([identify(command.process.pid)], 1.0, members=members)
    command.process.kill()
    command.process.wait()
    if enclosure is not None:
        enclosure.kill()
        enclosure.remove()


def ledger_name(where: Any) -> str | None:
    """The path of the ledger that is meant, also when it cannot be opened; None where unknown."""
    if callable(where):
        return None
    try:
        name = which_ledger(None if where is None else str(where))
        return None if name == ":memory:" else str(ledger_path(name).absolute())
    except (LeasebookError, OSError):
        return None
