"""What runs when a bundle is run: its checks, one line each. Nothing but the standard library.

Exit code 0 when all hold, 6 when one does not, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from ledger.errors import LeasebookError
from ledger.notes import NOTE_BYTES_MAX
from reports.incidents.checking import Examination, key_in, plain, summary
from reports.incidents.container import read_file

DONE, INVALID, UNPROVEN = 0, 2, 6

START = b'''"""Checks the incident bundle that this file lies in: python3 FILE [--key VERIFIERKEY]"""
import hashlib
import os
import sys

if sys.version_info < (3, 11):
    print("FAILED  this needs Python 3.11 or newer", file=sys.stderr)
    sys.exit(2)
file = os.path.dirname(os.path.abspath(__file__))
with open(file, "rb") as stream:
    data = stream.read()
if hashlib.sha256(data[:-64]).hexdigest().encode() != data[-64:]:
    # What was changed may be the code below, so none of it runs.
    print("FAILED  the file is not as it was written: get it again", file=sys.stderr)
    sys.exit(6)
sys.dont_write_bytecode = True
from reports.incidents.script import main
sys.exit(main(file, sys.argv[1:]))
'''
"""What Python runs first in a bundle."""


def main(file: str, arguments: Sequence[str]) -> int:
    """Check the bundle at ``file`` and say what was found; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 FILE", description="Checks the incident bundle that this file is."
    )
    parser.add_argument("--key", metavar="VERIFIERKEY", help="the key that must have signed it")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="FILE",
        help="a signed checkpoint that was kept elsewhere, which the chain must pass through",
    )
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A name that a terminal's encoding lacks must not end the check.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        key = None if options.key is None else key_in(options.key)
        kept = [_text_of(name) for name in options.checkpoint]
    except (LeasebookError, OSError, UnicodeDecodeError) as error:
        return _say(error, INVALID)
    try:
        examination = Examination(read_file(Path(file)), key, kept)
        for check, text in examination.run():
            print(f"ok      {check:<10}  {plain(text)}")
    except LeasebookError as error:
        return _say(error, UNPROVEN)
    print()
    for line in summary(examination.manifest):
        print(line)
    return DONE


def _say(error: Exception, code: int) -> int:
    message = error.message if isinstance(error, LeasebookError) else str(error)
    hint = error.hint if isinstance(error, LeasebookError) else ""
    line = "; ".join(part for part in (message, hint) if part)
    sys.stdout.flush()
    print("FAILED  " + plain(" ".join(line.split())), file=sys.stderr)
    return code


def _text_of(name: str) -> str:
    with Path(name).open(encoding="utf-8", newline="") as stream:
        return stream.read(NOTE_BYTES_MAX + 1)
