"""The moments that a bundle can tell of truly: what it leaves out must not look as if it had not been.

Of observed pools only what lived in the window is in it, so of other times it would tell too little.
Of managed pools it tells from its first state to its last event.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from leasebook.moments import Moments, When
from leasebook.when import rfc3339
from ledger.errors import InvalidInput
from projections.travel import Travel
from projections.travel_replay import Replay
from projections.wording import some
from reports.incidents.manifest import Manifest
from reports.incidents.window import REST_NS

Asked = When | datetime


class BundleMoments(Moments):
    """As :class:`~leasebook.moments.Moments`, of a bundle; raises InvalidInput beyond what it holds.

    ``now`` (ns UTC) is the bundle's end; where observed pools are asked for, that is the window's.
    """

    def __init__(self, travel: Travel, now: int, manifest: Manifest) -> None:
        super().__init__(travel, now)
        self._manifest = manifest
        pools = travel.past.book_at(manifest.last).pools
        self._observed = frozenset(n for n, pool in pools.items() if pool.kind == "observed")
        self._managed = pools.keys() - self._observed

    def at(
        self, when: Asked, *, as_known_at: Asked | None = None, pool: str | None = None
    ) -> dict[str, Any]:
        """The contract's document of a moment."""
        if not self._is_observed(pool):
            return super().at(when, as_known_at=as_known_at, pool=pool)
        asked = self._from_the_end()
        self._require(asked, when, pool)
        if as_known_at == "now":
            as_known_at = None
        if as_known_at is not None:
            self._require_known(asked, as_known_at)
        return asked.at(when, as_known_at=as_known_at, pool=pool)

    def diff(self, first: Asked, second: Asked, *, pool: str | None = None) -> dict[str, Any]:
        """What differs between two moments, as a document."""
        if not self._is_observed(pool):
            return super().diff(first, second, pool=pool)
        asked = self._from_the_end()
        self._require(asked, first, pool)
        self._require(asked, second, pool)
        return asked.diff(first, second, pool=pool)

    def replay(self, since: Asked, until: Asked, *, pool: str | None = None) -> Replay:
        """The events between two moments, each with the state after it."""
        if not self._is_observed(pool):
            return super().replay(since, until, pool=pool)
        asked = self._from_the_end()
        by_record = asked.parsed(since)[0] == asked.parsed(until)[0] == "position"
        # From event 1 on, the order of the record is told as the ledger tells it.
        if not (by_record and not self._manifest.base):
            self._require(asked, since, pool)
            self._require(asked, until, pool)
        return asked.replay(since, until, pool=pool)

    # --- inside ----------------------------------------------------------------------------------

    def _is_observed(self, pool: str | None) -> bool:
        """Whether an answer would speak of an observed pool."""
        return bool(self._observed) if pool is None else pool in self._observed

    def _from_the_end(self) -> Moments:
        """Moments for which ``now`` is the window's end."""
        until = self._manifest.until
        bounded = until is not None and self._manifest.since is not None
        return Moments(self.travel, until if bounded and until is not None else self.now)

    def _require(self, asked: Moments, when: Asked, pool: str | None) -> None:
        """Raise InvalidInput for a moment of which the bundle does not hold all."""
        kind, value = asked.parsed(when)
        past, manifest = self.travel.past, self._manifest
        if kind == "position":
            value = asked.moment(when).time
        since, until = manifest.since, manifest.until
        if since is None or until is None:
            if manifest.base:
                raise InvalidInput(
                    f"this bundle was cut by position, so it tells of no time all that"
                    f" {some(sorted(self._observed))} held",
                    self._hint("export the window with two times"),
                )
        elif not since <= value <= until + REST_NS:
            raise InvalidInput(
                f"{rfc3339(value)} lies outside of the bundle's window: of"
                f" {some(sorted(self._observed))} it tells from {rfc3339(since)} to {rfc3339(until)}",
                self._hint("give a time in between"),
            )
        if pool is None and manifest.base and self._managed and kind == "time":
            begins = past.recorded_at(past.first)
            if value < begins:
                raise InvalidInput(
                    f"of {some(sorted(self._managed))} this bundle tells from {rfc3339(begins)} on",
                    f"name one of the others with --pool: {some(sorted(self._observed))}",
                )

    def _require_known(self, asked: Moments, known: Asked) -> None:
        """Raise InvalidInput for a time at which the ledger knew what the bundle does not hold."""
        kind, value = asked.parsed(known)
        past, last = self.travel.past, self._manifest.last
        begins, ends = past.recorded_at(past.first), past.recorded_at(last)
        early = value < begins and bool(self._manifest.base)
        if kind == "time" and (early or value >= ends):
            raise InvalidInput(
                f"what was known at {rfc3339(value)} is not in this bundle: its events were recorded"
                f" from {rfc3339(begins)} to {rfc3339(ends)}",
                "give a time in between, a position, or now",
            )

    def _hint(self, first: str) -> str:
        more = (
            f", or name one of {some(sorted(self._managed))} with --pool" if self._managed else ""
        )
        return first + more
