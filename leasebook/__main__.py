"""``leasebook`` on the command line: checks its own packages, then hands over to the command line.

Nothing heavy is imported here: hooks call this often, and most of a short command is its start and
its end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Sequence

COLLECT_AFTER_OBJECTS = 50_000
"""A short command is over before so many objects were made, and needs no garbage collection."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    ``argv`` is without the program's name. With None this is the process's own command line, and
    the process ends with the command.
    """
    if argv is not None:
        return _run(argv)
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    _hold_closed_descriptors()
    code = _run(sys.argv[1:])
    _leave_at_once(code)
    return code


def _run(argv: Sequence[str]) -> int:
    from leasebook.guard import check_packages_or_exit

    check_packages_or_exit()
    from leasebook.cli.app import run

    return run(argv)


def _hold_closed_descriptors() -> None:
    """Put the null device where stdin, stdout or stderr is closed.

    Else the next file that is opened, such as the ledger's gate, takes its number, and with it what
    libraries and commands write there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one: those below it are taken by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _leave_at_once(code: int) -> None:
    """End without taking the interpreter apart, which takes as long as carrying a command out.

    Nothing here counts on an orderly end of the interpreter but threads that still work. It also
    keeps the code: after a Ctrl-C the interpreter may end by that signal, whatever code it is given.
    """
    threading = sys.modules.get("threading")
    if threading is None or threading.active_count() == 1:
        # What could not be written was said already; there is nobody left to say it to.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
