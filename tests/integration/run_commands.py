"""Runs of real commands for the tests of ``leasebook run``, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import leasebook
from leasebook import ResourceManager

ROOT = Path(__file__).parents[2]

ENTRY = """
import json, os, sys
from leasebook.run.command import RunOptions, run
where, options = json.loads(sys.argv[1])
sys.exit(run(where, RunOptions(**options), sys.argv[2:]))
"""

SMALL = {"cpu": "500m", "memory": "300Mi"}
"""Enough for a Python, and small enough for three of them on a machine of two processors."""


def words(where: Path | str | None, options: Mapping[str, Any], *command: str) -> list[str]:
    """The words that start a run."""
    given = json.dumps([None if where is None else str(where), dict(options)])
    return [sys.executable, "-c", ENTRY, given, *command]


def surroundings(**more: str) -> dict[str, str]:
    """An environment in which the packages are found."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LEASEBOOK_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def start(
    where: Path | str | None,
    *command: str,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[str]:
    """Start a run away from any terminal."""
    return subprocess.Popen(
        words(where, options, *command),
        env=surroundings(**(env or {})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Ran:
    """A run that has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.err = process.communicate(timeout=60)
        self.code = process.returncode

    @property
    def account(self) -> dict[str, Any]:
        """The JSON account on stderr, of a run with ``as_json``."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])
        return found


def ran(where: Path | str | None, *command: str, **options: Any) -> Ran:
    """Run a command to its end."""
    return Ran(start(where, *command, **options))


def python(code: str) -> tuple[str, ...]:
    """A Python command, started as fast as that goes."""
    return (sys.executable, "-S", "-E", "-c", code)


def look(where: Path) -> AbstractContextManager[ResourceManager]:
    """The ledger, opened to look at it."""
    return leasebook.open(where)


def events_of(where: Path, kind: str) -> list[Any]:
    """All events of one type."""
    with look(where) as manager:
        return list(manager.events(type=kind))


def types_in(where: Path) -> list[str]:
    """The types of all events, in order."""
    with look(where) as manager:
        return [event.type for event in manager.events()]


def gone(pid: int) -> Callable[[], bool]:
    """Whether a process has ended, for ``eventually``."""

    def ask() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    return ask
