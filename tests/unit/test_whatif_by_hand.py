"""What-if changed, against a small model that knows nothing of the ledger: one node, one resource, and
strictly first come, first served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.commands import Allocate, Claim, OpenPool, Release, StartTask
from ledger.events import Allocated
from ledger.requests import NodeSpec, Request
from projections.past import Past
from reports.whatif import Answer, Changes, ask
from tests.ledgers import SECOND, Ledger

STEP_S = 0.01
"""How often somebody looks whether a lease has ended: what is noticed late is recorded late."""
FATE = tuple[str, int | None, int | None]
"""State, granted at, ended at."""


@dataclass
class Asked:
    """One request, and how long its holder needs it (None: it never gives it back)."""

    number: int
    at: float
    cpu: int
    wait: float | None
    ttl: float
    hold: float | None
    holder: str
    tenant: str
    key: str = ""
    asked_at: int = 0


def requests(r: Random) -> list[Asked]:
    """Some requests at odd times."""
    at, found = 0.0, []
    for number in range(r.choice((8, 20, 40))):
        at += r.expovariate(0.5)
        found.append(
            Asked(
                number,
                at,
                r.choice((500, 1000, 1000, 2000, 3000)),
                r.choice((None, 5.0, 60.0, 600.0)),
                r.choice((6.0, 30.0, 900.0)),
                r.choice((None, r.uniform(1, 40))),
                r.choice("AB"),
                r.choice("uv"),
            )
        )
    return found


class Recording:
    """Holders who ask, hold and give back, and somebody who looks every few moments."""

    def __init__(self, ledger: Ledger, capacity: int, order: str) -> None:
        self.ledger = ledger
        node = NodeSpec("n1", {"cpu": capacity})
        ledger.do(OpenPool(command_id="p", pool="box", nodes=(node,), policy={"order": order}))
        self._begun = ledger.clock.reading.wall
        self._now = 0.0
        self._seen = ledger.writer.log.head().position
        self._todo: list[tuple[float, int, Any]] = []
        self._by_id: dict[str, Asked] = {}

    def run(self, asked: list[Asked]) -> None:
        """All of it, and a second more."""
        for each in asked:
            heappush(self._todo, (each.at, each.number, each))
        while self._todo:
            if self._now + STEP_S < self._todo[0][0]:
                self._pass(STEP_S)
                continue
            at, _, what = heappop(self._todo)
            self._pass(max(0.0, at - self._now))
            if isinstance(what, Asked):
                self._ask(what)
            else:
                self.ledger.do(what)
            self._look()
        for _ in range(100):
            self._pass(STEP_S)
        self.ledger.do(StartTask(command_id="end", task="x", by="me"))

    def _pass(self, seconds: float) -> None:
        self.ledger.clock.run(seconds)
        self._now += seconds
        self.ledger.writer.settle()
        self._look()

    def _ask(self, each: Asked) -> None:
        request = Request(
            {"cpu": each.cpu},
            ttl_ns=int(each.ttl * SECOND),
            wait_ns=None if each.wait is None else int(each.wait * SECOND),
        )
        receipt = self.ledger.do(
            Allocate(
                command_id=f"c{each.number}",
                tenant=each.tenant,
                pool="box",
                holder=each.holder,
                # One of its own, so that none counts as the same one asked again.
                task=f"t{each.number}",
                request=request,
            )
        )
        each.key = receipt.refusal_id or (receipt.allocation.id if receipt.allocation else "")
        self._by_id[each.key] = each

    def _look(self) -> None:
        for row in self.ledger.writer.log.read(self._seen):
            self._seen = row.position
            each = self._by_id.get(row.allocation or "")
            if row.type != Allocated.TYPE or each is None or each.hold is None:
                continue
            if each.hold < each.ttl:
                when = (row.at - self._begun) / SECOND + each.hold
                gives_back = Release(
                    command_id=f"r{each.number}",
                    tenant=each.tenant,
                    allocation=each.key,
                    claim=Claim(each.holder),
                )
                heappush(self._todo, (when, 10_000 + each.number, gives_back))


class Model:
    """Who would have had it when: ``recorded`` are the fates of the record, times in ns."""

    def __init__(self, asked: list[Asked], recorded: dict[str, FATE], end: int) -> None:
        self.asked, self.recorded, self.end = asked, recorded, end
        self._held: dict[str, list[int]] = {}
        for each in asked:
            _, granted, ended = recorded[each.key]
            if granted is not None and ended is not None:
                self._held.setdefault(each.holder, []).append(ended - granted)
                self._held.setdefault("", []).append(ended - granted)

    def run(
        self, capacity: int, quota: dict[str, int] | None = None, ttl: int | None = None
    ) -> dict[str, FATE]:
        """The fates of all requests with so much there."""
        self.capacity, self.free, self.quota, self.ttl = capacity, capacity, quota or {}, ttl
        self.use: dict[str, int] = {}
        self.queue: list[Asked] = []
        self.fates: dict[str, FATE] = {}
        # At one time leases and waits end before anybody does anything.
        self.coming: list[tuple[int, int, int, str, Asked]] = []
        for each in self.asked:
            heappush(self.coming, (each.asked_at, 1, each.number, "asks", each))
        while self.coming and self.coming[0][0] <= self.end:
            now, _, _, what, each = heappop(self.coming)
            if what == "asks":
                self._asks(each, now)
            elif what == "gives up":
                if each in self.queue:
                    self.queue.remove(each)
                    self.fates[each.key] = ("timed_out", None, now)
            else:
                self.free += each.cpu
                self.use[each.tenant] -= each.cpu
                self.fates[each.key] = (what, self.fates[each.key][1], now)
            self._serve(now)
        return self.fates

    def _asks(self, each: Asked, now: int) -> None:
        most = min(self.capacity, self.quota.get(each.tenant, self.capacity))
        behind = any(self._within_quota(other) for other in self.queue)
        if each.cpu <= most and not behind and self._fits(each):
            self._grant(each, now)
        elif each.cpu > most or each.wait is None:
            self.fates[each.key] = ("refused", None, now)
        else:
            self.queue.append(each)
            self.fates[each.key] = ("waiting", None, None)
            until = now + int(each.wait * SECOND)
            heappush(self.coming, (until, 0, each.number, "gives up", each))

    def _within_quota(self, each: Asked) -> bool:
        most = self.quota.get(each.tenant)
        return most is None or self.use.get(each.tenant, 0) + each.cpu <= most

    def _fits(self, each: Asked) -> bool:
        return self._within_quota(each) and each.cpu <= self.free

    def _serve(self, now: int) -> None:
        while first := next(filter(self._within_quota, self.queue), None):
            # Who is held up by a quota holds up nobody; who lacks room holds up all behind.
            if not self._fits(first):
                return
            self.queue.remove(first)
            self._grant(first, now)

    def _grant(self, each: Asked, now: int) -> None:
        self.free -= each.cpu
        self.use[each.tenant] = self.use.get(each.tenant, 0) + each.cpu
        self.fates[each.key] = ("active", now, None)
        lease = int(each.ttl * SECOND) if self.ttl is None else self.ttl
        holds = self._holds(each)
        if holds is not None and holds < lease:
            heappush(self.coming, (now + holds, 1, each.number, "released", each))
        else:
            heappush(self.coming, (now + lease, 0, each.number, "expired", each))

    def _holds(self, each: Asked) -> int | None:
        state, granted, ended = self.recorded[each.key]
        if granted is not None:
            return ended - granted if ended is not None and state == "released" else None
        alike = self._held.get(each.holder, [])
        alike = alike if len(alike) >= 3 else self._held.get("", [])
        return max(1, round(median(alike))) if alike else None


def simulated(answer: Answer, recorded: dict[str, FATE]) -> dict[str, FATE]:
    """The fates that an answer tells; those that it does not list are as recorded."""
    found = dict(recorded)
    for each in answer.fates:
        fate = each.simulated
        told: FATE = ("refused", None, None)
        found[each.recorded_id] = (
            told if fate is None else (fate.state, fate.granted_at, fate.ended_at)
        )
    return found


def cases(capacity: int) -> Iterator[tuple[Changes, dict[str, Any]]]:
    """What is changed, and what the model is told of it."""
    fifo = {"order": "fifo"}
    for other in (capacity * 2, capacity // 2):
        sizes = {("box", "n1"): {"cpu": other}}
        yield Changes(policy=fifo, sizes=sizes), {"capacity": other}
    yield Changes(policy=fifo), {"capacity": capacity}
    quotas = {"u": {"cpu": 1500}}
    yield Changes(policy=fifo, quotas=quotas), {"capacity": capacity, "quota": {"u": 1500}}
    for ttl in (10 * SECOND, 5_000 * SECOND):
        yield Changes(policy=fifo, ttl_ns=ttl), {"capacity": capacity, "ttl": ttl}


@given(seed=st.integers(0, 2**32), order=st.sampled_from(("fifo", "fair")))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_everyone_fares_as_can_be_worked_out_by_hand(tmp_path: Path, seed: int, order: str) -> None:
    r = Random(seed)
    ledger = Ledger(tmp_path, "memory")
    capacity = r.choice((2000, 4000, 6000))
    asked = requests(r)
    Recording(ledger, capacity, order).run(asked)
    past = Past(ledger.writer.log)
    as_it_was = ask(past, Changes())
    assert as_it_was.exact
    fates = as_it_was.recorded.fates
    recorded = {key: (f.state, f.granted_at, f.ended_at) for key, f in fates.items()}
    for each in asked:
        each.asked_at = fates[each.key].asked_at
    for changes, given_to_model in cases(capacity):
        answer = ask(past, changes)
        found = simulated(answer, recorded)
        wanted = Model(asked, recorded, answer.until).run(**given_to_model)
        for each in asked:
            _same(found[each.key], wanted[each.key], f"{changes}: {each}")
    ledger.close()


def _same(found: FATE, wanted: FATE, about: str) -> None:
    """The same fate, but for the moments in which nobody looked. Of a refusal, no time is told."""
    assert found[0] == wanted[0], about
    if found[0] == "refused":
        return
    for one, other in zip(found[1:], wanted[1:], strict=True):
        if one is None or other is None:
            assert one is other, about
        else:
            assert one == pytest.approx(other, abs=SECOND / 2), about
