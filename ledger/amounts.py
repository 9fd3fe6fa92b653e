"""Values: amounts, names and durations, and how each is read from and written as text.

An amount is a whole number of base units of one resource, so that accounts balance exactly:

========================  ==========================================  ====================
resource                  base unit                                   suffixes read
========================  ==========================================  ====================
``cpu``, ``gpu``          a thousandth of a core or card              ``m``
``memory vram disk``      a byte                                      ``k M G T P E``,
                                                                      ``kB KB MB … EB``,
                                                                      ``Ki … Ei``,
                                                                      ``KiB … EiB``, ``m B``
anything else             one                                         ``k M G T``
========================  ==========================================  ====================

``k`` and its kin are powers of 1000, ``Ki`` and its kin powers of 1024, as in Kubernetes
(https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/) and IEC 80000-13.
Numbers are decimal digits with an optional fraction and exponent (``1.5``, ``2e3``). Arithmetic is
on integers throughout; a float counts as the digits that ``repr`` shows, so ``0.1`` is a tenth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from ledger.errors import InvalidInput

if TYPE_CHECKING:
    from decimal import Decimal

    Number: TypeAlias = int | float | str | Decimal

Amounts: TypeAlias = Mapping[str, int]
"""Resource name → base units."""

CARD_RESOURCES: Final = frozenset({"gpu"})
"""Resources that come in cards: whole cards, or a share of one."""
MILLI_RESOURCES: Final = frozenset({"cpu", "gpu"})
"""Resources counted in thousandths."""
BYTE_RESOURCES: Final = frozenset({"memory", "vram", "disk"})
"""Resources counted in bytes."""

AMOUNT_MAX: Final = 2**63 - 1
TEXT_LENGTH_MAX: Final = 64
RESOURCES_MAX: Final = 32
NAME_LENGTH_MAX: Final = 200
RESOURCE_NAME_LENGTH_MAX: Final = 63
DURATION_NS_MAX: Final = 3650 * 86_400 * 10**9
"""Ten years of 365 days."""

_DIGITS: Final = "0123456789"
_RESOURCE_FIRST: Final = frozenset("abcdefghijklmnopqrstuvwxyz")
_RESOURCE_REST: Final = _RESOURCE_FIRST | frozenset("0123456789_.-")
# Beyond this power of ten every number of 64 digits or fewer is an overflow or a fraction,
# whatever its suffix. Without the bound "1e999999999" would cost a gigabyte.
_EXPONENT_MAX: Final = 400

# A suffix is a factor and a power of ten: "m" is (1, -3), "Ki" is (1024, 0).
_Suffixes: TypeAlias = dict[str, tuple[int, int]]
_DECIMAL: Final[_Suffixes] = {
    letter: (1, 3 * power) for power, letter in enumerate("kMGTPE", start=1)
}
_BINARY: Final[_Suffixes] = {
    f"{letter}i": (1024**power, 0) for power, letter in enumerate("KMGTPE", start=1)
}
_BYTE_SUFFIXES: Final[_Suffixes] = {
    "": (1, 0),
    "m": (1, -3),
    "B": (1, 0),
    "KB": (1, 3),
    **_DECIMAL,
    **_BINARY,
    **{f"{suffix}B": unit for suffix, unit in (*_DECIMAL.items(), *_BINARY.items())},
}
_MILLI_SUFFIXES: Final[_Suffixes] = {"": (1, 3), "m": (1, 0)}
_COUNT_SUFFIXES: Final[_Suffixes] = {"": (1, 0)} | {s: _DECIMAL[s] for s in "kMGT"}
_DURATION_SUFFIXES: Final[_Suffixes] = {
    "": (1, 9),
    "ms": (1, 6),
    "s": (1, 9),
    "m": (60, 9),
    "h": (3600, 9),
    "d": (86_400, 9),
}


class InvalidValue(InvalidInput, ValueError):
    """A value from outside that cannot be used: ``message`` says what and why, ``hint`` what to do.

    As text it is the one line of both.
    """

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}"


class InvalidAmount(InvalidValue):
    """An amount, or a set of amounts, that cannot be read."""


class InvalidName(InvalidValue):
    """A name that is empty, too long, or holds characters that names may not hold."""


class InvalidDuration(InvalidValue):
    """A duration that cannot be read, or lies outside what the ledger keeps."""


def check_resource_name(resource: object) -> str:
    """Return ``resource`` if it matches ``[a-z][a-z0-9_.-]{0,62}``; raise InvalidName otherwise."""
    if (
        not isinstance(resource, str)
        or not 1 <= len(resource) <= RESOURCE_NAME_LENGTH_MAX
        or resource[0] not in _RESOURCE_FIRST
        or not _RESOURCE_REST.issuperset(resource)
    ):
        raise InvalidName(
            f"resource name {_shown(resource)} is not valid",
            f"use 1 to {RESOURCE_NAME_LENGTH_MAX} of a-z, 0-9, '_', '.' and '-', a letter first",
        )
    return resource


def check_name(kind: str, text: object) -> str:
    """Return ``text`` if it can name a ``kind`` (pool, node, holder, task, tenant).

    A name has 1 to 200 printable characters and no space at either end. Raises InvalidName.
    """
    if not isinstance(text, str):
        why = "is not text"
    elif not text:
        why = "is empty"
    elif len(text) > NAME_LENGTH_MAX:
        why = f"has {len(text)} characters"
    elif not text.isprintable():
        why = "holds characters that do not print"
    elif text != text.strip():
        why = "begins or ends with a space"
    else:
        return text
    raise InvalidName(
        f"{kind} name {_shown(text)} {why}",
        f"use 1 to {NAME_LENGTH_MAX} printable characters without a space at either end",
    )


def parse_amount(resource: str, value: Number, *, allow_zero: bool = False) -> int:
    """Read one amount of ``resource`` as whole base units, 1 (or 0) to 2**63 - 1.

    Text takes the suffixes of the table above; a plain number is cores, cards, bytes or a count.
    A card resource takes whole cards or a share of one. Raises InvalidAmount, or InvalidName for
    the resource.
    """
    check_resource_name(resource)
    base = _parsed(value, _suffixes_of(resource), InvalidAmount, resource)
    if base is None:
        unit = _base_unit_name(resource)
        _refuse(resource, value, f"is not a whole number of {unit}", f"round it to whole {unit}")
    if base < 0:
        _refuse(resource, value, "is negative", "give an amount above zero")
    if base == 0 and not allow_zero:
        _refuse(resource, value, "is zero", "give an amount above zero, or leave it out")
    if base > AMOUNT_MAX:
        _refuse(resource, value, f"is above {AMOUNT_MAX} base units", "give a smaller amount")
    if resource in CARD_RESOURCES and base > 1000 and base % 1000:
        _refuse(resource, value, "is neither whole cards nor a share of one", "ask for 2 or 500m")
    return base


def parse_amounts(values: Mapping[str, Number], *, allow_zero: bool = False) -> dict[str, int]:
    """Read a whole set of amounts, 1 to 32 resources; the result is sorted by resource."""
    _check_resources(values)
    return {
        resource: parse_amount(resource, values[resource], allow_zero=allow_zero)
        for resource in sorted(values)
    }


def parse_range(text: str) -> tuple[str, str]:
    """Split ``"2..8"`` into its least and its most, both as text; without ``..`` they are equal."""
    least, dots, most = text.partition("..")
    return (least, most) if dots else (text, text)


def parse_demand(resource: str, value: Number) -> tuple[int, int]:
    """Read an amount or a range as (least, most) base units; a plain amount is both.

    Raises InvalidAmount where an end is invalid or the least is above the most.
    """
    if not isinstance(value, str) or ".." not in value:
        base = parse_amount(resource, value)
        return base, base
    least, most = (parse_amount(resource, end) for end in parse_range(value))
    if least > most:
        _refuse(resource, value, "is upside down", "give the least first, as in 2..8")
    return least, most


def parse_demands(values: Mapping[str, Number]) -> dict[str, tuple[int, int]]:
    """Read a set of amounts or ranges, 1 to 32 resources; the result is sorted by resource."""
    _check_resources(values)
    return {resource: parse_demand(resource, values[resource]) for resource in sorted(values)}


def split_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Split ``cpu=2 memory=4GiB`` from a command line, values unread.

    Raises InvalidAmount for a word without ``=`` and for a resource that is named twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        resource, equals, value = pair.partition("=")
        if not equals:
            raise InvalidAmount(
                f"{_shown(pair)} is not an amount", "write RESOURCE=AMOUNT, as in cpu=2"
            )
        if resource in values:
            raise InvalidAmount(f"{_shown(resource)} is given twice", "give each resource once")
        values[resource] = value
    return values


def parse_pairs(pairs: Iterable[str], *, allow_zero: bool = False) -> dict[str, int]:
    """Read ``cpu=2 memory=4GiB`` from a command line as amounts, sorted by resource."""
    return parse_amounts(split_pairs(pairs), allow_zero=allow_zero)


def format_amount(resource: str, base: int) -> str:
    """Write base units as the canonical text, which reads back as the same amount.

    ``cpu`` and ``gpu``: whole units plain, else thousandths with ``m`` (``2``, ``1500m``). Bytes:
    the largest of ``Ki`` to ``Ei`` that divides exactly, else plain digits. Counts: the largest of
    ``k M G T`` that divides exactly, else plain digits (``200k``, ``1234``). A negative number, as
    in a difference or an overdraft, gets a minus sign, and a sum over cards need not be whole
    (``gpu`` ``1500m``); as requests both are refused.
    """
    if base < 0:
        return f"-{format_amount(resource, -base)}"
    if base and resource in BYTE_RESOURCES:
        return _with_largest(base, 1024, "Ki Mi Gi Ti Pi Ei")
    if resource in MILLI_RESOURCES:
        return f"{base}m" if base % 1000 else str(base // 1000)
    return _with_largest(base, 1000, "k M G T") if base else "0"


def format_amounts(amounts: Amounts) -> dict[str, str]:
    """Write a set of amounts canonically, sorted by resource."""
    return {resource: format_amount(resource, amounts[resource]) for resource in sorted(amounts)}


def parse_duration_ns(value: Number, *, allow_zero: bool = False) -> int:
    """Read a duration as whole nanoseconds, above 0 (or from 0) up to ten years of 365 days.

    A number is seconds; text is seconds or takes one of ``ms s m h d`` (``90s``, ``1.5h``). What
    lies below a nanosecond is cut off, because durations often come out of a division. Raises
    InvalidDuration.
    """
    ns = _parsed(value, _DURATION_SUFFIXES, InvalidDuration, "duration", cut=True)
    if ns is not None and (0 if allow_zero else 1) <= ns <= DURATION_NS_MAX:
        return ns
    least = "zero or more" if allow_zero else "more than zero"
    do = f"give {least} and at most 3650d"
    _refuse("duration", value, "is out of range", do, InvalidDuration)


def format_duration_s(duration_ns: int) -> int | float:
    """Give nanoseconds as seconds: a whole number as an int, anything else as the nearest float."""
    whole_s, rest_ns = divmod(duration_ns, 10**9)
    return duration_ns / 10**9 if rest_ns else whole_s


def _parsed(
    value: Number,
    suffixes: _Suffixes,
    error: type[InvalidValue],
    what: str,
    *,
    cut: bool = False,
) -> int | None:
    """Read a number with a suffix as whole units; None where a fraction is left, unless ``cut``."""
    if type(value) is int and -(2**63) < value < 2**63:
        # What programs pass mostly; the rest reads it as text, and finds the same.
        factor, power = suffixes[""]
        if power >= 0:
            plain: int = value * factor * 10**power
            return plain
    text = _text_of(value, error, what)
    number, sign = (text[1:], -1) if text[:1] == "-" else (text, 1)
    whole, rest = _leading_digits(number)
    fraction = ""
    if rest[:1] == ".":
        fraction, rest = _leading_digits(rest[1:])
        if not fraction:
            whole = ""
    if not whole:
        _refuse(what, value, "is not a number", "write digits, as in 2 or 1.5", error)
    exponent, rest = _leading_exponent(rest)
    if rest not in suffixes:
        known = " ".join(suffix for suffix in suffixes if suffix)
        why = f"has the unknown unit {rest!r}"
        _refuse(what, value, why, f"use none, or one of {known}", error)
    factor, power = suffixes[rest]
    power += max(-_EXPONENT_MAX, min(exponent, _EXPONENT_MAX)) - len(fraction)
    units = int(whole + fraction) * factor
    scale: int = 10 ** abs(power)
    if power >= 0:
        return sign * units * scale
    quotient, remainder = divmod(units, scale)
    return sign * quotient if cut or not remainder else None


def _text_of(value: Number, error: type[InvalidValue], what: str) -> str:
    """Give any accepted value as the text of a number, at most 64 characters long."""
    if isinstance(value, bool):
        _refuse(what, value, "is true or false, not a number", "give a number", error)
    if isinstance(value, int):
        # Python refuses to print very large integers, so they are cut before they are printed;
        # 2**100 is beyond every limit here.
        return str(int(max(-(2**100), min(value, 2**100))))
    if isinstance(value, float):
        if not isfinite(value):
            _refuse(what, value, "is not a finite number", "give a finite number", error)
        return float.__repr__(value)
    if isinstance(value, str):
        if len(value) > TEXT_LENGTH_MAX:
            why = f"has {len(value)} characters"
            _refuse(what, value, why, f"use at most {TEXT_LENGTH_MAX}", error)
        return value
    from decimal import Decimal

    if not isinstance(value, Decimal):
        _refuse(what, value, "is not a number", "give a number or text as in 500m", error)
    if not value.is_finite():
        _refuse(what, value, "is not a finite number", "give a finite number", error)
    return _text_of(str(value), error, what)


def _leading_digits(text: str) -> tuple[str, str]:
    """Split off the ASCII digits that ``text`` begins with."""
    rest = text.lstrip(_DIGITS)
    return text[: len(text) - len(rest)], rest


def _leading_exponent(text: str) -> tuple[int, str]:
    """Split off an exponent like ``e-3``; 0 where an E is a suffix instead, as in 2E or 2Ei."""
    if text[:1] not in ("e", "E"):
        return 0, text
    signed = text[1:2] in ("-", "+")
    digits, rest = _leading_digits(text[2:] if signed else text[1:])
    if not digits:
        return 0, text
    return (-int(digits) if text[1] == "-" else int(digits)), rest


def _suffixes_of(resource: str) -> _Suffixes:
    if resource in MILLI_RESOURCES:
        return _MILLI_SUFFIXES
    return _BYTE_SUFFIXES if resource in BYTE_RESOURCES else _COUNT_SUFFIXES


def _base_unit_name(resource: str) -> str:
    if resource in MILLI_RESOURCES:
        return "thousandths"
    return "bytes" if resource in BYTE_RESOURCES else "units"


def _with_largest(base: int, step: int, suffixes: str) -> str:
    """Write ``base`` with the largest suffix that divides it exactly; ``base`` is above zero."""
    chosen = ""
    for suffix in suffixes.split():
        if base % step:
            break
        base, chosen = base // step, suffix
    return f"{base}{chosen}"


def _check_resources(values: object) -> None:
    if not isinstance(values, Mapping):
        do = "give resource and amount, as in {'cpu': 2}"
        raise InvalidAmount(f"{_shown(values)} is not a set of amounts", do)
    if not 1 <= len(values) <= RESOURCES_MAX:
        do = f"name at least 1 and at most {RESOURCES_MAX}"
        raise InvalidAmount(f"{len(values)} resources are named", do)
    for resource in values:
        check_resource_name(resource)


def _refuse(
    what: str, value: object, why: str, do: str, error: type[InvalidValue] = InvalidAmount
) -> NoReturn:
    raise error(f"{what}={_shown(value)} {why}", do)


def _shown(value: object) -> str:
    """Show any value on one short line, however large or odd it is."""
    if isinstance(value, int) and abs(value) > 10**40:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:37]!r}…"
    if isinstance(value, (int, float)) or type(value).__name__ == "Decimal":
        return str(value)
    return f"a {type(value).__name__}"
