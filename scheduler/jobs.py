"""The scheduler that runs the sweeps regularly: APScheduler, in threads of this process.

The jobs live in memory and belong to one process. Every process may run its own: sweeps are safe
against each other, and whichever comes first has the effect.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ledger.errors import InvalidInput, LeasebookError
from ledger.log import Log
from ledger.writer import Writer
from scheduler.sweeps import SWEEPS, Sweep, sweep

INTERVAL_S: Final = 5.0
"""How often the sweeps come by unless told otherwise, in seconds."""

log = logging.getLogger("leasebook.sweeps")


class Sweeping:
    """Sweeps that run until they are stopped; use it as a context manager or call ``stop``."""

    def __init__(self, scheduler: Any) -> None:
        """Use :func:`start_sweeps`."""
        self._scheduler = scheduler

    def stop(self) -> None:
        """Start no more, and wait for those under way to end. Twice is fine."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.shutdown(wait=True)

    def __enter__(self) -> Sweeping:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_sweeps(
    writer: Writer,
    *,
    interval_s: float = INTERVAL_S,
    names: Iterable[str] | None = None,
    views: Path | None = None,
) -> Sweeping:
    """Run sweeps (all, or those of these names) every ``interval_s`` seconds, beginning now.

    With ``views``, the file of the projections, these catch up as often.

    A sweep that fails logs one line and runs again at its next time. One that takes longer than the
    interval is not started twice. Raises InvalidInput for an unknown name or no positive interval.
    """
    chosen = {name: sweep(name) for name in (SWEEPS if names is None else names)}
    if not interval_s > 0:
        raise InvalidInput(f"sweeps every {interval_s:g} s", "give an interval above zero")
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.schedulers.background import BackgroundScheduler

    # By default a run that comes a second late (a busy or suspended machine) would be dropped.
    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(len(chosen) + 1)},
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        timezone=UTC,
    )
    for name, one in chosen.items():
        scheduler.add_job(
            run_logged,
            "interval",
            args=(name, one, writer),
            seconds=interval_s,
            id=name,
            next_run_time=datetime.now(UTC),
        )
    if views is not None:
        scheduler.add_job(
            catch_up_logged,
            "interval",
            args=(writer.log, views),
            seconds=interval_s,
            id="projections",
            next_run_time=datetime.now(UTC),
        )
    scheduler.start()
    return Sweeping(scheduler)


def catch_up_logged(log_read: Log, views: Path) -> None:
    """Bring the projections to the log's head; whatever goes wrong becomes one line in the log."""
    from projections.engine import Engine

    try:
        with Engine(log_read, views) as engine:
            progress = engine.catch_up()
    except LeasebookError as error:
        log.error("projections failed to catch up: %s", error.message)
    except Exception as error:
        text = " ".join(str(error).split())
        log.error("projections failed to catch up: %s: %s", type(error).__name__, text)
    else:
        for name in progress.failed:
            log.warning("projection %s stands still; see `leasebook projections status`", name)


def run_logged(name: str, one: Sweep, writer: Writer) -> None:
    """Run one sweep; whatever goes wrong becomes one line in the log ``leasebook.sweeps``."""
    try:
        report = one(writer)
    except LeasebookError as error:
        hint = f"; {error.hint}" if error.hint else ""
        log.error("sweep %s failed: %s%s", name, error.message, hint)
    except Exception as error:
        # A fault in one pass must not end the sweeps of a server that serves on.
        text = " ".join(str(error).split())
        log.error("sweep %s failed: %s: %s", name, type(error).__name__, text)
    else:
        if report.acted:
            log.info("sweep %s ended %d of %d", name, report.acted, report.examined)
