"""Measuring the command: samples of its process tree, and what they add up to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ledger.events import UsageRecorded
from ledger.identity import ProcessIdentity
from ledger.requests import Amounts
from scheduler.processes.enclosure import Enclosure
from scheduler.processes.tree import TreeSample, TreeSampler
from scheduler.processes.usage import NS_PER_S, UsageAggregate, UsageAggregator

INTERVAL_S: Final = 1.0
"""How often a command that has run for a while is measured."""

_FIRST_S: Final = 0.02
"""How soon after the start for the first time: most commands are short. It doubles from there."""

_COST_SHARE: Final = 50
"""Measuring takes at most one fiftieth of a processor: a tree of thousands is measured rarely."""


def running_clock(now_ns: int) -> Callable[[], int]:
    """A clock that shows ``now_ns`` (ledger time) now, and goes on by elapsed time.

    A suspended machine's time elapses too, and shows as a gap.
    """
    source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    began = time.clock_gettime_ns(source)
    return lambda: now_ns + time.clock_gettime_ns(source) - began


class Meter:
    """Measures one command from its start. For one thread.

    Processor time is the control group's where there is one (complete, whatever became of whom),
    else the process tree's.
    """

    def __init__(
        self, root: ProcessIdentity, enclosure: Enclosure | None, clock_ns: Callable[[], int]
    ) -> None:
        self._clock_ns = clock_ns
        self._enclosure = enclosure
        self._sampler = TreeSampler(
            root,
            orphans_of=os.getpid(),
            members=None if enclosure is None else enclosure.pids,
            clock_ns=clock_ns,
        )
        self.began_at = clock_ns()
        self._aggregator = UsageAggregator(self.began_at, round(INTERVAL_S * NS_PER_S))
        self._by_group = enclosure is not None and enclosure.usage().cpu_ns is not None
        self._cpu_ns = 0
        self._cpu_ms = 0
        self._seen_running = self._ever_running = False
        self._interval_s = _FIRST_S
        self.next_at = time.monotonic()
        self.group_memory_peak: int | None = None
        """The kernel's own peak for the group, page cache included; None where it keeps none."""
        self.closed: list[UsageRecorded] = []

    def sample(self) -> UsageRecorded | None:
        """Measure now; what to record, once a minute is full.

        A look that fails (no descriptor left, ``/proc`` away) is a gap, not an end.
        """
        began = time.monotonic()
        aggregate = None
        with contextlib.suppress(OSError, ValueError):
            self._sampler.reap_orphans()
            aggregate = self._aggregator.add(self._look())
        ended = time.monotonic()
        self._interval_s = min(INTERVAL_S, self._interval_s * 2)
        self.next_at = ended + max(self._interval_s, (ended - began) * _COST_SHARE)
        return None if aggregate is None else self._close(aggregate, final=False, exit_code=None)

    def _look(self) -> TreeSample:
        sample = self._sampler.sample()
        if sample.processes:
            # A zombie's memory is gone: 0 would be an answer to a question nobody could ask.
            self._seen_running = self._ever_running = True
        if self._enclosure is None:
            return sample
        usage = self._enclosure.usage()
        if usage.memory_peak_bytes is not None:
            self.group_memory_peak = usage.memory_peak_bytes
        if self._by_group and usage.cpu_ns is not None:
            # Where both know, the group does not know less: what nobody waited for is in it too.
            return replace(sample, cpu_ns=max(sample.cpu_ns, usage.cpu_ns))
        return sample

    def finish(self, exit_code: int | None) -> UsageRecorded:
        """Measure for the last time; the last aggregate, which says that it is the last."""
        with contextlib.suppress(OSError, ValueError):
            self._sampler.reap_orphans()
            aggregate = self._aggregator.add(self._look())
            if aggregate is not None:
                self._close(aggregate, final=False, exit_code=None)
        now = self._clock_ns()
        last = self._aggregator.finish(now)
        if last is None:
            last = UsageAggregate(now, now, None, None, None, None, 0, 0)
        return self._close(last, final=True, exit_code=exit_code)

    def strays(self) -> list[ProcessIdentity]:
        """What of the command still runs, without its first process."""
        return self._sampler.descendants()

    def _take_group_peak(self, peak: Amounts, basis: dict[str, str]) -> None:
        """Let the group's own peak stand where samples cannot tell.

        A command that ended before anybody could look has used memory all the same, and one that
        the kernel killed at its limit has reached it between two looks. Otherwise samples stand:
        the group's peak has page cache in it, which the kernel would have given back.
        """
        known = self.group_memory_peak
        if self._enclosure is None or known is None:
            return
        if not self._ever_running or self._enclosure.oom_events():
            peak["memory"] = max(known, peak.get("memory", 0))
            basis["memory"] = "cgroup"

    def _close(
        self, aggregate: UsageAggregate, *, final: bool, exit_code: int | None
    ) -> UsageRecorded:
        used: Amounts = {}
        peak: Amounts = {}
        basis: dict[str, str] = {}
        if aggregate.cpu_ns is not None:
            # Whole thousandths of all so far, so that what is cut off now is in the next one.
            self._cpu_ns += aggregate.cpu_ns
            used["cpu"] = self._cpu_ns // 1_000_000 - self._cpu_ms
            self._cpu_ms += used["cpu"]
            basis["cpu"] = "cgroup" if self._by_group else "proc"
        if self._seen_running:
            if aggregate.memory_byte_s is not None:
                used["memory"] = aggregate.memory_byte_s
            if aggregate.memory_peak_bytes is not None and aggregate.memory_kind is not None:
                peak["memory"] = aggregate.memory_peak_bytes
                basis["memory"] = aggregate.memory_kind
        if final:
            self._take_group_peak(peak, basis)
        if aggregate.gpu_memory_byte_s is not None:
            used["vram"] = aggregate.gpu_memory_byte_s
        if aggregate.gpu_memory_peak_bytes is not None:
            peak["vram"] = aggregate.gpu_memory_peak_bytes
            basis["vram"] = "nvml"
        self._seen_running = False
        body = UsageRecorded(
            aggregate.since_ns,
            aggregate.until_ns,
            used,
            peak,
            basis,
            aggregate.samples,
            aggregate.gaps_ns,
            final,
            exit_code,
        )
        self.closed.append(body)
        return body
