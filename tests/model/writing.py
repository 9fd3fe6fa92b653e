"""The state machine's ledger with a writer and a log underneath: idempotency joins the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ledger.book import Allocation, Book
from ledger.clock import Reading
from ledger.codec import from_row
from ledger.commands import Allocate, AnyCommand
from ledger.errors import Reason
from ledger.events import Event
from ledger.log import Log
from ledger.writer import Writer
from tests.model.driver import Taken


@dataclass(frozen=True, slots=True)
class Done:
    """A command that had an effect, and the positions of that."""

    command: AnyCommand
    positions: tuple[int, ...]


class WriterDriver:
    """Two writers take turns on a ledger, as two processes would, each with its own view of the log.

    Before each command an earlier one that had an effect is tried again: it must have none.
    """

    def __init__(self, log: Log, same: Log, finish: Callable[[], None] = lambda: None) -> None:
        self.log = log
        self.now = 0
        self._writers = [Writer(each, clock=self._read) for each in (log, same)]
        self._turn = 0
        self._done: list[Done] = []
        self._finish = finish

    def _read(self) -> Reading:
        return Reading(self.now, self.now, self.now, "boot")

    @property
    def _writer(self) -> Writer:
        return self._writers[self._turn % 2]

    @property
    def book(self) -> Book:
        """The book of the writer whose turn it was."""
        found = self._writer.glance()
        assert found is not None
        return found

    def _since(self, position: int) -> list[Event]:
        return [from_row(row) for row in self.log.read(position)]

    def settle(self, now: int) -> list[Event]:
        """As :meth:`tests.model.driver.Driver.settle`."""
        self.now = now
        before = self.log.head().position
        self._writer.settle()
        return self._since(before)

    def take(self, command: AnyCommand, now: int, ended: Allocation | None) -> Taken:
        """As :meth:`tests.model.driver.Driver.take`; ``ended`` the writer finds by itself."""
        self.now = now
        self._turn += 1
        self._try_again()
        before = self.log.head().position
        receipt = self._writer.execute(command)
        events = self._since(before)
        positions = receipt.positions
        rows = {event.position: event for event in self._since(0) if event.position in positions}
        own = [rows[position] for position in positions]
        if any(event.type != "refused" for event in own):
            self._done.append(Done(command, positions))
        assert not receipt.replayed
        return Taken(events, own)

    def _try_again(self) -> None:
        """The last command and an older one have their effect once and for ever."""
        head = self.log.head()
        for done in (self._done[-1:] + self._done[len(self._done) // 2 :])[:2]:
            again = self._writer.execute(done.command)
            assert again.replayed or any(item.replayed for item in again.results), again
            assert again.positions == done.positions
            if isinstance(done.command, Allocate):
                other = replace(done.command, holder="somebody else")
                assert self._writer.execute(other).reason == Reason.COMMAND_ID_REUSED
        assert self.log.head() == head

    def close(self) -> None:
        """As :meth:`tests.model.driver.Driver.close`."""
        for writer in self._writers:
            writer.close()
        self._finish()
