"""Given / when / then for the rules: a book built from commands, and what the next one leads to.

No files, no clock: time is a number that each step moves on by one second unless it says otherwise.
"""

from __future__ import annotations

from typing import Any

from ledger.advance import advance
from ledger.book import Allocation, Book
from ledger.commands import (
    Allocate,
    AnyCommand,
    Claim,
    OpenLedger,
    OpenPool,
    Release,
    SetQuota,
)
from ledger.events import Event, Refused
from ledger.identity import ProcessIdentity
from ledger.requests import NodeSpec, Request
from ledger.step import is_due, settle_due, take_step

SECOND = 1_000_000_000
GIB = 2**30
PROCESS = ProcessIdentity("host", 4242, 77, "boot", "ns")


class Scenario:
    """A ledger without a log. ``events`` is all that has happened."""

    def __init__(self) -> None:
        self.book = Book()
        self.now = 1_000 * SECOND
        self.events: list[Event] = []
        self._ids = 0
        self.when(OpenLedger(command_id="open", ledger_id="test"))

    def next_id(self) -> str:
        self._ids += 1
        return f"c{self._ids}"

    def later(self, seconds: float) -> Scenario:
        self.now += int(seconds * SECOND)
        return self

    def settle(self) -> list[Event]:
        """Write down what is due now."""
        written: list[Event] = []
        while is_due(self.book, self.now):
            written += settle_due(self.book, self.now)
        self.events += written
        return written

    def when(self, command: AnyCommand) -> list[Event]:
        """Take one step a second later; returns all events recorded by it (not what was due)."""
        self.now += SECOND
        self.settle()
        target = getattr(command, "allocation", None)
        ended = None if target is None or target in self.book.allocations else self.fold(target)
        step = take_step(self.book, command, self.now, ended)
        self.events += step.events
        self.own = step.own
        return step.events

    def fold(self, allocation: str) -> Allocation | None:
        """An allocation's state from its own events."""
        state: Allocation | None = None
        for event in self.events:
            if event.allocation == allocation:
                state = advance(state, event)
        return state

    # --- shorthands ------------------------------------------------------------------------------

    def pool(
        self, name: str = "box", *, policy: dict[str, Any] | None = None, **nodes: Any
    ) -> None:
        """Open a pool; ``n1={"cpu": 4000}``, or a NodeSpec for labels."""
        specs = [
            given if isinstance(given, NodeSpec) else NodeSpec(node, given)
            for node, given in nodes.items()
        ]
        self.when(
            OpenPool(command_id=self.next_id(), pool=name, nodes=tuple(specs), policy=policy or {})
        )

    def request(
        self,
        amounts: dict[str, int],
        *,
        pool: str = "box",
        holder: str = "h1",
        tenant: str = "default",
        task: str | None = None,
        ttl: float | None = 1_000,
        wait: float | None = None,
        **more: Any,
    ) -> Allocate:
        bound = "process" in more
        return Allocate(
            command_id=self.next_id(),
            pool=pool,
            holder=holder,
            tenant=tenant,
            task=task,
            request=Request(
                amounts,
                ttl_ns=None if bound or ttl is None else int(ttl * SECOND),
                wait_ns=None if wait is None else int(wait * SECOND),
                **more,
            ),
        )

    def ask(self, amounts: dict[str, int], **options: Any) -> Event:
        """Ask for capacity; returns the outcome event."""
        self.when(self.request(amounts, **options))
        return self.own[0]

    def got(self, amounts: dict[str, int], **options: Any) -> str:
        """Ask, insist on a grant, and return the allocation's id."""
        event = self.ask(amounts, **options)
        assert event.type in ("allocated", "reserved"), event
        assert event.allocation is not None
        return event.allocation

    def refused(self, amounts: dict[str, int], **options: Any) -> Refused:
        """Ask, insist on a refusal, and return it."""
        body = self.ask(amounts, **options).body
        assert isinstance(body, Refused), body
        return body

    def waits(self, amounts: dict[str, int], **options: Any) -> str:
        """Ask, insist on a place in the queue, and return the id."""
        event = self.ask(amounts, **{"wait": 100, **options})
        assert event.type == "queued", event
        assert event.allocation is not None
        return event.allocation

    def on(
        self, command: type[Any], allocation: str, who: str = "h1", **fields: Any
    ) -> list[Event]:
        """Run a command on an allocation as its holder."""
        claim = fields.pop("claim", Claim(who))
        return self.when(
            command(command_id=self.next_id(), allocation=allocation, claim=claim, **fields)
        )

    def release(self, allocation: str, who: str = "h1") -> list[Event]:
        return self.on(Release, allocation, who)

    def when_released(self, allocation: str, tenant: str) -> list[Event]:
        """Release for whatever holder, as an operator of a tenant."""
        return self.on(Release, allocation, claim=Claim("ops", operator=True), tenant=tenant)

    def quota(self, limits: dict[str, int], **where: Any) -> None:
        self.when(SetQuota(command_id=self.next_id(), limits=limits, **where))

    def in_use(self, node: str, resource: str, pool: str = "box") -> int:
        return self.book.pools[pool].space.nodes[node].in_use.get(resource, 0)


def kinds(events: list[Event]) -> list[str]:
    """The types of events, in order."""
    return [event.type for event in events]
