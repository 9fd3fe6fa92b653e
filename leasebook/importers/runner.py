"""Carrying what readers find into a ledger: a thousand facts to a transaction, in constant memory.

Each transaction is whole and says each fact once, so an import that was interrupted is simply begun
again. Nothing is written before the first record has been understood.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from secrets import token_hex
from typing import TYPE_CHECKING

from leasebook.importers.base import (
    Found,
    Inventory,
    Item,
    Options,
    Reject,
    Source,
    WrongFormat,
    reader_of,
)
from leasebook.importers.overload import Overload, Overloads, Size
from leasebook.importers.rejects import Rejects
from ledger.amounts import check_name
from ledger.codec import from_row
from ledger.commands import Fact, OpenPool, RecordFacts
from ledger.errors import InvalidInput
from ledger.rules.facts import check_fact
from ledger.rules.history import TIME_MAX
from ledger.rules.inventories import Course, inventory_keys

if TYPE_CHECKING:
    from types import TracebackType

    from ledger.book import Book
    from ledger.receipts import Receipt
    from ledger.requests import Amounts, NodeSpec
    from ledger.writer import Writer

FACTS_AT_ONCE = 1_000
FACTS_KEPT_MAX = 8_000
"""How many facts of several pools wait for their transaction at most."""
UNDERSTOOD_WITHIN = 1_000
"""If none of so many first records can be understood, the file is of another format."""
OPEN_KEYS_MAX = 100_000
"""How many open allocations are told apart; beyond it the summary says that there are more."""


@dataclass(slots=True)
class Summary:
    """What an import came to; times are ns UTC.

    ``rows`` are the records read, ``nodes`` those of inventories; ``skipped`` are records about
    something else than allocations, which ``rows`` does not count. ``new``, ``added`` and
    ``corrected`` are facts that changed the record, ``known`` those that did not; ``elsewhere`` are
    known in another pool. ``open`` and ``waiting`` are allocations of this file that have not ended.
    ``over_capacity`` are nodes that held more than they have, where their size is known.
    """

    rows: int = 0
    nodes: int = 0
    new: int = 0
    added: int = 0
    corrected: int = 0
    known: int = 0
    elsewhere: int = 0
    events: int = 0
    rejects: int = 0
    skipped: int = 0
    open: int = 0
    waiting: int = 0
    open_is_least: bool = False
    since: int | None = None
    until: int | None = None
    pools: dict[str, int] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    over_capacity: list[Overload] = field(default_factory=list)
    seconds: float = 0.0


class Reading:
    """A source, looked into as far as its first record that can be understood."""

    def __init__(self, format: str, path: str, options: Options) -> None:
        """Raises WrongFormat, InvalidInput; nothing has been written then."""
        read = reader_of(format)
        self.source = Source(path)
        try:
            self._rest = read(self.source, options)
            self._first = self._look(format)
        except BaseException:
            self.source.close()
            raise

    def close(self) -> None:
        """Let go of the source."""
        close = getattr(self._rest, "close", None)
        if close is not None:
            close()
        self.source.close()

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self, format: str) -> list[Item]:
        items: list[Item] = []
        rejected = 0
        for item in self._rest:
            items.append(item)
            if isinstance(item, Found | Inventory):
                return items
            rejected += 1
            if rejected >= UNDERSTOOD_WITHIN:
                break
        if rejected:
            first = next(one for one in items if isinstance(one, Reject))
            raise WrongFormat(
                f"no record of {self.source.name} can be understood as {format}; line {first.line}:"
                f" {first.reason}",
                "see --format and its options in `leasebook import --help`",
            )
        return items

    def items(self) -> Iterator[Item]:
        """All that the source holds, once."""
        return chain(self._first, self._rest)


class Runner:
    """One import into one ledger."""

    def __init__(
        self,
        writer: Writer,
        reading: Reading,
        rejects: Rejects,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """``on_progress`` is told bytes read and records so far, after each transaction."""
        self.summary = Summary()
        self._writer = writer
        self._reading = reading
        self._rejects = rejects
        self._on_progress = on_progress
        self._kept: dict[str, list[Found]] = {}
        self._count = 0
        self._open: dict[int, str] = {}
        self._sized: set[str] = set()
        self._overloads: Overloads | None = None

    def run(self) -> Summary:
        """Import everything. Raises InvalidInput, LedgerUnavailable; what is done stays done."""
        begun = time.monotonic()
        summary = self.summary
        for item in self._items():
            if isinstance(item, Found):
                summary.rows += 1
                self._keep(item)
            elif isinstance(item, Reject):
                summary.rows += 1
                self._rejects.add(item)
            else:
                self._flush_all()
                self._take_nodes(item)
        self._flush_all()
        summary.rows += self._reading.source.attached
        summary.rejects = self._rejects.count
        summary.skipped = self._reading.source.skipped
        summary.open = sum(state == "open" for state in self._open.values())
        summary.waiting = sum(state == "waiting" for state in self._open.values())
        if self._overloads is not None:
            for pool in sorted(self._sized):
                summary.over_capacity += self._overloads.found(pool, self._sizes(pool))
            self._overloads.close()
        summary.seconds = time.monotonic() - begun
        return summary

    def _items(self) -> Iterator[Item]:
        """What the reader finds. Where it breaks off, what it found before is recorded first."""
        items = self._reading.items()
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except InvalidInput:
                self._flush_all()
                raise
            yield item

    def _keep(self, found: Found) -> None:
        """Put a fact to those that wait for their transaction, or carry that out."""
        kept = self._kept.get(found.pool)
        if kept is None:
            try:
                check_name("pool", found.pool)
            except InvalidInput as error:
                self._rejects.add(Reject(found.line, error.message, found.text or found.fact.key))
                return
            kept = self._kept[found.pool] = []
        kept.append(found)
        self._count += 1
        if len(kept) >= FACTS_AT_ONCE:
            self._flush(found.pool)
        elif self._count >= FACTS_KEPT_MAX:
            self._flush_all()

    # --- pools -----------------------------------------------------------------------------------

    def _pool(self, name: str, nodes: tuple[NodeSpec, ...] = ()) -> bool:
        """Make sure of an observed pool; whether it was opened now. Raises InvalidInput."""
        if name in self.summary.pools:
            return False
        kind = self._kind(name)
        if kind is None:
            command = OpenPool(
                command_id=f"import-{token_hex(12)}",
                pool=name,
                nodes=nodes,
                kind="observed",
                basis=f"imported from {self._reading.source.name}"[:200],
            )
            receipt = self._writer.execute(command)
            kind = self._kind(name) if receipt.outcome == "refused" else "observed"
            if receipt.outcome != "refused":
                self.summary.opened.append(name)
        if kind != "observed":
            raise InvalidInput(
                f"pool {name!r} is managed: what it hands out is its own record",
                "name an observed pool, or one that is not there yet, with --pool",
            )
        self.summary.pools[name] = 0
        if self._capacity(name):
            self._sized.add(name)
        return name in self.summary.opened

    def _kind(self, name: str) -> str | None:
        def look(book: Book, now: int) -> str | None:
            pool = book.pools.get(name)
            return None if pool is None else pool.kind

        return self._writer.read(look)

    def _capacity(self, name: str) -> dict[str, Amounts]:
        """The sizes of a pool's nodes; empty where they are not known."""

        def look(book: Book, now: int) -> dict[str, Amounts]:
            nodes = book.pools[name].space.nodes
            return {node.name: dict(node.capacity) for node in nodes.values()}

        return self._writer.read(look)

    def _sizes(self, name: str) -> dict[str, list[Size]]:
        """What a pool's nodes had over time; before anything was said of it, what they have now."""
        rows = [r for key in inventory_keys(name) for r in self._writer.log.rows_of_command(*key)]
        course = Course(from_row(row) for row in sorted(rows))
        begun = min(course.times, default=0)
        now = self._capacity(name)
        sizes: dict[str, list[Size]] = {}
        for node in {**now, **course.nodes}:
            told = course.nodes.get(node, [])
            sizes[node] = [(-TIME_MAX, now.get(node, {}))]
            if told and told[0][0] > begun:
                # Others were told of before: it was not there.
                sizes[node].append((begun, {}))
            sizes[node] += [(at, {} if spec is None else spec.capacity) for at, spec in told]
        return sizes

    def _take_nodes(self, inventory: Inventory) -> None:
        self.summary.nodes += len(inventory.nodes)
        # Nodes of a known time come with it below: opened with them, the pool would have them from now.
        nodes = inventory.nodes if inventory.at is None else ()
        if self._pool(inventory.pool, nodes) and nodes:
            self._sized.add(inventory.pool)
            return
        receipt = self._writer.execute(
            RecordFacts(
                command_id="",
                pool=inventory.pool,
                nodes=inventory.nodes,
                nodes_at=inventory.at,
                nodes_complete=inventory.complete,
            )
        )
        self.summary.events += len(receipt.positions)
        self._sized.add(inventory.pool)

    # --- facts -----------------------------------------------------------------------------------

    def _flush_all(self) -> None:
        for pool in list(self._kept):
            self._flush(pool)

    def _flush(self, pool: str) -> None:
        found = self._kept.pop(pool, [])
        self._count -= len(found)
        if not found:
            return
        self._pool(pool)
        receipt: Receipt | None
        try:
            receipt = self._record(pool, found)
        except InvalidInput:
            found = self._recordable(found)
            receipt = self._record(pool, found) if found else None
        if receipt is not None:
            self._add_up(pool, found, receipt)
        if self._on_progress is not None:
            self._on_progress(self._reading.source.done_bytes(), self.summary.rows)

    def _record(self, pool: str, found: list[Found]) -> Receipt:
        facts = tuple([one.fact for one in found])
        receipt = self._writer.execute(RecordFacts(command_id="", pool=pool, facts=facts))
        if receipt.outcome == "refused":
            raise InvalidInput(receipt.message, receipt.hint)
        return receipt

    def _recordable(self, found: list[Found]) -> list[Found]:
        """Those that can be recorded; the others are rejected. Raises InvalidInput for all else."""
        good = []
        for one in found:
            try:
                check_fact(one.fact)
                good.append(one)
            except InvalidInput as error:
                self._rejects.add(Reject(one.line, error.message, one.text or one.fact.key))
        if len(good) == len(found):
            # It was something else, which recording them again will say.
            self._record(found[0].pool, found)
        return good

    def _add_up(self, pool: str, found: list[Found], receipt: Receipt) -> None:
        summary = self.summary
        summary.events += len(receipt.positions)
        summary.pools[pool] += len(found)
        if pool in self._sized:
            self._overloads = self._overloads or Overloads()
            for one in found:
                self._overloads.add(pool, one.fact)
        for one, result in zip(found, receipt.results, strict=True):
            outcome = result.outcome
            if outcome == "new":
                summary.new += 1
            elif outcome == "known":
                summary.known += 1
            elif outcome == "added":
                summary.added += 1
            else:
                summary.corrected += 1
            if result.hint:
                summary.elsewhere += 1
            if result.message != "ended":
                self._note_open(one.fact, result.message)
            elif self._open:
                self._open.pop(hash((one.fact.tenant, one.fact.key)), None)
            self._note_times(one.fact)

    def _note_open(self, fact: Fact, state: str) -> None:
        key = hash((fact.tenant, fact.key))
        if len(self._open) < OPEN_KEYS_MAX or key in self._open:
            self._open[key] = state
        else:
            self.summary.open_is_least = True

    def _note_times(self, fact: Fact) -> None:
        summary = self.summary
        for at in fact.times:
            if at is None:
                continue
            if summary.since is None or at < summary.since:
                summary.since = at
            if summary.until is None or at > summary.until:
                summary.until = at
