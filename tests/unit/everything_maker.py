"""Random commands of every kind: :mod:`tests.unit.command_maker`'s, and those that record, correct, end
with evidence, redact, import, or are sent twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger.book import Allocation, Book
from ledger.chain import metadata_hash
from ledger.commands import (
    Allocate,
    AllocateBatch,
    AnyCommand,
    Claim,
    ClearAlert,
    Correct,
    Fact,
    FinishTask,
    ObserveCapacity,
    OpenPool,
    RaiseAlert,
    Reclaim,
    RecordFacts,
    RecordUsage,
    Redact,
    Renew,
    RenewHolder,
    SeeHolder,
    StartTask,
    TakeCheckpoint,
    Withdraw,
)
from ledger.identity import ProcessIdentity
from ledger.log import Log
from ledger.requests import NodeSpec, Placement, Request
from tests.unit.command_maker import HOLDERS, PROCESS, SECOND, TENANTS, CommandMaker

OTHER = ProcessIdentity("host", 99, 5, "boot", "ns")
SENT_KEPT = 60


class EverythingMaker(CommandMaker):
    """Commands from a seed; ``log`` is where what can be redacted is looked for."""

    def __init__(self, seed: int, log: Log) -> None:
        super().__init__(seed)
        self._log = log
        self._sent: list[AnyCommand] = []
        self._redacted: set[int] = set()

    def opening(self) -> list[AnyCommand]:
        """As :meth:`CommandMaker.opening`, with a pool that only records."""
        far = (NodeSpec("x", {"cpu": 1}),)
        return [
            *super().opening(),
            OpenPool(command_id=self.id(), pool="far", kind="observed", nodes=far),
        ]

    def _policy(self) -> dict[str, Any]:
        r = self.random
        policy = super()._policy()
        policy["strategy"] = r.choice(
            ("first_fit", "best_fit", "worst_fit", "random", "fragmentation_aware", "frontier")
        )
        policy["claim_after_ns"] = r.choice((1, 5, 20)) * SECOND
        policy["overtakes_max"] = r.choice((1, 2, 50))
        if r.random() < 0.3:
            share = r.choice((0, 300, 1000))
            policy |= {"rollout_strategy": "worst_fit", "rollout_permille": share}
        if r.random() < 0.2:
            policy["queue_limit"] = r.choice((1, 3, 100))
        if r.random() < 0.2:
            policy["max_age_ns"] = r.choice((15 * SECOND, None))
        if r.random() < 0.2:
            policy["max_priority"] = r.choice(("normal", "critical"))
        return policy

    def next(self, book: Book) -> AnyCommand:
        """One more command, or one that was sent before, or its id with something else."""
        r = self.random
        chance = r.random()
        if self._sent and chance < 0.06:
            return r.choice(self._sent)
        if self._sent and chance < 0.1:
            before = r.choice(self._sent)
            if isinstance(before, Allocate):
                return replace(before, holder="h4")
        command = self._other(book) if chance < 0.25 else self._altered(super().next(book))
        while isinstance(command, ObserveCapacity):
            command = super().next(book)
        self._sent = [*self._sent[1 - SENT_KEPT :], command]
        return command

    def _altered(self, command: AnyCommand) -> AnyCommand:
        """With metadata now and then, or sent to a pool that is not there."""
        r = self.random
        if isinstance(command, Allocate):
            if r.random() < 0.3:
                command = replace(command, metadata={"m": r.randrange(5)})
            if r.random() < 0.05:
                alone = replace(command.request, parent=None)
                command = replace(command, pool=r.choice(("nowhere", "far")), request=alone)
        elif isinstance(command, AllocateBatch):
            items = [
                replace(item, metadata={"m": 1}) if r.random() < 0.4 else item
                for item in command.items
            ]
            if r.random() < 0.15 and not command.atomic:
                items.append(replace(items[0], pool=r.choice(("nowhere", "far", "bag"))))
            command = replace(command, items=tuple(items))
        return command

    # --- everything else -------------------------------------------------------------------------

    def _other(self, book: Book) -> AnyCommand:
        r = self.random
        there = list(book.allocations.values())
        if there and r.random() < 0.6:
            return self._about(book, r.choice(there))
        base: dict[str, Any] = {"command_id": self.id()}
        ours = {**base, "tenant": r.choice(TENANTS)}
        kinds: tuple[AnyCommand, ...] = (
            StartTask(**ours, task=r.choice(("t1", "t2")), by="me"),
            FinishTask(**ours, task=r.choice(("t1", "t2")), by="me", outcome="ok"),
            SeeHolder(**ours, holder=r.choice(HOLDERS), process=r.choice((PROCESS, OTHER))),
            RaiseAlert(**base, alert="x", message="m"),
            ClearAlert(**base, alert=r.choice(("x", "clock_jumped")), by="me"),
            Correct(**ours, corrects=max(1, book.position - 2), reason="r", by="me"),
            TakeCheckpoint(command_id=""),
            self._facts(book),
            self._redaction(book),
        )
        return r.choice(kinds)

    def _about(self, book: Book, a: Allocation) -> AnyCommand:
        r, now = self.random, book.recorded_at
        base: dict[str, Any] = {"command_id": self.id(), "tenant": a.tenant, "allocation": a.id}
        swept = {**base, "claim": Claim("sweep", operator=True)}
        its_own = {**base, "claim": Claim(a.holder)}
        ttl_ns = r.choice((None, SECOND, 20 * SECOND, 50 * SECOND))
        kinds: tuple[AnyCommand, ...] = (
            RecordUsage(
                **base, since=now - SECOND, until=now, used={"cpu": 5}, peak={"cpu": 2}, samples=3
            ),
            Reclaim(
                **swept,
                cause=r.choice(("crashed", "leaked", "idle", "forced")),
                evidence={"pid": 1, "seen": now},
                reason="x",
                happened_at=r.choice((None, now - 3 * SECOND, now + 9 * SECOND)),
                enforced=r.random() < 0.5,
                process_alive=r.random() < 0.3,
            ),
            Reclaim(**swept, cause="withdrawn", evidence={"pid": 4242}, asker=PROCESS),
            Withdraw(
                **its_own,
                cause=r.choice(("withdrawn", "voided", "crashed")),
                reason=r.choice(("", "why")),
            ),
            RenewHolder(command_id=self.id(), tenant=a.tenant, holder=a.holder, ttl_ns=ttl_ns),
            Renew(**its_own, ttl_ns=ttl_ns),
            Correct(
                **base,
                pool=a.pool,
                holder=a.holder,
                corrects=a.position,
                reason="r",
                by="me",
                facts={"ended_at": now, "ended_by": "released"},
            ),
        )
        return r.choice(kinds)

    def _facts(self, book: Book) -> RecordFacts:
        r = self.random
        began = book.recorded_at - r.randrange(1, 90) * SECOND
        fact = Fact(
            key=f"k{r.randrange(4)}",
            tenant=r.choice(TENANTS),
            holder=r.choice(HOLDERS),
            request=Request({"cpu": r.choice((1, 2))}),
            placements=(Placement("x", {"cpu": 1}, {}),),
            began_at=began,
            ended_at=r.choice((None, began + 5 * SECOND)),
        )
        return RecordFacts(command_id="", pool=r.choice(("far", "far", "box")), facts=(fact,))

    def _redaction(self, book: Book) -> AnyCommand:
        for row in self._log.read(max(0, book.position - 40), book.position - 1):
            if row.metadata is not None and row.position not in self._redacted:
                self._redacted.add(row.position)
                return Redact(
                    command_id=self.id(),
                    position=row.position,
                    metadata_sha256=metadata_hash(row.metadata).hex(),
                    reason="r",
                    by="me",
                )
        return TakeCheckpoint(command_id="")
