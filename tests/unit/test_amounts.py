"""Amounts, names and durations: what is read, what is written, what is refused."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import amounts as a
from ledger.errors import LeasebookError

# An independent model: the tables are written out anew, the arithmetic is on fractions.
COUNT_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
DECIMAL_UNITS = {"k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY_UNITS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
BYTE_UNITS = {"": Fraction(1), "B": Fraction(1), "m": Fraction(1, 1000), "KB": Fraction(1000)}
for end in ("", "B"):
    BYTE_UNITS |= {unit + end: Fraction(10**power) for unit, power in DECIMAL_UNITS.items()}
    BYTE_UNITS |= {unit + end: Fraction(2**power) for unit, power in BINARY_UNITS.items()}
UNITS: dict[str, dict[str, Fraction]] = {
    "cpu": {"": Fraction(1000), "m": Fraction(1)},
    "memory": BYTE_UNITS,
    "tokens": {suffix: Fraction(unit) for suffix, unit in COUNT_UNITS.items()},
}
RESOURCES = st.sampled_from(["cpu", "gpu", "memory", "vram", "disk", "tokens", "port", "usd.cents"])


def short(value: Any) -> str:
    """A test's name for values that may be huge or unprintable."""
    return ascii(value)[:40] if isinstance(value, str) else type(value).__name__


def whole_base(exact: Fraction) -> int | None:
    """What the model reads: whole base units within the limits, else nothing."""
    if exact.denominator == 1 and 1 <= exact <= 2**63 - 1:
        return int(exact)
    return None


def read_or_none(resource: str, value: Any) -> int | None:
    try:
        return a.parse_amount(resource, value)
    except a.InvalidAmount as error:
        assert_one_line(error)
        return None


def assert_one_line(error: ValueError) -> None:
    text = str(error)
    assert "\n" not in text
    assert text.isprintable()
    assert 10 < len(text) < 400


@pytest.mark.parametrize(
    ("resource", "base", "values"),
    [
        ("cpu", 2000, [2, "2", 2.0, "2.0", "2000m", "2e0", Decimal(2)]),
        ("cpu", 1500, [1.5, "1.5", "1500m", "01.50", "15e-1", "0.15e1", Decimal("1.5")]),
        ("cpu", 100, [0.1, "0.1", "100m"]),
        ("cpu", 1, ["1m", 0.001, Decimal("0.001")]),
        ("gpu", 2000, [2, "2", "2000m"]),
        ("gpu", 500, ["500m", 0.5, "0.5"]),
        ("memory", 4 * 2**30, ["4GiB", "4Gi", "4096Mi", "4096MiB", "0.00390625Ti", 4294967296]),
        ("memory", 3 * 2**29, ["1.5Gi", "1.5GiB", "1536Mi"]),
        ("memory", 2 * 10**9, ["2G", "2GB", "2e9", "2E9", "2e+9", 2e9, 2 * 10**9, "2000000000B"]),
        ("memory", 1000, ["1k", "1kB", "1KB", "1000", "1000000m", "1e3", "10e-1k"]),
        ("memory", 2 * 10**18, ["2E", "2EB", "2000P"]),
        ("vram", 2 * 2**60, ["2Ei", "2EiB", "2048Pi"]),
        ("disk", 7, ["7B", "7", 7, "7000m"]),
        ("tokens", 200_000, ["200k", "0.2M", 200_000]),
        ("tokens", 2 * 10**12, ["2T", "2000G", "2e12"]),
        ("port", 7, ["7", "007", 7.0]),
        ("port", 2**63 - 1, [2**63 - 1, "9223372036854775807"]),
        ("port", 1000, [Decimal("1E+3"), "1k"]),
    ],
)
def test_an_amount_is_read_as_exact_base_units(resource: str, base: int, values: list[Any]) -> None:
    for value in values:
        result = a.parse_amount(resource, value)
        assert result == base
        assert type(result) is int


@pytest.mark.parametrize(
    ("resource", "why", "values"),
    [
        ("cpu", "negative", [-1, "-1", -0.5, "-500m", Decimal(-2)]),
        ("port", "negative", [-(10**5000), "-1e999999999"]),
        ("cpu", "zero", [0, "0m", 0.0, -0.0, "0", "0e999", "-0"]),
        ("cpu", "whole number of thousandths", ["0.5m", "1e-9", 1 / 3, 0.1 + 0.2]),
        ("memory", "whole number of bytes", ["0.5", 0.5, "1500m", "0.3Ki", "1e-99999k"]),
        ("tokens", "whole number of units", [0.5, 1e-320, Decimal("1e-99999"), "1.0001k"]),
        ("port", "above", [2**63, 10**5000, "9223372036854775808", "1e999999999999999"]),
        ("port", "above", [Decimal("1e99999"), 1e300, "1e400T"]),
        ("cpu", "above", [2**63 // 1000 + 1, "1e17"]),
        ("memory", "above", ["8Ei", "8EiB", "10E"]),
        ("cpu", "finite", [float("nan"), float("inf"), float("-inf")]),
        ("cpu", "finite", [Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity")]),
        ("cpu", "not a number", ["nan", "inf", "", " ", " 2", "+2", "--2", ".5", "5.", "m"]),
        ("cpu", "not a number", ["auto", "2..8", "٣", "２", "\ud800", None, [1], b"2", {}]),
        ("cpu", "true or false", [True, False]),
        ("cpu", "unknown unit", ["2 ", "2\n", "1_000", "1,5", "0x10", "2k", "2e", "2e-+3", "1²"]),
        ("memory", "unknown unit", ["4gib", "4 GiB", "4K", "4Gib", "4g", "4BB", "4\x00"]),
        ("tokens", "unknown unit", ["5m", "5Ki", "5P", "5K"]),
        ("cpu", "characters", ["1" * 65, "1" + "0" * 10**6, Decimal("1." + "1" * 70)]),
        ("gpu", "whole cards", [1.5, "1001m", "2500m"]),
    ],
    ids=short,
)
def test_an_amount_that_cannot_be_kept_is_refused_in_one_line(
    resource: str, why: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(a.InvalidAmount) as caught:
            a.parse_amount(resource, value)
        assert_one_line(caught.value)
        assert why in str(caught.value)
        assert str(caught.value).startswith(f"{resource}=")
        assert caught.value.hint
        assert isinstance(caught.value, LeasebookError)


def test_zero_is_read_where_the_caller_allows_it() -> None:
    assert a.parse_amount("cpu", "0", allow_zero=True) == 0
    assert a.parse_amount("gpu", 0, allow_zero=True) == 0
    assert a.parse_amounts({"tokens": 0}, allow_zero=True) == {"tokens": 0}
    with pytest.raises(a.InvalidAmount):
        a.parse_amount("cpu", -1, allow_zero=True)


@given(
    st.sampled_from(sorted(UNITS)),
    st.from_regex(r"[0-9]{1,18}(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.data(),
)
def test_every_number_reads_as_the_exact_fraction_says(
    resource: str, number: str, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(sorted(UNITS[resource])))
    exact = Fraction(number) * UNITS[resource][suffix]
    assert read_or_none(resource, number + suffix) == whole_base(exact)


@given(st.sampled_from(sorted(UNITS)), st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_counts_as_the_digits_it_shows(resource: str, value: float) -> None:
    exact = Fraction(repr(value)) * UNITS[resource][""]
    assert read_or_none(resource, value) == whole_base(exact)


@given(st.sampled_from(sorted(UNITS)), st.integers(-(2**70), 2**70))
def test_an_integer_is_scaled_without_loss(resource: str, value: int) -> None:
    assert read_or_none(resource, value) == whole_base(value * UNITS[resource][""])


@given(st.sampled_from(sorted(UNITS)), st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_a_decimal_is_scaled_without_loss(resource: str, value: Decimal) -> None:
    exact = Fraction(value) * UNITS[resource][""]
    assert read_or_none(resource, value) == whole_base(exact)


@given(RESOURCES, st.text(max_size=80))
def test_any_text_is_read_or_refused_but_never_anything_else(resource: str, text: str) -> None:
    base = read_or_none(resource, text)
    assert base is None or 1 <= base <= a.AMOUNT_MAX


@given(RESOURCES, st.integers(0, 2**63 - 1), st.integers(0, 4), st.integers(0, 6))
def test_what_is_written_reads_back_as_the_same_amount(
    resource: str, base: int, thousands: int, kibis: int
) -> None:
    base = min(base * 1000**thousands * 1024**kibis, 2**63 - 1)
    if resource in a.CARD_RESOURCES and base > 1000:
        base -= base % 1000
    text = a.format_amount(resource, base)
    assert a.parse_amount(resource, text, allow_zero=True) == base
    assert a.format_amount(resource, a.parse_amount(resource, text, allow_zero=True)) == text


@pytest.mark.parametrize(
    ("resource", "written"),
    [
        ("cpu", {2000: "2", 1500: "1500m", 1: "1m", 0: "0", -1500: "-1500m"}),
        ("gpu", {500: "500m", 1000: "1", 1500: "1500m"}),
        ("memory", {4 * 2**30: "4Gi", 1536 * 2**20: "1536Mi", 2**60: "1Ei", 2_000_000: "2000000"}),
        ("memory", {2**63 - 1: "9223372036854775807", -1024: "-1Ki", 1: "1", 0: "0"}),
        ("tokens", {200_000: "200k", 1_234: "1234", 5_000_000: "5M", 10**12: "1T"}),
        ("tokens", {10**15: "1000T", -2000: "-2k", 0: "0"}),
    ],
)
def test_an_amount_is_written_in_its_canonical_form(resource: str, written: dict[int, str]) -> None:
    assert {base: a.format_amount(resource, base) for base in written} == written


def test_a_set_of_amounts_is_read_and_written_in_the_order_of_its_names() -> None:
    base = a.parse_amounts({"tokens": "200k", "memory": "4GiB", "cpu": 2, "gpu": "500m"})
    assert list(base.items()) == [
        ("cpu", 2000),
        ("gpu", 500),
        ("memory", 4 * 2**30),
        ("tokens", 200_000),
    ]
    written = {"cpu": "2", "gpu": "500m", "memory": "4Gi", "tokens": "200k"}
    assert a.format_amounts(base) == written
    assert list(a.format_amounts({"b": 1, "a": 1})) == ["a", "b"]


def test_a_set_of_amounts_has_one_to_thirty_two_resources() -> None:
    most = {f"r{number}": 1 for number in range(32)}
    assert len(a.parse_amounts(most)) == 32
    wrong: list[Any] = [{}, most | {"one.more": 1}, [("cpu", 1)], "cpu=1", None]
    for values in wrong:
        for parse in (a.parse_amounts, a.parse_demands):
            with pytest.raises(a.InvalidAmount) as caught:
                parse(values)
            assert_one_line(caught.value)


def test_amounts_from_a_command_line_name_each_resource_once() -> None:
    assert a.parse_pairs(["memory=4GiB", "cpu=2"]) == {"cpu": 2000, "memory": 4 * 2**30}
    assert a.split_pairs(["cpu=2..8", "x=a=b"]) == {"cpu": "2..8", "x": "a=b"}
    assert a.parse_pairs(["tokens=0"], allow_zero=True) == {"tokens": 0}
    for pairs in (["cpu=1", "cpu=1"], ["cpu"], [""], [], ["cpu="]):
        with pytest.raises(a.InvalidAmount) as caught:
            a.parse_pairs(pairs)
        assert_one_line(caught.value)
    with pytest.raises(a.InvalidName):
        a.parse_pairs(["=2"])


def test_a_range_is_read_as_its_least_and_its_most() -> None:
    assert a.parse_range("2..8") == ("2", "8")
    assert a.parse_range("2") == ("2", "2")
    assert a.parse_demand("cpu", "2..8") == (2000, 8000)
    assert a.parse_demand("cpu", "500m..1.5") == (500, 1500)
    assert a.parse_demand("memory", "1Gi..1Gi") == (2**30, 2**30)
    assert a.parse_demand("cpu", 2) == (2000, 2000)
    assert a.parse_demand("cpu", "2") == (2000, 2000)
    assert a.parse_demands({"tokens": 5, "cpu": "1..2"}) == {"cpu": (1000, 2000), "tokens": (5, 5)}


@pytest.mark.parametrize(
    "text", ["8..2", "2..", "..8", "..", "0..2", "2...8", "1..2..3", "-1..2", "a..b"]
)
def test_a_range_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(a.InvalidAmount) as caught:
        a.parse_demand("cpu", text)
    assert_one_line(caught.value)


@given(RESOURCES, st.integers(1, 1000), st.integers(1, 1000))
def test_a_range_holds_exactly_where_its_least_is_not_above_its_most(
    resource: str, one: int, other: int
) -> None:
    text = f"{a.format_amount(resource, one)}..{a.format_amount(resource, other)}"
    if one <= other:
        assert a.parse_demand(resource, text) == (one, other)
    else:
        with pytest.raises(a.InvalidAmount, match="upside down"):
            a.parse_demand(resource, text)


@pytest.mark.parametrize("name", ["cpu", "a", "usd.cents", "gpu-hours_2", "a" * 63])
def test_a_resource_name_of_small_letters_digits_and_marks_is_taken(name: str) -> None:
    assert a.check_resource_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "CPU", "2cpu", "_a", ".a", "a b", "a=b", "a" * 64, "a\n", "é", "aé", "a" * 10**6, None, 5],
    ids=short,
)
def test_any_other_resource_name_is_refused(name: Any) -> None:
    with pytest.raises(a.InvalidName) as caught:
        a.check_resource_name(name)
    assert_one_line(caught.value)
    with pytest.raises(a.InvalidName):
        a.parse_amount(name, 1)
    with pytest.raises(a.InvalidName):
        a.parse_amounts({name: 1})


@pytest.mark.parametrize("name", ["a", "session/agent 7", "büro", "x" * 200, "ключ", "🚀", "a\\b"])
def test_a_name_of_printable_characters_is_taken(name: str) -> None:
    assert a.check_name("pool", name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("x" * 201, "201 characters"),
        ("x" * 10**6, "characters"),
        ("a\nb", "print"),
        ("a\x00", "print"),
        ("a\x7f", "print"),
        ("a\x1b[31m", "print"),
        ("a\u202eb", "print"),
        ("a\u2028b", "print"),
        ("\ud800", "print"),
        (" a", "space"),
        ("a ", "space"),
        (" ", "space"),
        (None, "text"),
        (7, "text"),
        (b"a", "text"),
    ],
    ids=short,
)
def test_any_other_name_is_refused_in_one_line(name: Any, why: str) -> None:
    with pytest.raises(a.InvalidName) as caught:
        a.check_name("holder", name)
    assert_one_line(caught.value)
    assert why in caught.value.message
    assert str(caught.value).startswith("holder name ")


@pytest.mark.parametrize(
    ("ns", "values"),
    [
        (10**9, [1, "1", 1.0, "1s", "1000ms"]),
        (5 * 10**8, [0.5, "0.5", "500ms", Decimal("0.5")]),
        (10**8, [0.1, "100ms", "0.1s"]),
        (90 * 10**9, [90, "90", "90s", "1.5m"]),
        (7200 * 10**9, ["2h", "120m", "7.2e3"]),
        (604_800 * 10**9, ["7d", "168h"]),
        (a.DURATION_NS_MAX, ["3650d", 315_360_000]),
        (1, [1e-9, 1.9e-9]),
        (333_333_333, [1 / 3]),
    ],
)
def test_a_duration_is_read_as_whole_nanoseconds(ns: int, values: list[Any]) -> None:
    assert [a.parse_duration_ns(value) for value in values] == [ns] * len(values)


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, "-5m", "0s", 1e-10, "3651d", 10**20, 10**4000, float("nan"), float("inf")),
        *(True, None, "", "m", "5 m", "5M", "1h30m", "5w", "1" * 65, "٣s", "1e999999999s", [5]),
    ],
    ids=short,
)
def test_a_duration_that_cannot_be_kept_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(a.InvalidDuration) as caught:
        a.parse_duration_ns(value)
    assert_one_line(caught.value)
    assert str(caught.value).startswith("duration=")


def test_a_wait_of_nothing_is_read_where_the_caller_allows_it() -> None:
    assert a.parse_duration_ns(0, allow_zero=True) == 0
    assert a.parse_duration_ns("0s", allow_zero=True) == 0
    with pytest.raises(a.InvalidDuration):
        a.parse_duration_ns(-1, allow_zero=True)


@given(st.floats(1e-9, 3.1e8))
def test_a_duration_keeps_every_nanosecond_of_the_digits_shown(seconds: float) -> None:
    assert a.parse_duration_ns(seconds) == Fraction(repr(seconds)) * 10**9 // 1


@given(st.integers(1, 10**15))
def test_a_duration_in_seconds_reads_back_as_the_same_nanoseconds(ns: int) -> None:
    seconds = a.format_duration_s(ns)
    assert a.parse_duration_ns(seconds) == ns
    assert isinstance(seconds, int) == (ns % 10**9 == 0)


def test_durations_are_written_as_whole_seconds_where_they_are_whole() -> None:
    written = [a.format_duration_s(ns) for ns in (120 * 10**9, 5 * 10**8, 0, -15 * 10**8)]
    assert written == [120, 0.5, 0, -1.5]
    assert [type(seconds) for seconds in written] == [int, float, int, float]


def test_reading_plain_amounts_imports_no_decimal_arithmetic() -> None:
    # What the interpreter loads before the program starts, such as a coverage hook, is its own.
    program = (
        "import sys; before = set(sys.modules)\n"
        "from ledger.amounts import parse_amount\n"
        "parse_amount('cpu', '1.5'), parse_amount('memory', 1e9)\n"
        "sys.exit(bool({'decimal', 'fractions', 'numbers'} & (set(sys.modules) - before)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
