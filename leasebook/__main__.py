"""``leasebook`` on the command line: checks its own packages, then hands over to the command line.

Nothing heavy is imported here: hooks call this often, and most of a short command is its start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (``argv`` without the program's name) and return its exit code."""
    from leasebook.guard import check_packages_or_exit

    check_packages_or_exit()
    from leasebook.cli.app import run

    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
