"""The command line as tests call it: the real entry point, in this process or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leasebook.__main__ import main
from tests.ledgers import unmeasured

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


class CommandLine:
    """Calls ``leasebook`` on one ledger; ``lb("list", "--json")``."""

    def __init__(self, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.ledger = ledger
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        """Run one command in this process."""
        self._capsys.readouterr()
        code = main(arguments)
        said = self._capsys.readouterr()
        return Answer(code, said.out, said.err)

    def ok(self, *arguments: str) -> Any:
        """Run one command with ``--json``, see it succeed, and return its document."""
        answer = self(*arguments, "--json")
        assert answer.code == 0, answer
        return answer.json

    def process(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start one command as a process of its own, which may be interrupted."""
        environment = {**unmeasured(), "PYTHONPATH": str(ROOT)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [sys.executable, "-m", "leasebook", *arguments],
            text=True,
            env=environment,
            **options,
        )
