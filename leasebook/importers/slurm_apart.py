"""A first look at a file of ``sacct``: what stands apart in it and yet belongs together.

Most files need nothing of it: each job's row stands with its steps, and says that the job is over. What
is looked for are steps with no such row beside them, and runs after which Slurm may have begun the same
job again. Of those jobs, up to :data:`KEPT_MAX`, a second look keeps the runs and the steps, so
that what is read at last comes to the same for every order of the rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from leasebook.importers.base import LATIN_1, Source
from leasebook.importers.slurm_ids import parted
from leasebook.importers.slurm_layout import Layout
from leasebook.importers.slurm_rows import PUT_BACK, REQUEUED, SETTLED, state_of
from ledger.commands import Fact

KEPT_MAX = 20_000
"""How many jobs with rows that stand apart are kept at most, and how many of their rows."""

_SETTLED = frozenset(state.encode() for state in SETTLED)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step used: when it began, its peak of memory in bytes, its processor time in ns.

    0 is what was not measured.
    """

    began: int | None
    peak: int
    cpu_ns: int


@dataclass(slots=True)
class Run:
    """A run of a job, by what its rows say: when it ended at last, and whether it was put back."""

    ended: int | None = None
    is_put_back: bool = False
    is_certain_to_run_again: bool = False


@dataclass(slots=True)
class Kin:
    """All that a file says of one job: its runs by key and start, and its steps by name and start."""

    is_there: bool = False
    runs: dict[str, dict[int, Run]] = field(default_factory=dict)
    steps: dict[tuple[str, int | None], Step] = field(default_factory=dict)
    _again: set[tuple[str, int]] | None = None
    _used: dict[int | None, tuple[int, int]] | None = None

    def runs_again(self, key: str, began: int) -> bool:
        """Whether a run that was put back is plainly not the only one under its key."""
        if self._again is None:
            self._again = {
                (name, start)
                for name, runs in self.runs.items()
                for start, run in _put_back_beside_others(runs)
                if run.is_put_back
            }
        return (key, began) in self._again

    def used_by(self, began: int) -> tuple[int, int]:
        """The peak of memory and the processor time of the steps of the run that began then."""
        if self._used is None:
            self._used = {}
            starts = sorted({start for runs in self.runs.values() for start in runs})
            for step in self.steps.values():
                run = _run_of(step, starts)
                peak, cpu_ns = self._used.get(run, (0, 0))
                self._used[run] = max(peak, step.peak), cpu_ns + step.cpu_ns
        return self._used.get(began, (0, 0))


def _put_back_beside_others(runs: dict[int, Run]) -> Iterator[tuple[int, Run]]:
    """Runs of one key at whose end another had yet to begin, or at whose start another had ended."""
    latest = max(runs)
    first_end = min((run.ended for run in runs.values() if run.ended is not None), default=latest)
    for start, run in runs.items():
        is_before = run.ended is not None and start < latest and run.ended <= latest
        is_after = start > min(runs) and first_end <= start
        if is_before or is_after or run.is_certain_to_run_again:
            yield start, run


def _run_of(step: Step, starts: list[int]) -> int | None:
    """When the run began that a step is of: the last that had begun by then."""
    if not starts:
        return None
    return starts[-1 if step.began is None else max(0, bisect_right(starts, step.began) - 1)]


class Apart:
    """What stands apart in a file: ``kin``, by cluster and id. ``is_whole``: all of it could be kept."""

    def __init__(self, layout: Layout, source: Source) -> None:
        self.is_whole = True
        self._layout = layout
        self._source = source
        self.kin: dict[tuple[str, str], Kin] = {}
        self._kept = 0

    def of(self, row: list[str], base: str) -> Kin | None:
        """What was kept of the job that a row, or that of a step of it, is about."""
        return self.kin.get((row[self._layout.cluster], base))

    def look(
        self, fact_of: Callable[[list[str], str], Fact], step_of: Callable[[list[str]], Step]
    ) -> None:
        """Go through the source, once or twice. What cannot be understood is left for later."""
        self._source.rewind()
        odd = {base.decode("utf-8", LATIN_1) for base in self._odd()}
        if odd:
            self._source.rewind()
            self._collect(odd, fact_of, step_of)

    def _odd(self) -> set[bytes]:
        """Jobs of which a row was put back, or a step stands beside no row that settles them."""
        at = self._layout
        delimiter = at.delimiter.encode()
        name_at, raw_at, state_at, cluster_at = at.jobid, at.jobidraw, at.state, at.cluster
        columns = max(name_at, raw_at, state_at, cluster_at) + 1
        odd: set[bytes] = set()
        now = cluster = b""
        has_steps = is_settled = is_open = False
        for line in self._source.raw_lines():
            parts = line.split(delimiter, columns)
            if len(parts) < columns:
                continue
            base, dot, _ = (parts[name_at] or parts[raw_at]).partition(b".")
            if base != now or (cluster_at >= 0 and parts[cluster_at] != cluster):
                if has_steps and (is_open or not is_settled):
                    odd.add(now)
                    if len(odd) >= KEPT_MAX:
                        break
                now, has_steps, is_settled, is_open = base, False, False, False
                cluster = parts[cluster_at]
            if b"[" in base:
                continue
            if dot:
                has_steps = True
            elif state_at < 0 or parts[state_at] in _SETTLED:
                is_settled = True
            else:
                state = state_of(parts[state_at].decode("utf-8", LATIN_1).strip())
                if state in SETTLED:
                    is_settled = True
                else:
                    is_open = True
                if state in PUT_BACK:
                    odd.add(base)
        if has_steps and (is_open or not is_settled):
            odd.add(now)
        self.is_whole = len(odd) < KEPT_MAX
        return odd

    def _collect(
        self,
        odd: set[str],
        fact_of: Callable[[list[str], str], Fact],
        step_of: Callable[[list[str]], Step],
    ) -> None:
        """Keep the runs and the steps of the jobs that were found."""
        at = self._layout
        for line in self._source.raw_lines():
            text = line.decode("utf-8", LATIN_1)
            name = text.split(at.delimiter, at.jobid + 1)
            if at.jobid < len(name) and name[at.jobid] and parted(name[at.jobid])[0] not in odd:
                continue
            row = at.split(text.rstrip("\r\n"))
            base, step = ("", "") if row is None else parted(row[at.jobid] or row[at.jobidraw])
            if row is None or base not in odd:
                continue
            kin = self.kin.setdefault((row[at.cluster], base), Kin())
            try:
                if step:
                    self._keep_step(kin, step, step_of(row))
                else:
                    self._keep_run(kin, fact_of(row, base), state_of(row[at.state]))
            except ValueError:
                continue

    def _keep_step(self, kin: Kin, name: str, step: Step) -> None:
        key = (name, step.began)
        known = kin.steps.get(key)
        if known is not None:
            peak, cpu_ns = max(known.peak, step.peak), max(known.cpu_ns, step.cpu_ns)
            kin.steps[key] = Step(step.began, peak, cpu_ns)
        elif self._has_room():
            kin.steps[key] = step

    def _keep_run(self, kin: Kin, fact: Fact, state: str) -> None:
        kin.is_there = True
        began, ended = fact.began_at, fact.ended_at
        if began is None:
            return
        run = kin.runs.get(fact.key, {}).get(began)
        if run is None:
            # The first one is among the jobs, whose number is bounded already.
            if kin.runs and not self._has_room():
                return
            run = kin.runs.setdefault(fact.key, {})[began] = Run()
        if ended is not None:
            run.ended = max(ended, run.ended or ended)
            if state in PUT_BACK:
                run.is_put_back = True
                # Without a time of submission in the key, another run is to come under the same.
                run.is_certain_to_run_again |= state in REQUEUED and "@" not in fact.key

    def _has_room(self) -> bool:
        self._kept += 1
        has_room = self._kept <= KEPT_MAX
        self.is_whole = self.is_whole and has_room
        return has_room
