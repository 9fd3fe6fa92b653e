"""Before a request: a look at what others use of the pool, where its policy has a probe for here.

Every way of asking comes through :func:`look_before`. A pool without a probe costs a few look-ups in
the book, and nothing of the probes is imported for it.
"""

from __future__ import annotations

import contextlib
import os
from weakref import WeakKeyDictionary

from ledger.book import Book, Pool
from ledger.commands import Allocate, AllocateBatch, AnyCommand
from ledger.errors import LeasebookError
from ledger.requests import Amounts
from ledger.writer import Writer

Asked = dict[str, list[Amounts]]
"""Pool → what is asked of it, request by request."""

_LOADED: WeakKeyDictionary[Writer, int] = WeakKeyDictionary()
"""Writers whose book this process (its pid) has read: where it is not there now, a commit is under
way."""


def look_before(writer: Writer, command: AnyCommand) -> None:
    """Look at the pools that a command asks for capacity, at most once a second for each.

    Never fails: what stops a look from being recorded stops the request too, and that tells it.
    """
    asked = due_for(writer, command)
    if asked:
        take_look(writer, asked)


def take_look(writer: Writer, asked: Asked) -> None:
    """Look at these pools now, unless that was done within the last second. Never fails."""
    from scheduler.probes.lookout import lookout_of

    # A machine out of descriptors, or with tables of another form, tells nothing: as if not looked.
    with contextlib.suppress(LeasebookError, OSError, ValueError):
        lookout_of(writer).look(asked.keys(), asked)


def look_for_waiting(writer: Writer) -> None:
    """For those who wait: look at every pool with a probe for which somebody does. Never fails."""

    def waited_for(book: Book, now: int) -> Asked:
        return {p.name: [] for p in book.pools.values() if p.space.waiting and _is_probed(p)}

    with contextlib.suppress(LeasebookError):
        pools = writer.read(waited_for)
        if pools:
            take_look(writer, pools)


def due_for(writer: Writer, command: AnyCommand) -> Asked:
    """What the command asks of pools with a probe that were not looked at just now; mostly empty."""
    if type(command) is Allocate:
        items: tuple[Allocate, ...] = (command,)
    elif type(command) is AllocateBatch:
        items = command.items
    else:
        return {}
    book = writer.glance()
    if book is None and _LOADED.get(writer) != os.getpid():
        # The first request of this process reads the book, as its transaction would.
        with contextlib.suppress(LeasebookError):
            book = writer.read(lambda found, now: found)
            _LOADED[writer] = os.getpid()
    if book is None:
        return {}
    asked: Asked = {}
    for item in items:
        pool = book.pools.get(item.pool)
        # What draws on another's allocation takes nothing new from the pool.
        if pool is not None and _is_probed(pool) and item.request.parent is None:
            asked.setdefault(item.pool, []).append(item.request.amounts)
    if not asked:
        return asked
    from scheduler.probes.lookout import lookout_of

    lookout = lookout_of(writer)
    return {pool: amounts for pool, amounts in asked.items() if lookout.is_due(pool)}


def _is_probed(pool: Pool) -> bool:
    return pool.policy.probe != "none"
