"""The queue and tenure rules under random use, judged by a model that knows only their statement."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

from tests.model.queue_machine import QueueMachine

SOAK = max(1, int(os.environ.get("LEASEBOOK_SOAK") or 1))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples * SOAK,
        stateful_step_count=30,
        deadline=None,
        derandomize=SOAK == 1,
        print_blob=True,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )


TestTheQueueDoesWhatItsStatementSays = QueueMachine.TestCase
TestTheQueueDoesWhatItsStatementSays.settings = _settings(60)
