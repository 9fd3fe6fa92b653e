"""What no option may replace: a database, which may be the ledger itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ledger.errors import InvalidInput

_MAGIC: Final = b"SQLite format 3\0"
_BESIDE: Final = ("-wal", "-shm", "-journal", ".gate")


def check_replaceable(path: Path) -> None:
    """Raise InvalidInput for a database, and for a file that belongs to one."""
    names = [
        path,
        *(Path(str(path).removesuffix(end)) for end in _BESIDE if path.name.endswith(end)),
    ]
    if any(map(_is_database, names)):
        raise InvalidInput(
            f"{path} is a database or belongs to one, which nothing replaces", "choose another name"
        )


def _is_database(path: Path) -> bool:
    try:
        if Path(f"{path}-wal").exists():
            return True  # It may still be empty, and all of it lie there.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):
        return False
