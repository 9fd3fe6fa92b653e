"""Where the rows of one command lie: what both stores need to answer ``rows_of_command``."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from ledger.log import Row

EVENTS_PER_ITEM = 65
"""An item is one row, and at most 64 more for what made room for it (see ``ledger.rules``)."""


def refused_beside(effective: Sequence[Row]) -> tuple[int, int] | None:
    """The positions, first and last, between which a batch's refused items can lie.

    ``effective`` are the rows of the command that took effect, oldest first. None when the command
    is no batch: then no refusal belongs to it. All rows of a batch are written within one commit, so
    ``"items"`` in the first row's data bounds how far away the others can be.
    """
    if not effective or '"items"' not in effective[0].data:
        return None
    data = orjson.loads(effective[0].data)
    items = data.get("items") if isinstance(data, dict) else None
    if not isinstance(items, int) or items < 1:
        return None
    first = effective[0]
    last = max(row.position for row in effective if row.recorded_at == first.recorded_at)
    reach = items * EVENTS_PER_ITEM
    return first.position - reach, last + reach
