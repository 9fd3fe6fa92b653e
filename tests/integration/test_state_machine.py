"""The ledger against the independent model of :mod:`tests.model`, step by step, at random.

Every step passes some time, gives one command, and then compares: what the design allows as an
answer, who holds what until when, what each node and card has in use, who waits in which order,
what time has ended at which instant, and whether the events alone lead to the same book. Three
times: on the pure core, and with two writers taking turns on a log in memory and in a file, where
every command is also tried again later and must have had its effect once.

``LEASEBOOK_SOAK=10`` looks ten times as far.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

from ledger.memory_log import MemoryLog
from ledger.sqlite_log import SqliteLog
from tests.model.driver import Driver
from tests.model.machine import LedgerMachine
from tests.model.writing import WriterDriver

SOAK = max(1, int(os.environ.get("LEASEBOOK_SOAK") or 1))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


class PureLedger(LedgerMachine):
    """Commands are decided on a book in memory."""


class LedgerInMemory(LedgerMachine):
    """Two writers take turns on a log in memory."""

    def make_driver(self) -> Driver:
        """As :meth:`LedgerMachine.make_driver`."""
        log = MemoryLog()
        return WriterDriver(log, log)


class LedgerInAFile(LedgerMachine):
    """Two writers take turns on a log in a file."""

    def make_driver(self) -> Driver:
        """As :meth:`LedgerMachine.make_driver`."""
        folder = tempfile.TemporaryDirectory()
        path = Path(folder.name) / "ledger.db"
        log, same = SqliteLog.open(path, create=True), SqliteLog.open(path)
        return WriterDriver(log, same, folder.cleanup)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples * SOAK,
        stateful_step_count=40,
        deadline=None,
        # The same examples each time, so that a change is judged and not luck; soaks look further.
        derandomize=SOAK == 1,
        print_blob=True,
        # To explain a failure would run each of its lines many times over.
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )


TestTheRulesDoWhatTheModelDoes = PureLedger.TestCase
TestTheRulesDoWhatTheModelDoes.settings = _settings(60)

TestWritersInMemoryDoWhatTheModelDoes = LedgerInMemory.TestCase
TestWritersInMemoryDoWhatTheModelDoes.settings = _settings(20)

TestWritersOfAFileDoWhatTheModelDoes = LedgerInAFile.TestCase
TestWritersOfAFileDoWhatTheModelDoes.settings = _settings(6)
