"""What the doctor finds, and how a list of findings is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from ledger.errors import LeasebookError, LedgerCorrupt

Level = Literal["ok", "note", "warn", "bad"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "note", "warn", "bad")
"""From harmless to harmful: as it should be, worth knowing, a risk, and what has to be mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. ``message`` and ``hint`` are one line each; ``facts`` are JSON-ready figures.

    A figure that is not known is None, with its name kept.
    """

    name: str
    level: Level
    message: str
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


Check = Callable[[], Iterable[Finding]]


def guarded(name: str, check: Check) -> list[Finding]:
    """A check's findings; whatever it raises is a finding too."""
    try:
        return list(check())
    except LeasebookError as error:
        level: Level = "bad" if isinstance(error, LedgerCorrupt) else "warn"
        return [Finding(name, level, f"could not be examined: {error.message}", error.hint)]
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        why = error.strerror or type(error).__name__
        return [Finding(name, "warn", f"could not be examined: {where}{why}")]
    except Exception as error:
        # The doctor is called when something is broken: one broken part must not hide the others.
        text = " ".join(str(error).split())
        return [Finding(name, "warn", f"could not be examined: {type(error).__name__}: {text}")]


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among findings; ``ok`` where there are none."""
    return LEVELS[max((LEVELS.index(finding.level) for finding in findings), default=0)]


def as_text(findings: Sequence[Finding]) -> str:
    """Lines for a person: level, name and message, and under it what to do."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.name:<{width}}  {finding.message}")
        if finding.hint:
            lines.append(f"{'':<{width + 8}}→ {finding.hint}")
    counts = [(sum(f.level == level for f in findings), level) for level in reversed(LEVELS)]
    said = [f"{count} {level}" for count, level in counts if count]
    lines.append(", ".join(said) or "nothing was examined")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as one JSON-ready document: ``{"worst", "findings"}``."""
    return {"worst": worst(findings), "findings": [asdict(finding) for finding in findings]}


def size(amount: float) -> str:
    """Bytes for a person: ``2.4 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")
