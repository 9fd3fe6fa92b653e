"""Times, durations and sizes as other programs write them. All raise ValueError, one line.

Times become ns UTC, durations ns, sizes bytes; fractions of a byte are rounded down.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache

SECOND = 1_000_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LETTERS = "KMGTPE"


@lru_cache(maxsize=4096)
def _day(text: str) -> int:
    """The first nanosecond of a day such as ``2016-12-22``."""
    return (date.fromisoformat(text).toordinal() - _EPOCH_DAY) * 86_400 * SECOND


def moment(text: str, zone: tzinfo = UTC) -> int:
    """A time as ISO 8601, in ``zone`` where it names none, or in seconds or more since 1970."""
    if zone is UTC and len(text) == 19 and text[10] in "T ":
        try:
            hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
            if text[13] == text[16] == ":" and hour < 24 and minute < 60 and second < 60:
                return _day(text[:10]) + (hour * 3600 + minute * 60 + second) * SECOND
        except ValueError:
            pass
    if text.lstrip("-").replace(".", "", 1).isdigit() and not (len(text) == 8 and "." not in text):
        return since_epoch(text)
    try:
        read = datetime.fromisoformat(text)
        if read.tzinfo is None:
            read = read.replace(tzinfo=zone)
        return (read - _EPOCH) // _MICROSECOND * 1000
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is not a time") from None


def number_in(text: str) -> Decimal:
    """A finite number of a size that can be worked with. Raises ValueError."""
    try:
        number = Decimal(text) if len(text) <= 64 else Decimal("NaN")
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is not a number") from None
    if not number.is_finite() or not -40 < number.adjusted() < 40:
        raise ValueError(f"{text[:40]!r} is not a number within bounds")
    return number


def since_epoch(text: str, unit: str = "") -> int:
    """A number of ``s``, ``ms``, ``us`` or ``ns`` since 1970; without a unit, by its size."""
    number = number_in(text)
    if not unit:
        size = abs(number)
        unit = "s" if size < 10**11 else "ms" if size < 10**14 else "us" if size < 10**17 else "ns"
    return int(number * {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit])


def duration(text: str) -> int:
    """``5-01:02:03``, ``01:02:03``, ``02:03.5`` or ``3`` (seconds) as ns."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    try:
        if len(parts) > 3 or (dash and not days.isdigit()):
            raise ValueError
        if dash:
            # With days, what is left out are the smaller ones: 1-12 is a day and twelve hours.
            parts += ["0"] * (3 - len(parts))
        whole, _, fraction = parts[-1].partition(".")
        seconds = int(whole)
        for weight, part in zip((60, 3600), reversed(parts[:-1]), strict=False):
            seconds += weight * int(part)
        ns = seconds * SECOND + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a duration") from None
    if ns < 0:
        raise ValueError(f"{text[:40]!r} is not a duration")
    return ns + (int(days) * 86_400 * SECOND if dash else 0)


def size(text: str, unit: str = "") -> int:
    """``62.50G``, ``499092K`` or ``1024`` as bytes, in steps of 1024; ``unit`` where it has none."""
    letter = text[-1:].upper()
    digits = text[:-1] if letter in _LETTERS and letter else text
    letter = letter if digits is not text else unit
    power = _LETTERS.index(letter) + 1 if letter else 0
    number = number_in(digits)
    if number < 0:
        raise ValueError(f"{text[:40]!r} is not an amount of memory")
    return int(number * 1024**power)
