"""Guesses: how long something is held that the record never granted, from what it did grant."""

from __future__ import annotations

from statistics import median

from reports.whatif.actions import Window

FEW = 3
"""Fewer than this are no basis for a narrower guess."""


class Guesses:
    """Median holding times of a window: by pool and task, else pool and holder, else the pool's."""

    def __init__(self, window: Window) -> None:
        held: dict[tuple[str, str, str], list[int]] = {}
        for life in window.lives.values():
            if life.granted_at is None or life.ended_at is None:
                continue
            lasted = max(0, life.ended_at - life.granted_at)
            for key in _keys(life.pool, life.holder, life.task):
                held.setdefault(key, []).append(lasted)
        self._medians = {key: round(median(times)) for key, times in held.items()}
        self._counts = {key: len(times) for key, times in held.items()}

    def holding(self, pool: str, holder: str, task: str | None) -> int | None:
        """How long (ns) such a request is held; None where nothing like it was: then its lease says."""
        for key in _keys(pool, holder, task):
            if self._counts.get(key, 0) >= (1 if key[1] == "pool" else FEW):
                return self._medians[key]
        return None


def _keys(pool: str, holder: str, task: str | None) -> list[tuple[str, str, str]]:
    by_task = [(pool, "task", task)] if task is not None else []
    return [*by_task, (pool, "holder", holder), (pool, "pool", "")]
