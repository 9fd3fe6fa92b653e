"""The loop around a running command: signals, stops, measuring, a lost allocation, its end."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from leasebook.run.measuring import Meter
from leasebook.run.signals import Signals
from leasebook.run.starting import Command
from leasebook.run.terminal import Terminal
from ledger.events import UsageRecorded
from ledger.identity import ProcessIdentity
from ledger.requests import Amounts
from scheduler.processes.ending import end_tree

if TYPE_CHECKING:
    from leasebook.run.holding import Keeper, Loss

STRAYS_GRACE_S: Final = 2.0
"""Between TERM and KILL for what the command left behind."""


@dataclass(slots=True)
class Outcome:
    """How a command ended.

    ``code`` is its exit code, 128 + n for signal n. ``strays`` outlived it; ``strays_left`` of them
    still run. ``oom_kills`` counts processes that the kernel killed at the memory limit.
    """

    code: int
    signal: int | None
    wall_ns: int
    strays: int
    strays_left: int
    oom_kills: int
    lost: Loss | None
    usages: list[UsageRecorded] = field(default_factory=list)
    """Every aggregate of the run, in order; the last is the final one."""
    group_memory_peak: int | None = None


class Watch:
    """Watches one command to its end. For the main thread."""

    def __init__(
        self,
        command: Command,
        root: ProcessIdentity,
        meter: Meter,
        signals: Signals,
        terminal: Terminal,
        keeper: Keeper | None,
        strays: str,
    ) -> None:
        self._command = command
        self._root = root
        self._meter = meter
        self._signals = signals
        self._terminal = terminal
        self._keeper = keeper
        self._strays = strays
        self._amounts = None if keeper is None else keeper.amounts
        self._lost: Loss | None = None
        self._ender: threading.Thread | None = None

    @property
    def _pid(self) -> int:
        return self._command.process.pid

    def run(self) -> Outcome:
        """Wait for the command's end, and for that of what it left behind."""
        began = time.monotonic_ns()
        while not self._has_ended():
            for number in self._signals.wait(self._meter.next_at - time.monotonic()):
                self._terminal.forward(self._pid, number)
            if self._keeper is not None:
                self._follow(self._keeper.amounts)
                if self._keeper.loss is not None:
                    self._stop_for(self._keeper.loss)
            if time.monotonic() >= self._meter.next_at:
                self._record(self._meter.sample())
        # A zombie still shows what it used; once it is waited for that is gone.
        self._record(self._meter.sample())
        wall_ns = time.monotonic_ns() - began
        if self._ender is not None:
            self._ender.join()
        strays, left = self._see_to_strays()
        return self._outcome(wall_ns, strays, left)

    def _follow(self, amounts: Amounts) -> None:
        """Let the limits follow an allocation that was adjusted, by hand or by the ledger."""
        enclosure = self._command.enclosure
        if amounts == self._amounts:
            return
        self._amounts = amounts
        if enclosure is not None:
            enclosure.resize(amounts.get("cpu"), amounts.get("memory"))

    def _record(self, usage: UsageRecorded | None) -> None:
        if usage is not None and self._keeper is not None:
            self._keeper.record(usage)

    def _has_ended(self) -> bool:
        """Whether the command has ended; it stays a zombie. One that stopped stops us too."""
        options = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        seen = os.waitid(os.P_PID, self._pid, options)
        if seen is None:
            return False
        if seen.si_code != os.CLD_STOPPED:
            return True
        # Taken note of, so that the same stop is not seen again.
        os.waitid(os.P_PID, self._pid, os.WSTOPPED | os.WNOHANG)
        if self._terminal.stopped(self._pid):
            # What continued us has been handed on. Once more, and it would undo the next Ctrl-Z.
            self._signals.drop(signal.SIGCONT)
        return False

    def _stop_for(self, loss: Loss) -> None:
        """End the command because its allocation is lost, from a thread: we go on measuring."""
        if self._lost is not None:
            return
        self._lost = loss
        enclosure = self._command.enclosure
        members = None if enclosure is None else enclosure.pids

        def end() -> None:
            end_tree([self._root, *daemons], loss.grace_s, members=members)
            self._signals.wake()

        daemons = self._meter.strays()
        self._ender = threading.Thread(target=end, name="leasebook-ending", daemon=True)
        self._ender.start()

    def _see_to_strays(self) -> tuple[int, int]:
        """End what outlived the command, unless it is to be kept: (how many, how many still run).

        Without its allocation nothing may go on, whatever was asked.
        """
        found = self._meter.strays()
        if not found or (self._strays == "keep" and self._lost is None):
            return len(found), len(found)
        enclosure = self._command.enclosure
        members = None if enclosure is None else enclosure.pids
        end_tree(found, STRAYS_GRACE_S, members=members)
        if enclosure is not None:
            enclosure.kill()
        return len(found), len(self._meter.strays())

    def _outcome(self, wall_ns: int, strays: int, left: int) -> Outcome:
        # The last look is taken while the command is still there to be looked at.
        status = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        assert status is not None
        by_signal = status.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        code = 128 + status.si_status if by_signal else status.si_status
        self._meter.finish(code)
        self._command.process.wait()
        enclosure = self._command.enclosure
        oom_kills = 0 if enclosure is None else enclosure.oom_events()
        if enclosure is not None:
            enclosure.remove()
        return Outcome(
            code=code,
            signal=status.si_status if by_signal else None,
            wall_ns=wall_ns,
            strays=strays,
            strays_left=left,
            oom_kills=oom_kills,
            lost=self._lost,
            usages=self._meter.closed,
            group_memory_peak=self._meter.group_memory_peak,
        )
