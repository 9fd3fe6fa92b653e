"""The queue and tenure rules under random use, judged by a model that knows only their statement.

The judge (:mod:`tests.model.queue_judge`) reads events and nothing else. It follows pools of some
nodes under random policies, quotas and cohorts, and budgets; on the pure core, and with two writers
taking turns on a file, where every command is tried again later and must have had its effect once.

``LEASEBOOK_SOAK=10`` looks ten times as far, as ``make soak`` does.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from ledger.sqlite_log import SqliteLog
from tests.model.driver import Driver
from tests.model.queue_machine import BudgetMachine, QueueMachine
from tests.model.writing import WriterDriver

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
SOAK = max(1, int(os.environ.get("LEASEBOOK_SOAK") or (8 if LONG else 1)))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A failure is told as it was found: to shrink it takes minutes, and every event is told with it."""


class QueueInAFile(QueueMachine):
    """Two writers take turns on a ledger in a file."""

    # What is answered with another's allocation is no effect of its own that could be tried again.
    duplicates = st.sampled_from(("allow", "report", "refuse"))

    def make_driver(self) -> Driver:
        """As :meth:`QueueMachine.make_driver`."""
        folder = tempfile.TemporaryDirectory()
        path = Path(folder.name) / "ledger.db"
        log, same = SqliteLog.open(path, create=True), SqliteLog.open(path)
        return WriterDriver(log, same, folder.cleanup)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples * SOAK,
        stateful_step_count=30,
        deadline=None,
        # The same examples each time, so that a change is judged and not luck; soaks look further.
        derandomize=SOAK == 1,
        print_blob=True,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )


TestTheQueueDoesWhatItsStatementSays = QueueMachine.TestCase
TestTheQueueDoesWhatItsStatementSays.settings = _settings(40)

TestBudgetsDoWhatTheirStatementSays = BudgetMachine.TestCase
TestBudgetsDoWhatTheirStatementSays.settings = _settings(40)

TestWritersOfAFileDoWhatTheStatementSays = QueueInAFile.TestCase
TestWritersOfAFileDoWhatTheStatementSays.settings = _settings(4)
