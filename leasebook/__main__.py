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
    code = _run(sys.argv[1:])
    _leave_at_once(code)
    return code


def _run(argv: Sequence[str]) -> int:
    from leasebook.guard import check_packages_or_exit

    check_packages_or_exit()
    from leasebook.cli.app import run

    return run(argv)


def _leave_at_once(code: int) -> None:
    """End without taking the interpreter apart, which takes as long as carrying a command out.

    Not where something may count on an orderly end: a thread that still works, or processes that
    :mod:`multiprocessing` looks after.
    """
    threading = sys.modules.get("threading")
    alone = threading is None or threading.active_count() == 1
    if alone and "multiprocessing" not in sys.modules:
        # What could not be written was said already; there is nobody left to say it to.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
