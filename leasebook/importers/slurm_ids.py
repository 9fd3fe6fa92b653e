"""The ids of Slurm's jobs: ``12.batch`` is a step of 12, ``12_[4-5%2]`` the tasks 12_4 and 12_5."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from leasebook.importers.slurm_rows import NO_TIME
from leasebook.importers.units import SECOND, moment

TASKS_MAX = 100_000
"""The most tasks that one row may stand for; Slurm's own limit, MaxArraySize, is 1,001 if not set."""

_ARRAY = re.compile(r"([0-9]{1,18})_\[([^\]]*)\]")
_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")


def parted(name: str) -> tuple[str, str]:
    """The id of the job and that of its step, which is empty for the job itself."""
    if "[" in name:
        return name, ""
    base, _, step = name.partition(".")
    return base, step


def tasks(name: str) -> Iterator[str]:
    """The ids of the tasks that ``12_[1,3,5-9:2%4]`` stands for. Raises ValueError, at once."""
    match = _ARRAY.fullmatch(name)
    if match is None:
        raise ValueError(f"{name[:60]!r} is not a list of tasks")
    listed = match[2].partition("%")[0]
    if "..." in listed:
        raise ValueError(
            f"the list of tasks {name[:60]!r} is cut short: export it with SLURM_BITSTR_LEN=0"
        )
    numbers, count = [], 0
    for part in listed.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{part[:60]!r} in a list of tasks is no number and no range")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if last < first or not step:
            raise ValueError(f"the range {part[:60]!r} in a list of tasks is upside down")
        numbers.append(range(first, last + 1, step))
        count += len(numbers[-1])
        if count > TASKS_MAX:
            raise ValueError(f"the row stands for more than {TASKS_MAX} tasks")
    return (f"{match[1]}_{number}" for number in chain.from_iterable(numbers))


def stamp(text: str) -> int | None:
    """A time as it stands, in seconds; None where there is none. Raises ValueError.

    What has no zone is read as UTC whatever ``--tz`` says: an import again with the right zone then
    corrects what is known, and does not double it.
    """
    return None if text in NO_TIME else moment(text) // SECOND
