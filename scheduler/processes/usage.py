"""Samples of a tree's usage into aggregates: one a minute, and one at the end.

What no sample covers is not filled in: it is counted as a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from scheduler.processes.tree import MemoryKind, TreeSample

NS_PER_S: Final = 1_000_000_000
LATE_FACTOR: Final = 5
"""A sample later than this many intervals after the one before leaves a gap between them."""


@dataclass(frozen=True, slots=True)
class UsageAggregate:
    """What a tree used from ``since_ns`` to ``until_ns``.

    ``cpu_ns`` is processor time, complete across gaps because the counter runs on. Memory is
    held over covered time only: ``memory_byte_s`` is the integral by the trapezoid rule in whole
    byte-seconds (fractions carry over, so that aggregates add up), ``memory_peak_bytes`` the
    largest sample; ``memory_kind`` is ``rss`` as soon as one sample was. ``gaps_ns`` is the part
    that no sample covers. Where nothing was measured, figures are None and not zero.
    """

    since_ns: int
    until_ns: int
    cpu_ns: int | None
    memory_peak_bytes: int | None
    memory_byte_s: int | None
    memory_kind: MemoryKind | None
    samples: int
    gaps_ns: int
    gpu_memory_peak_bytes: int | None = None
    gpu_memory_byte_s: int | None = None


@dataclass(slots=True)
class _Integral:
    """Peak and integral of one figure; twice the integral is kept, which needs no halves."""

    peak: int | None = None
    covered: bool = False
    double_ns: int = 0

    def see(self, value: int) -> None:
        self.peak = value if self.peak is None else max(self.peak, value)

    def add(self, before: int, after: int, elapsed_ns: int) -> None:
        self.see(before)
        self.see(after)
        self.covered = True
        self.double_ns += (before + after) * elapsed_ns

    def take(self) -> tuple[int | None, int | None]:
        """Peak and whole byte-seconds so far; the fraction stays for the next aggregate."""
        whole, rest = divmod(self.double_ns, 2 * NS_PER_S)
        taken = (self.peak, whole if self.covered else None)
        self.peak, self.covered, self.double_ns = None, False, rest
        return taken


@dataclass(slots=True)
class UsageAggregator:
    """Takes samples in order and gives aggregates that cover all time without overlapping.

    ``since_ns`` is when measuring was due to begin and ``interval_ns`` how often samples are
    due. ``cpu_start_ns`` is the processor time at ``since_ns``: 0 for a tree that began then,
    None where it is unknown, and then processor time counts from the first sample.
    """

    since_ns: int
    interval_ns: int
    cpu_start_ns: int | None = 0
    period_ns: int = 60 * NS_PER_S
    _last: TreeSample | None = field(default=None, init=False)
    _cpu_unknown: bool = field(default=False, init=False)
    _covered_ns: int = field(default=0, init=False)
    _samples: int = field(default=0, init=False)
    _gaps_ns: int = field(default=0, init=False)
    _kind: MemoryKind | None = field(default=None, init=False)
    _memory: _Integral = field(default_factory=_Integral, init=False)
    _gpu: _Integral = field(default_factory=_Integral, init=False)

    def __post_init__(self) -> None:
        """Raises ValueError for an interval or a period that is not positive."""
        if self.interval_ns <= 0 or self.period_ns <= 0:
            raise ValueError("the interval and the period of samples have to be above 0 ns")
        self._covered_ns = self.since_ns

    def add(self, sample: TreeSample) -> UsageAggregate | None:
        """Take a sample; the aggregate up to it, once a period has passed.

        A sample dated before the one before it (a clock set back) takes no time and still counts
        its processor time and its peak.
        """
        self._cover(sample.at_ns, sample)
        self._cpu_unknown = self.cpu_start_ns is None
        if self.cpu_start_ns is None:
            self.cpu_start_ns = sample.cpu_ns
        self._last = sample
        self._samples += 1
        self._note(sample.memory_kind)
        self._memory.see(sample.memory_bytes)
        if sample.gpu_memory_bytes is not None:
            self._gpu.see(sample.gpu_memory_bytes)
        if self._covered_ns - self.since_ns < self.period_ns:
            return None
        return self._close()

    def finish(self, at_ns: int) -> UsageAggregate | None:
        """The last aggregate, up to ``at_ns``; None when nothing is left to tell.

        Take a last sample first: the last one's memory stands for the time after it, its
        processor time cannot.
        """
        self._cover(at_ns, self._last)
        if self._samples == 0 and self._covered_ns == self.since_ns:
            return None
        return self._close()

    def _cover(self, until_ns: int, sample: TreeSample | None) -> None:
        """Account for the time up to ``until_ns``, at which ``sample`` stands.

        Before the first sample, its own figures stand for the time since the beginning.
        """
        elapsed_ns = until_ns - self._covered_ns
        if elapsed_ns <= 0:
            return
        self._covered_ns = until_ns
        if sample is None or elapsed_ns > LATE_FACTOR * self.interval_ns:
            self._gaps_ns += elapsed_ns
            return
        before = self._last or sample
        self._note(before.memory_kind)
        self._note(sample.memory_kind)
        self._memory.add(before.memory_bytes, sample.memory_bytes, elapsed_ns)
        if sample.gpu_memory_bytes is not None and before.gpu_memory_bytes is not None:
            self._gpu.add(before.gpu_memory_bytes, sample.gpu_memory_bytes, elapsed_ns)

    def _note(self, kind: MemoryKind) -> None:
        self._kind = "rss" if self._kind == "rss" else kind

    def _close(self) -> UsageAggregate:
        memory_peak, memory_byte_s = self._memory.take()
        gpu_peak, gpu_byte_s = self._gpu.take()
        aggregate = UsageAggregate(
            since_ns=self.since_ns,
            until_ns=self._covered_ns,
            cpu_ns=self._cpu(),
            memory_peak_bytes=memory_peak,
            memory_byte_s=memory_byte_s,
            memory_kind=self._kind,
            samples=self._samples,
            gaps_ns=self._gaps_ns,
            gpu_memory_peak_bytes=gpu_peak,
            gpu_memory_byte_s=gpu_byte_s,
        )
        self.since_ns = self._covered_ns
        self._samples, self._gaps_ns, self._kind = 0, 0, None
        return aggregate

    def _cpu(self) -> int | None:
        """Processor time since the aggregate before; None when no two figures are there."""
        start = self.cpu_start_ns
        if self._samples == 0 or self._last is None or start is None or self._cpu_unknown:
            return None
        self.cpu_start_ns = self._last.cpu_ns
        return max(0, self._last.cpu_ns - start)
