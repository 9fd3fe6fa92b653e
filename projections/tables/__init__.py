"""The projections, one room for each: the tables, and what each event makes of them.

:mod:`projections.engine` feeds them. They stand on the log alone, not on :mod:`ledger.book`, so that
each is an account of its own of what happened.
"""

from __future__ import annotations

from projections.tables.base import Projection
from projections.tables.lives import Lives
from projections.tables.parties import Holders, Tasks
from projections.tables.pools import Pools
from projections.tables.queue import Queue
from projections.tables.refusals import Refusals
from projections.tables.steps import Steps
from projections.tables.tenants import Tenants

PROJECTIONS: dict[str, type[Projection]] = {
    cls.name: cls for cls in (Lives, Steps, Pools, Holders, Tasks, Tenants, Queue, Refusals)
}
"""Name → projection, in the order in which each event passes through them."""
