"""Opening a bundle: once it has passed its checks, its past can be asked like a ledger's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.book import Book
from projections.past import Past
from reports.incidents.checking import Examination, Finding, key_in
from reports.incidents.container import read_file
from reports.incidents.manifest import Manifest
from reports.incidents.rows import BundleLog


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: its manifest, what the checks found, its events, and the book before them."""

    path: Path
    manifest: Manifest
    findings: tuple[Finding, ...]
    log: BundleLog
    base: Book

    def past(self) -> Past:
        """What was so at any position from ``manifest.base`` to ``manifest.last``; read-only."""
        return Past(self.log, begins_with=self.base if self.base.position else None)


def open_bundle(
    path: str | os.PathLike[str], key: str | None = None, kept: Sequence[str] = ()
) -> Bundle:
    """Check a bundle and open it.

    ``key`` is the text of the verifier key that must have signed it (None: whichever it names),
    ``kept`` are texts of signed checkpoints that its chain must pass through.

    Raises BadBundle for one that does not pass, InvalidInput for a file that is not there, BadKey.
    """
    file = Path(path)
    examination = Examination(read_file(file), None if key is None else key_in(key), kept)
    findings = tuple(examination.run())
    return Bundle(file, examination.manifest, findings, examination.log, examination.base)
