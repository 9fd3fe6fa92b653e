"""Ending processes: TERM, grace, KILL, and only ever the process that is meant.

A signal goes through a pidfd whose process was checked after it was opened, so it cannot hit
whoever got the pid since. Without pidfds the check comes right before the signal, which leaves a
gap of microseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ledger.identity import ProcessIdentity
from scheduler.processes.identity import of_stat
from scheduler.processes.liveness import Liveness, NotObservable, ProcessWatch, observe
from scheduler.processes.tree import TreeTracker

KILL_S_MAX: Final = 5.0
"""How long the kernel gets to end what was sent KILL before it counts as left."""

_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a tree: ended at TERM or by itself, ended by KILL, and what is left.

    ``left`` holds what still runs (grace over and no leave to kill, not permitted, stuck in the
    kernel), what cannot be seen from here, and this process if it belongs to the tree itself.
    """

    terminated: tuple[ProcessIdentity, ...]
    killed: tuple[ProcessIdentity, ...]
    left: tuple[ProcessIdentity, ...]


def send_signal(identity: ProcessIdentity, sig: int) -> bool:
    """Signal exactly this process; False when it has ended or cannot be seen from here.

    Raises PermissionError when the process may not be signalled.
    """
    try:
        with ProcessWatch(identity) as watch:
            if watch.wait(0):
                return False
            return _signal(watch, sig)
    except NotObservable:
        return False


def _signal(watch: ProcessWatch, sig: int) -> bool:
    try:
        fd = watch.fileno()
    except OSError:
        fd = -1
    try:
        if fd >= 0 and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(fd, sig)
        elif observe(watch.identity).liveness is Liveness.ALIVE:
            os.kill(watch.identity.pid, sig)
        else:
            return False
    except ProcessLookupError:
        return False
    return True


def end_tree(
    roots: Iterable[ProcessIdentity],
    grace_s: float,
    kill_ok: bool = True,
    *,
    members: Callable[[], Iterable[int]] | None = None,
) -> Ended:
    """End processes and all their descendants: TERM, up to ``grace_s`` seconds, then KILL.

    What they start meanwhile is found and ended with them. ``members`` adds pids from elsewhere
    (``Enclosure.pids``); ``TreeSampler.descendants`` as ``roots`` adds daemons seen earlier. A
    zombie has ended; waiting for it is its parent's. Raises nothing for a process that may not
    be signalled: it is left.
    """
    with _Ending(roots, members) as ending:
        ending.run(signal.SIGTERM, grace_s)
        terminated = ending.take_ended()
        if kill_ok and ending.watches:
            ending.run(signal.SIGKILL, KILL_S_MAX)
        killed = ending.take_ended()
        left = (*ending.out_of_reach, *(watch.identity for watch in ending.watches.values()))
    return Ended(terminated, killed, left)


class _Ending:
    """The processes of a tree that have not ended yet, each with a watch."""

    def __init__(
        self,
        roots: Iterable[ProcessIdentity],
        members: Callable[[], Iterable[int]] | None,
    ) -> None:
        self.watches: dict[tuple[int, int], ProcessWatch] = {}
        self.out_of_reach: list[ProcessIdentity] = []
        self._ended: list[ProcessIdentity] = []
        self._seen: set[tuple[int, int]] = set()
        here = []
        for root in roots:
            liveness = observe(root).liveness
            if liveness is Liveness.ALIVE:
                here.append(root)
            elif liveness is Liveness.UNKNOWN:
                self.out_of_reach.append(root)
        self._tracker = TreeTracker(here, members=members)

    def run(self, sig: signal.Signals, limit_s: float) -> None:
        """Signal all, newcomers too, and wait for their end, at most ``limit_s`` seconds."""
        end = time.monotonic() + limit_s
        signalled: set[tuple[int, int]] = set()
        while True:
            self._find()
            for key, watch in self.watches.items():
                if key not in signalled:
                    signalled.add(key)
                    with contextlib.suppress(PermissionError):
                        _signal(watch, sig)
                        # A stopped process takes TERM only once it goes on.
                        _signal(watch, signal.SIGCONT)
            self._wait(min(_LOOK_S, max(0.0, end - time.monotonic())))
            if not self.watches:
                # The last one may have left a child behind since the last look.
                self._find()
            if not self.watches or time.monotonic() >= end:
                return

    def _find(self) -> None:
        for stat in self._tracker.refresh():
            if stat.key in self._seen or stat.ended:
                continue
            self._seen.add(stat.key)
            identity = of_stat(stat)
            if stat.pid in (os.getpid(), 1):
                self.out_of_reach.append(identity)
                continue
            try:
                self.watches[stat.key] = ProcessWatch(identity)
            except NotObservable:
                self.out_of_reach.append(identity)

    def _wait(self, limit_s: float) -> None:
        """Wait until one more has ended, at most ``limit_s`` seconds, and note all that have."""
        poll = select.poll()
        all_have_descriptors = True
        for watch in self.watches.values():
            try:
                poll.register(watch.fileno(), select.POLLIN)
            except OSError:
                all_have_descriptors = False
        if self.watches:
            poll.poll((limit_s if all_have_descriptors else min(limit_s, 0.01)) * 1000)
        for key in [key for key, watch in self.watches.items() if watch.wait(0)]:
            watch = self.watches.pop(key)
            watch.close()
            self._ended.append(watch.identity)

    def take_ended(self) -> tuple[ProcessIdentity, ...]:
        """Those that have ended since the last call."""
        ended, self._ended = tuple(self._ended), []
        return ended

    def __enter__(self) -> _Ending:
        return self

    def __exit__(self, *_: object) -> None:
        for watch in self.watches.values():
            watch.close()
