"""The ledger against the independent model of :mod:`tests.model`, step by step, at random.

Every step passes some time, gives one command, and then compares: what the design allows as an
answer, who holds what until when, what each node and card has in use, who waits in which order,
what time has ended at which instant, and whether the events alone lead to the same book.

``LEASEBOOK_SOAK=10`` looks ten times as far.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.model.machine import LedgerMachine

SOAK = max(1, int(os.environ.get("LEASEBOOK_SOAK") or 1))


class PureLedger(LedgerMachine):
    """Commands are decided on a book in memory."""


TestTheLedgerDoesWhatTheModelDoes = PureLedger.TestCase
TestTheLedgerDoesWhatTheModelDoes.settings = settings(
    max_examples=60 * SOAK,
    stateful_step_count=40,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
