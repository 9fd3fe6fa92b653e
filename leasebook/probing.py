"""Before a request: a look at what others use of the pool, where its policy has a probe for here.

Every way of asking comes through :func:`look_before`. A pool without a probe costs a few look-ups in
the book, and nothing of the probes is imported for it.
"""

from __future__ import annotations

import contextlib
from typing import Any
from weakref import WeakSet

from ledger.book import Book
from ledger.commands import Allocate, AllocateBatch, AnyCommand
from ledger.errors import LeasebookError
from ledger.requests import Amounts
from ledger.writer import Writer

_LOADED: WeakSet[Writer] = WeakSet()
"""Writers whose book was there once: where it is not now, a commit is under way."""


def look_before(writer: Writer, command: AnyCommand) -> None:
    """Look at the pools that a command asks for capacity, at most once a second for each.

    Never fails: what stops a look from being recorded stops the request too, and that tells it.
    """
    asked = asked_here(writer, command)
    if asked:
        take_look(writer, asked)


def take_look(writer: Writer, asked: dict[str, list[Amounts]]) -> None:
    """Look at these pools now, unless that was done within the last second."""
    from scheduler.probes.lookout import lookout_of

    with contextlib.suppress(LeasebookError):
        lookout_of(writer).look(asked.keys(), asked)


def look_for_waiting(writer: Writer) -> None:
    """For those who wait: look at every pool with a probe for which somebody does. Never fails."""

    def waited_for(book: Book, now: int) -> dict[str, list[Amounts]]:
        return {p.name: [] for p in book.pools.values() if p.space.waiting and _is_probed(p)}

    with contextlib.suppress(LeasebookError):
        pools = writer.read(waited_for)
        if pools:
            take_look(writer, pools)


def asked_here(writer: Writer, command: AnyCommand) -> dict[str, list[Amounts]]:
    """Pool → what the command asks of it, for pools with a probe; mostly empty."""
    if type(command) is Allocate:
        items: tuple[Allocate, ...] = (command,)
    elif type(command) is AllocateBatch:
        items = command.items
    else:
        return {}
    book = writer.glance()
    if book is None and writer not in _LOADED:
        # The first of this process reads the book, as its transaction would.
        with contextlib.suppress(LeasebookError):
            book = writer.read(lambda found, now: found)
            _LOADED.add(writer)
    if book is None:
        return {}
    asked: dict[str, list[Amounts]] = {}
    for item in items:
        pool = book.pools.get(item.pool)
        # What draws on another's allocation takes nothing new from the pool.
        if pool is not None and _is_probed(pool) and item.request.parent is None:
            asked.setdefault(item.pool, []).append(item.request.amounts)
    return asked


def _is_probed(pool: Any) -> bool:
    return bool(pool.policy.probe != "none")
