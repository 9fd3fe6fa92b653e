"""Linking causes: a refusal and the grant that came of it, an ending and whom it made room for.

What an ending frees goes to the queue in the same commit, so the grants from the queue that follow an
ending within its commit, in its pool and on one of its nodes, are what it was freed for.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

import orjson

from ledger.log import Row
from ledger.requests import Amounts
from projections.past import Readable
from projections.sentences import sentence
from projections.wording import amounts_text, lasting, plain
from reports.audit.entries import BEGINS, ENDS, Entry, Link, data_of, read_event

GRANTS = frozenset({"allocated", "reserved"})
PENDING_MAX = 10_000
"""How many refusals are remembered until what came of them is met."""
ENDINGS_MAX = 200
"""How many endings of one commit are remembered."""


class Linker:
    """Goes through a log beside the selection and links what belongs together.

    ``tenant`` is whose trail it is: of others only amounts are told. None tells all.
    """

    def __init__(self, log: Readable, tenant: str | None, observed: Set[str]) -> None:
        """``observed`` are the pools where nothing is decided, as far as they were met."""
        self._log = log
        self._observed = observed
        self._tenant = tenant
        self._entries: dict[int, Entry] = {}
        self._by_command: dict[tuple[str, str | None], list[Row]] = {}
        self._by_holder: dict[tuple[str, str | None, str | None], list[Row]] = {}
        self._pending = 0
        self._commit = -1
        self._endings: list[Row] = []
        self._own_endings: list[Row] = []
        self._nodes: dict[str, frozenset[str]] = {}

    def answers(self, row: Row) -> bool:
        """Whether a refusal of the trail came to something in this row."""
        return row.type in BEGINS and (
            (row.tenant, row.command_id) in self._by_command
            or (row.tenant, row.holder, row.pool) in self._by_holder
        )

    def see(self, row: Row, entry: Entry | None) -> None:
        """Take the next row of the log; ``entry`` where it is part of the trail."""
        if entry is not None:
            self._entries[row.position] = entry
        if row.recorded_at != self._commit:
            self._commit = row.recorded_at
            self._endings.clear()
            self._own_endings.clear()
        if row.type in BEGINS:
            self._answer(row)
            if row.type in GRANTS and self._endings and row.pool not in self._observed:
                self._hand_over(row)
        elif row.type == "refused":
            if entry is not None:
                self._await(row)
        elif (row.type in ENDS or row.type == "adjusted") and len(self._endings) < ENDINGS_MAX:
            self._endings.append(row)
            if entry is not None:
                self._own_endings.append(row)

    # --- refusals and what came of them ----------------------------------------------------------

    def _await(self, row: Row) -> None:
        if self._pending >= PENDING_MAX or not data_of(row).get("verb", "").startswith("allocate"):
            return
        self._pending += 1
        if row.command_id is not None:
            self._by_command.setdefault((row.tenant, row.command_id), []).append(row)
        self._by_holder.setdefault((row.tenant, row.holder, row.pool), []).append(row)

    def _answer(self, row: Row) -> None:
        """Link a request that was granted, or got a place, with refusals before it."""
        if not self._pending:
            return
        found: list[tuple[Row, str]] = []
        if row.command_id is not None:
            same = self._by_command.pop((row.tenant, row.command_id), [])
            found += [(refused, "the same command") for refused in same]
        known = {refused.position for refused, _ in found}
        for refused in self._by_holder.pop((row.tenant, row.holder, row.pool), []):
            if refused.position not in known and not self._is_linked(refused):
                found.append((refused, f"{plain(row.holder)}'s next request"))
        for refused, how in found:
            self._link_refusal(refused, row, how)
        if not self._by_holder and not self._by_command:
            self._pending = 0

    def _is_linked(self, refused: Row) -> bool:
        entry = self._entries.get(refused.position)
        return entry is None or any(link.relation == "granted_later" for link in entry.links)

    def _link_refusal(self, refused: Row, row: Row, how: str) -> None:
        later = lasting(max(0, row.at - refused.at))
        amounts = amounts_text(_amounts(row))
        became = f"was granted {amounts}" if row.type in GRANTS else "got a place in the queue"
        name = f"{row.allocation} (event {row.position}"
        self._add(
            refused.position,
            Link(
                "granted_later",
                row.position,
                row.allocation,
                f"{later} later {how} {became}: {name})",
            ),
        )
        which = f"R{refused.position} of {plain(refused.holder)}"
        before = f"It had been refused before: {which}, {later} earlier"
        self._add(row.position, Link("refused_before", refused.position, None, before))

    # --- what was freed, and for whom ------------------------------------------------------------

    def _hand_over(self, grant: Row) -> None:
        # Where the grant is no part of the trail, only the trail's own endings need it.
        endings = self._endings if grant.position in self._entries else self._own_endings
        if not endings:
            return
        data = data_of(grant)
        if data.get("queued_at") is None:
            return
        nodes = _nodes_of(data)
        for ending in endings:
            if ending.pool == grant.pool and not nodes.isdisjoint(self._nodes_before(ending)):
                self._link_freed(ending, grant)

    def _link_freed(self, ending: Row, grant: Row) -> None:
        got = f"{amounts_text(_amounts(grant))}"
        if self._hidden(grant):
            freed = Link("freed_for", None, None, f"Room for another tenant's request: {got}")
        else:
            whose = f"{grant.allocation} of {plain(grant.holder)}"
            freed = Link(
                "freed_for",
                grant.position,
                grant.allocation,
                f"That made room for {whose}, which then got {got} (event {grant.position})",
            )
        self._add(ending.position, freed)
        if self._hidden(ending):
            by = Link("freed_by", None, None, "Room came of what another tenant gave back")
        else:
            whose = f"{ending.allocation} of {plain(ending.holder)}"
            what = "shrank" if ending.type == "adjusted" else "ended"
            by = Link(
                "freed_by",
                ending.position,
                ending.allocation,
                f"Room came of {whose}, which {what} (event {ending.position})",
            )
        self._add(grant.position, by)

    def _nodes_before(self, ending: Row) -> frozenset[str]:
        """The nodes that an allocation stood on when it ended; its last placing counts."""
        if ending.allocation is None:
            return frozenset()
        known = self._nodes.get(ending.allocation)
        if known is None:
            known = frozenset()
            for row in self._log.rows_of_allocation(ending.allocation):
                if row.position < ending.position and row.type in GRANTS | {"adjusted"}:
                    known = frozenset(_nodes_of(data_of(row)))
            if len(self._nodes) > PENDING_MAX:
                self._nodes.clear()
            self._nodes[ending.allocation] = known
        return known

    def _hidden(self, row: Row) -> bool:
        return self._tenant is not None and row.tenant != self._tenant

    def _add(self, position: int, link: Link) -> None:
        entry = self._entries.get(position)
        if entry is not None:
            entry.links.append(link)


def _nodes_of(data: dict[str, Any]) -> set[str]:
    placements = data.get("placements")
    if not isinstance(placements, list):
        return set()
    return {str(p.get("node")) for p in placements if isinstance(p, dict)}


def _amounts(row: Row) -> Amounts:
    """What a request got, or asked for."""
    event = read_event(row)
    body = None if event is None else event.body
    amounts = getattr(body, "amounts", None)
    if isinstance(amounts, dict):
        return amounts
    request = getattr(body, "request", None)
    return {} if request is None else request.amounts


# --- corrections and redactions ------------------------------------------------------------------


def link_corrections(entries: dict[int, Entry], later: Iterable[Row], log: Readable) -> None:
    """Link entries with the corrections and redactions of them, wherever in the log those stand."""
    for row in later:
        data = data_of(row)
        kind = row.type
        target = data.get("corrects" if kind == "corrected" else "position")
        if not isinstance(target, int):
            continue
        own = entries.get(row.position)
        if own is not None:
            verb = "corrects" if kind == "corrected" else "redacts"
            own.links.append(Link(verb, target, row.allocation, _what_it_is(target, entries, log)))
        there = entries.get(target)
        if there is not None:
            there.links.append(_said_since(row, data))


def _said_since(row: Row, data: dict[str, Any]) -> Link:
    by = plain(data.get("by") or "the ledger")
    why = plain(data.get("reason") or "")
    if row.type == "redacted":
        text = f"Its metadata was erased by {by}: {why} (event {row.position})"
        return Link("redacted_by", row.position, None, text)
    facts = data.get("facts")
    event = read_event(row)
    said = sentence(event) if event is not None else orjson.dumps(facts).decode()
    return Link(
        "corrected_by", row.position, None, f"Corrected since, at event {row.position}: {said}"
    )


def _what_it_is(target: int, entries: dict[int, Entry], log: Readable) -> str:
    known = entries.get(target)
    if known is not None:
        return f"Event {target} had said: {known.text}"
    row = next(iter(log.read(target - 1, target)), None) if target > 0 else None
    if row is None:
        return f"There is no event {target}"
    about = f" about {row.allocation}" if row.allocation else ""
    return f"Event {target} is of type {plain(row.type)}{about}, outside of this trail"
