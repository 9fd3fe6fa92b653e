"""One run of a command: which ledger it is about, and whether it answers in JSON or in words."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

    from leasebook.calling import Call
    from leasebook.calls import Calls
    from leasebook.manager import Ledger
    from leasebook.questions import Questions
    from ledger.receipts import Receipt

T = TypeVar("T")


class Room:
    """An open ledger as the verbs use it: ``ask`` reads, ``calls`` makes what ``carry_out`` writes."""

    def __init__(self, ledger: Ledger) -> None:
        from leasebook.calls import Calls

        self.ledger = ledger
        self.calls: Calls = Calls(ledger.writer, None)

    @property
    def ask(self) -> Questions:
        """What can be read."""
        from leasebook.questions import Questions

        return Questions(self.ledger.writer, None)

    def receipt(self, call: Call[Any]) -> Receipt:
        """Carry a call out; a refusal is a receipt too."""
        return self.ledger.carry_out(call.command)

    def carry_out(self, call: Call[Any]) -> Receipt:
        """Carry a call out. Raises Refused."""
        from leasebook.values import refused

        receipt = self.receipt(call)
        if receipt.outcome == "refused":
            raise refused(receipt)
        return receipt


class Session:
    """What was said for every verb: ``--ledger`` and ``--json``."""

    def __init__(self, where: str | None = None, json: bool = False) -> None:
        self.where = where
        self.json = json
        self.code_of_failure: Callable[[int], int] = int
        """How the verb that is running counts its own failures."""
        self.fails_on_stderr = False
        """Whether a failure is said on stderr with ``--json`` too: stdout is another's."""
        self.writes = False
        """Whether the verb has opened the ledger to write, and so may have changed it."""

    @contextlib.contextmanager
    def open(self, *, create: bool = False, read_only: bool = False) -> Iterator[Room]:
        """The ledger, closed at the end. Raises NotALedger, LedgerUnavailable, LedgerCorrupt."""
        from leasebook.manager import Ledger

        ledger = Ledger.open(self.named(), create=create, read_only=read_only)
        self.writes = not read_only
        try:
            yield Room(ledger)
        finally:
            ledger.close()

    def named(self) -> str | None:
        """The ledger as given. Raises InvalidInput for an empty name, such as from an unset variable."""
        if self.where == "":
            from ledger.errors import InvalidInput

            raise InvalidInput("--ledger is empty", "give a path, or leave it out")
        return self.where

    def path(self) -> Path:
        """The path of the ledger's file. Raises InvalidInput for an address."""
        from leasebook.settings import ledger_path, which_ledger

        return ledger_path(which_ledger(self.named()))

    def answer(self, document: Any, text: str | None = None) -> None:
        """Print the document with ``--json``, else the text (None prints nothing)."""
        if self.json:
            print_json(document)
        elif text is not None:
            print(text)

    def note(self, message: str) -> None:
        """Say something beside the answer, on stderr."""
        from leasebook.cli.failures import one_line
        from leasebook.cli.streams import say

        say(f"leasebook: {one_line(message)}")


def to_json(document: Any) -> str:
    """A document on one line. Names that are no valid Unicode come out escaped."""
    import orjson

    try:
        return orjson.dumps(document).decode()
    except TypeError:
        import json

        return json.dumps(document)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print_json_text(to_json(document))


def print_json_text(text: str, end: str = "\n") -> None:
    """JSON on stdout, in characters that it can take."""
    from leasebook.cli.streams import fitting

    print(fitting(text, sys.stdout), end=end)
