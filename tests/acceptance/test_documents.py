"""Every example in README.md and under docs/ is run, so that none of them can be wrong.

Blocks marked `python` are executed, one after the other with the same names, and blocks marked
`sh` are run by bash and must succeed; both in an empty folder with a ledger of their own. What is
only to be looked at is marked `text`; what cannot be run here (set-up, say) has
`<!--- skip: next -->` on a line of its own before it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run_in_shell(example: Example) -> None:
    script = str(example.parsed)
    assert not re.search(r"^\s*make\b", script, re.MULTILINE), (
        f"{example.path}:{example.line}: a document cannot call make from within `make test`; "
        "put <!--- skip: next --> before the block"
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, (
        f"{example.path}:{example.line}: ended with {done.returncode}\n{done.stdout}{done.stderr}"
    )


EXAMPLES = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("sh", run_in_shell), SkipParser()],
    path=str(ROOT),
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_of_the_document_work(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASEBOOK_LEDGER", str(tmp_path / "ledger.db"))
    programs = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", programs + os.pathsep + os.environ["PATH"])
    for example in EXAMPLES.parse(path).examples():
        example.evaluate()
