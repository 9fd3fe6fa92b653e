"""What a bundle says of itself: its window, its ends, and what it proves and does not prove."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ledger.times import rfc3339
from reports.incidents.container import FORMAT, BadBundle

KIND: Final = "leasebook-incident"
PSEUDONYMS: Final = ("none", "people", "all")
METADATA: Final = ("included", "left out")
SEALED_LINE: Final = "incident sha256 "
"""How the checkpoint's own line begins that names the manifest's SHA-256."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The page in front of a bundle. Positions are of the ledger; times are ns UTC; digests are hex.

    The window's events are ``first`` to ``last``, asked for as ``since`` to ``until`` (None where it
    was given by positions). The bundle's events begin at ``base`` + 1 (at the last recorded digest of
    the book before the window) and go on from the book at ``base``. ``base_hash`` is the chain's hash
    there. ``sealed`` is the position that the signed checkpoint covers. ``states`` maps a position
    to the digest of the book there. ``pseudonyms``: ``none``, ``people`` or ``all``. ``metadata``:
    ``included`` or ``left out``. ``digests`` says whether those of all events up to ``sealed`` are in
    it. ``files`` maps every other member to its SHA-256.
    """

    ledger_id: str
    program: str
    exported_at: int
    note: str
    since: int | None
    until: int | None
    first: int
    last: int
    base: int
    base_hash: str
    sealed: int
    states: dict[str, str]
    pseudonyms: str
    metadata: str
    digests: bool
    verifier_key: str
    files: dict[str, str]

    @property
    def origin(self) -> str:
        """The name under which the ledger's heads are signed."""
        return f"leasebook/{self.ledger_id}"

    def to_bytes(self) -> bytes:
        """As it stands in the bundle: JSON for people too, with what it proves spelled out."""
        document = {
            "kind": KIND,
            "format": FORMAT,
            **asdict(self),
            "window": self.window_text(),
            "proves": proves(self),
            "does_not_prove": does_not_prove(self),
        }
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

    def window_text(self) -> str:
        """The window in one line."""
        events = f"events {self.first} to {self.last}"
        if self.since is None and self.until is None:
            return events
        return f"{events}, {_from_to(self.since, self.until)}"


def read_manifest(data: bytes) -> Manifest:
    """The inverse of :meth:`Manifest.to_bytes`. Raises BadBundle."""
    try:
        document = json.loads(data)
        kind, number = document["kind"], document["format"]
        known = {f.name: document[f.name] for f in fields(Manifest)}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadBundle("the bundle's manifest cannot be read") from None
    if kind != KIND or number != FORMAT:
        raise BadBundle(f"the bundle's manifest is of another kind or format: {kind!r} {number!r}")
    _check(known)
    manifest = Manifest(**known)
    if manifest.pseudonyms not in PSEUDONYMS or manifest.metadata not in METADATA:
        raise BadBundle(
            "the bundle's manifest is damaged: pseudonyms or metadata has no such value"
        )
    counts = (manifest.base, manifest.first - 1, manifest.last, manifest.sealed)
    if min(counts) < 0 or list(counts) != sorted(counts) or manifest.first > manifest.last:
        raise BadBundle("the bundle's manifest contradicts itself: its positions are out of order")
    return manifest


def _check(known: dict[str, Any]) -> None:
    """Raise BadBundle for a value of another type than the manifest's fields have."""
    types = {"int": int, "str": str, "bool": bool, "int | None": (int, type(None))}
    for f in fields(Manifest):
        value = known[f.name]
        expected: Any = types.get(str(f.type), dict)
        fits = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
        if expected is dict and fits:
            fits = all(isinstance(v, str) for pair in value.items() for v in pair)
        if isinstance(value, int) and abs(value) >= 2**63:
            fits = False
        if not fits:
            raise BadBundle(f"the bundle's manifest is damaged: {f.name} is no {f.type}")


def proves(manifest: Manifest) -> list[str]:
    """What holds once the bundle's checks have passed, given that the signing key is trusted."""
    count = manifest.last - manifest.base
    whose = "whoever holds the signing key has put this bundle together as it is"
    if manifest.pseudonyms == "none":
        return [
            whose,
            f"each of the {count} events has the very bytes that the ledger recorded",
            f"they stand one after another, without a gap, in the chain that ends in the signed"
            f" checkpoint at event {manifest.sealed}",
            "the state before them is the one whose digest the ledger itself recorded"
            if manifest.base
            else "they begin with the ledger's first event, so that nothing was before them",
            "folding them gives the states that are claimed",
        ]
    chained = [
        f"the digests of all events from {manifest.base + 1} on lead to the signed checkpoint at"
        f" event {manifest.sealed}, so that their number and order are the ledger's"
    ]
    return [
        whose,
        *(chained if manifest.digests else []),
        f"the {count} events as they are shown follow one another, and folding them from the state"
        " shown gives the states that are claimed",
    ]


def does_not_prove(manifest: Manifest) -> list[str]:
    """What remains to be believed, or is not there at all."""
    missing = [
        "that the signing key is who it says: compare it with one that came another way",
        "what happened after the last event, or before the state that it begins with",
    ]
    if manifest.pseudonyms != "none":
        missing.append(
            "that the events shown are the ledger's: names were replaced, so their bytes fit no"
            " digest, and it rests on the word of whoever signed"
        )
        if not manifest.digests:
            missing.append(
                "how the events lie in the ledger's chain: their digests are left out, since with"
                " them a guessed name could be confirmed"
            )
    if manifest.metadata != "included":
        missing.append("metadata: it is left out")
    return missing


def _from_to(since: int | None, until: int | None) -> str:
    parts = []
    if since is not None:
        parts.append(f"from {rfc3339(since)}")
    if until is not None:
        parts.append(f"until {rfc3339(until)}")
    return " ".join(parts)
