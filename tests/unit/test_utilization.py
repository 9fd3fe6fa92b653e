"""Utilization: given lives and capacity, then exact sums per bucket and group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidInput
from ledger.sqlite_driver import sqlite3
from reports.buckets import Buckets, seconds
from reports.lives import UNPLACED
from reports.utilization import KEYS, Utilization, utilization

S = 1_000_000_000
HOUR = 3_600 * S
DAY = 24 * HOUR
NOW = 30 * DAY

TABLES = """
CREATE TABLE allocations (
    id TEXT PRIMARY KEY, pool TEXT, kind TEXT, tenant TEXT, holder TEXT, task TEXT, priority TEXT,
    strategy TEXT, state TEXT, parent TEXT, requested_at INTEGER, granted_at INTEGER,
    expires_at INTEGER, ended_at INTEGER, amounts TEXT) STRICT;
CREATE TABLE spans (
    allocation TEXT, seq INTEGER, pool TEXT, node TEXT, resource TEXT, amount INTEGER,
    since_at INTEGER, until_at INTEGER, tenant TEXT, holder TEXT, task TEXT,
    PRIMARY KEY (allocation, seq, node, resource)) STRICT;
CREATE TABLE nested_spans (
    allocation TEXT, seq INTEGER, pool TEXT, node TEXT, resource TEXT, amount INTEGER,
    since_at INTEGER, until_at INTEGER, tenant TEXT, holder TEXT, task TEXT) STRICT;
CREATE TABLE capacity (
    pool TEXT, node TEXT, resource TEXT, amount INTEGER, since_at INTEGER, until_at INTEGER) STRICT;
CREATE TABLE pool_kinds (pool TEXT PRIMARY KEY, kind TEXT) STRICT;
"""


class Views:
    """The tables of a views file, written by hand."""

    def __init__(self) -> None:
        self.db: Any = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(TABLES)
        self.count = 0

    def insert(self, table: str, **values: Any) -> None:
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self.db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))

    def pool(self, name: str = "p", kind: str = "managed") -> None:
        self.insert("pool_kinds", pool=name, kind=kind)

    def capacity(self, amount: int, since: int = 0, until: int | None = None, **names: str) -> None:
        place = {"pool": "p", "node": "n", "resource": "cpu", **names}
        self.insert("capacity", **place, amount=amount, since_at=since, until_at=until)

    def held(
        self,
        since: int | None,
        until: int | None,
        *spans: tuple[Any, ...],
        kind: str = "managed",
        **columns: Any,
    ) -> str:
        """An allocation, and its spans as (seq, node, resource, amount, since, until)."""
        self.count += 1
        name = f"A{self.count}"
        pool = columns.pop("pool", "p")
        row = {"tenant": "t", "holder": "h", "state": "active" if until is None else "ended"}
        row |= {"granted_at": since, "requested_at": since, "ended_at": until, **columns}
        self.insert("allocations", id=name, pool=pool, kind=kind, **row)
        for seq, node, resource, amount, begin, end, *who in spans:
            place = {"pool": pool, "node": node, "resource": resource}
            times = {"since_at": begin, "until_at": end}
            names = {"holder": who[0] if who else row["holder"], "task": row.get("task")}
            table = "nested_spans" if row.get("parent") else "spans"
            self.insert(table, allocation=name, seq=seq, **place, amount=amount, **times, **names)
        return name

    def cpu(self, since: int, until: int | None, amount: int = 1000, **columns: Any) -> str:
        """An allocation of so much of the processor of one node."""
        node = columns.pop("node", "n")
        return self.held(since, until, (0, node, "cpu", amount, since, until), **columns)

    def report(self, *by: str, **options: Any) -> Utilization:
        return utilization(self.db, by, **{"now": NOW, **options})

    def rows(self, *by: str, **options: Any) -> list[dict[str, Any]]:
        return self.report(*by, **options).rows

    def one(self, *by: str, **options: Any) -> dict[str, Any]:
        (row,) = self.rows(*by, **options)
        return row


@pytest.fixture
def views() -> Iterator[Views]:
    made = Views()
    with closing(made.db):
        yield made


# --- buckets -------------------------------------------------------------------------------------


@given(
    st.sampled_from(["day", "hour", None]),
    st.integers(-(10**18), 10**18),
    st.integers(0, 10 * DAY),
)
def test_the_pieces_of_an_interval_are_whole_and_lie_each_in_one_bucket(
    unit: str | None, since: int, length: int
) -> None:
    buckets = Buckets(unit)
    pieces = list(buckets.pieces(since, since + length))
    assert sum(until - start for _, start, until in pieces) == length
    assert all(start < until for _, start, until in pieces)
    for index, start, until in pieces:
        assert buckets.index(start) == buckets.index(until - 1) == index
    assert [piece[1] for piece in pieces[1:]] == [piece[2] for piece in pieces[:-1]]


def test_a_bucket_is_named_by_its_first_instant_in_utc() -> None:
    assert Buckets("day").text(17_157) == "2016-12-22"
    assert Buckets("hour").text(17_157 * 24 + 7) == "2016-12-22T07:00:00Z"
    assert Buckets(None).text(0) is None


def test_seconds_are_whole_numbers_where_they_can_be() -> None:
    assert [seconds(3 * S), seconds(S // 2)] == [3, 0.5]
    assert isinstance(seconds(3 * S), int)


# --- sums ----------------------------------------------------------------------------------------


def test_what_lasts_over_midnight_is_divided_exactly(views: Views) -> None:
    views.cpu(23 * HOUR, 26 * HOUR, 1500, requested_at=22 * HOUR)
    first, second = views.rows("day", "pool")
    assert first == {
        "bucket": "1970-01-01",
        "pool": "p",
        "capacity_seconds": None,
        "granted_seconds": {"cpu": 1500 * 3600},
        "held_s": 3600,
        "nodes_seconds": 3600,
        "allocations_started": 1,
        "allocations_ended": 0,
        "allocations_running": 1,
        "wait_s": 3600,
        "over_capacity": None,
    }
    assert second["granted_seconds"] == {"cpu": 1500 * 7200}
    assert (second["allocations_started"], second["allocations_ended"]) == (0, 1)
    assert (second["held_s"], second["wait_s"]) == (7200, 0)


def test_sums_do_not_drift_where_floats_would(views: Views) -> None:
    for _ in range(1000):
        views.cpu(DAY + 1, DAY + 1 + S // 10 + 7, 3)
    row = views.one("day")
    assert row["held_s"] == 1000 * (S // 10 + 7) / S
    assert row["granted_seconds"] == {"cpu": 1000 * 3 * (S // 10 + 7) // S}


def test_one_of_no_length_counts_as_started_ended_and_running(views: Views) -> None:
    views.cpu(DAY, DAY, requested_at=DAY - HOUR)
    row = views.one("day")
    assert row["bucket"] == "1970-01-02"
    counts = ("allocations_started", "allocations_ended", "allocations_running")
    assert [row[name] for name in counts] == [1, 1, 1]
    assert (row["held_s"], row["granted_seconds"], row["wait_s"]) == (0, {}, 3600)


def test_what_never_began_counts_nowhere(views: Views) -> None:
    views.held(None, DAY, requested_at=HOUR)
    assert views.rows("day") == []
    assert views.report("day").headline() == "nothing was held in this time"


def test_nodes_count_once_each_and_time_once_altogether(views: Views) -> None:
    spans = [(0, node, "cpu", 4000, HOUR, 2 * HOUR) for node in ("n1", "n2", "n3")]
    views.held(HOUR, 2 * HOUR, *spans, (0, "n1", "gpu", 2000, HOUR, 2 * HOUR))
    row = views.one("day")
    assert (row["held_s"], row["nodes_seconds"]) == (3600, 3 * 3600)
    assert row["granted_seconds"] == {"cpu": 12_000 * 3600, "gpu": 2000 * 3600}


def test_a_move_changes_the_node_and_neither_starts_nor_ends_anything(views: Views) -> None:
    views.held(
        HOUR,
        4 * HOUR,
        (0, "n1", "cpu", 1000, HOUR, 2 * HOUR),
        (1, "n2", "cpu", 1000, 2 * HOUR, 4 * HOUR),
    )
    row = views.one("day")
    assert (row["allocations_started"], row["allocations_ended"], row["held_s"]) == (1, 1, 10_800)
    one, two = views.rows("node")
    assert (one["node"], one["held_s"], two["node"], two["held_s"]) == ("n1", 3600, "n2", 7200)
    assert (one["allocations_started"], one["allocations_ended"]) == (1, 0)
    assert (two["allocations_started"], two["allocations_ended"]) == (0, 1)
    assert one["allocations_running"] == two["allocations_running"] == 1


def test_what_changes_hands_is_counted_for_whoever_held_it_then(views: Views) -> None:
    views.held(
        HOUR,
        4 * HOUR,
        (0, "n", "cpu", 1000, HOUR, 2 * HOUR, "h1"),
        (1, "n", "cpu", 1000, 2 * HOUR, 4 * HOUR, "h2"),
        holder="h2",
    )
    one, two = views.rows("holder")
    assert (one["holder"], one["held_s"], two["holder"], two["held_s"]) == ("h1", 3600, "h2", 7200)
    assert (one["allocations_started"], one["allocations_ended"]) == (1, 0)
    assert (two["allocations_started"], two["allocations_ended"]) == (0, 1)


def test_what_draws_on_another_is_not_counted_beside_it(views: Views) -> None:
    parent = views.cpu(HOUR, 3 * HOUR, 4000)
    views.cpu(HOUR, 2 * HOUR, 3000, parent=parent, holder="child", task="part")
    row = views.one("day")
    assert row["granted_seconds"] == {"cpu": 4000 * 7200}
    assert row["allocations_started"] == 1
    assert [row["holder"] for row in views.rows("holder")] == ["h"]


def test_groups_stand_beside_each_other_and_what_has_none_comes_last(views: Views) -> None:
    views.cpu(HOUR, 2 * HOUR - 1, task="b", tenant="t2")
    views.cpu(HOUR, 2 * HOUR - 1, task=None)
    views.cpu(HOUR, 2 * HOUR - 1, task="a", tenant="t1")
    rows = views.rows("hour", "task", "tenant")
    assert [(row["task"], row["tenant"]) for row in rows] == [("a", "t1"), ("b", "t2"), (None, "t")]
    assert list(rows[0])[:3] == ["bucket", "task", "tenant"]


@pytest.mark.parametrize("key", KEYS)
def test_a_report_goes_by_each_of_its_keys(views: Views, key: str) -> None:
    views.cpu(HOUR, HOUR + S, task="t", strategy="best_fit", priority="normal")
    row = views.one(key)
    assert row["bucket" if key in ("day", "hour") else key] is not None
    assert row["held_s"] == 1


# --- ends that nobody wrote down -----------------------------------------------------------------


def test_a_managed_lease_that_is_over_has_ended_though_unwritten(views: Views) -> None:
    views.cpu(HOUR, None, expires_at=2 * HOUR)
    row = views.one("day")
    assert (row["held_s"], row["allocations_ended"]) == (3600, 1)
    assert views.report("day").open == 0


def test_a_managed_lease_is_over_at_its_very_end(views: Views) -> None:
    views.cpu(HOUR, None, expires_at=2 * HOUR)
    assert views.one("day", now=2 * HOUR)["allocations_ended"] == 1
    assert views.one("day", now=2 * HOUR - 1)["allocations_ended"] == 0


def test_a_managed_lease_that_is_not_over_holds_until_now(views: Views) -> None:
    views.cpu(HOUR, None, expires_at=NOW + HOUR)
    views.cpu(HOUR, None)
    rows = views.rows("day", now=2 * HOUR)
    assert [(row["held_s"], row["allocations_ended"]) for row in rows] == [(7200, 0)]


def test_what_is_asked_to_go_holds_on_beyond_its_lease(views: Views) -> None:
    views.cpu(HOUR, None, expires_at=2 * HOUR, state="ending")
    row = views.one("day", now=3 * HOUR)
    assert (row["held_s"], row["allocations_ended"]) == (7200, 0)


def test_an_observed_one_without_an_end_holds_until_last_seen_and_stays_open(views: Views) -> None:
    views.cpu(HOUR, None, kind="observed", expires_at=3 * HOUR)
    views.cpu(HOUR, None, kind="observed")
    report = views.report("day", now=5 * HOUR)
    (row,) = report.rows
    assert (row["held_s"], row["allocations_ended"]) == (2 * 3600 + 4 * 3600, 0)
    assert report.open == 2
    assert "2 without a known end" in report.headline()


def test_a_reservation_takes_capacity_from_its_first_span_on(views: Views) -> None:
    span = (0, "n", "cpu", 1000, HOUR, None)
    views.held(None, None, span, state="reserved", expires_at=2 * HOUR, requested_at=HOUR)
    row = views.one("day")
    assert (row["held_s"], row["allocations_started"], row["allocations_ended"]) == (3600, 1, 1)


def test_a_reservation_counts_in_a_window_that_ends_before_it_is_confirmed(views: Views) -> None:
    span = (0, "n", "cpu", 1000, HOUR, None)
    views.held(3 * HOUR, None, span, expires_at=9 * HOUR, requested_at=HOUR)
    (row,) = views.rows("day", until=2 * HOUR)
    assert (row["held_s"], row["allocations_started"]) == (3600, 1)
    assert views.rows("day", until=HOUR) == []


def test_spans_without_a_node_go_against_all_of_the_pool(views: Views) -> None:
    views.capacity(2000)
    views.cpu(HOUR, 2 * HOUR, 3000, node="", kind="observed")
    (row,) = views.rows("hour", "pool", since=HOUR, until=2 * HOUR)
    assert row["capacity_seconds"] == {"cpu": 2000 * 3600}
    assert row["over_capacity"]["cpu"]["node"] == UNPLACED
    assert row["over_capacity"]["cpu"]["most"] == 1000
    assert {r["node"] for r in views.rows("node")} == {"n", UNPLACED}


def test_what_no_record_places_on_a_node_is_held_somewhere_in_the_pool(views: Views) -> None:
    views.held(HOUR, HOUR + S, kind="observed", amounts='{"cpu": 3000}')
    row = views.one("day", "node")
    assert (row["node"], row["granted_seconds"], row["held_s"]) == (UNPLACED, {"cpu": 3000}, 1)


# --- windows -------------------------------------------------------------------------------------


def test_a_window_cuts_what_reaches_out_of_it(views: Views) -> None:
    views.cpu(HOUR, 10 * HOUR, requested_at=0)
    views.cpu(11 * HOUR, 12 * HOUR)
    row = views.one("day", since=2 * HOUR, until=4 * HOUR)
    assert (row["held_s"], row["wait_s"]) == (7200, 0)
    counts = ("allocations_started", "allocations_ended", "allocations_running")
    assert [row[name] for name in counts] == [0, 0, 1]


def test_a_window_that_ends_with_a_bucket_does_not_touch_the_next(views: Views) -> None:
    views.cpu(23 * HOUR, 25 * HOUR)
    (row,) = views.rows("day", until=DAY)
    assert (row["bucket"], row["held_s"], row["allocations_running"]) == ("1970-01-01", 3600, 1)


def test_windows_that_meet_add_up(views: Views) -> None:
    for hour in range(1, 20):
        views.cpu(hour * HOUR, (hour + 3) * HOUR, 1000 + hour, requested_at=(hour - 1) * HOUR)
    whole = views.one("pool", until=24 * HOUR)
    parts = [views.one("pool", until=9 * HOUR + 7), views.one("pool", since=9 * HOUR + 7)]
    for name in ("held_s", "wait_s", "allocations_started", "allocations_ended"):
        assert sum(part[name] for part in parts) == pytest.approx(whole[name], abs=0)
    granted = sum(part["granted_seconds"]["cpu"] for part in parts)
    assert whole["granted_seconds"]["cpu"] - granted in (0, 1)


def test_a_window_that_ends_before_it_begins_and_strange_keys_are_errors(views: Views) -> None:
    with pytest.raises(InvalidInput, match="ends before it begins"):
        views.rows("day", since=5, until=5)
    with pytest.raises(InvalidInput, match="does not go by 'colour'"):
        views.rows("colour")
    with pytest.raises(InvalidInput, match="not by both"):
        views.rows("day", "hour")


def test_too_many_rows_are_refused(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.utilization.ROWS_MAX", 24)
    views.cpu(0, 25 * HOUR)
    with pytest.raises(InvalidInput, match="more than 24 rows"):
        views.rows("hour")
    assert len(views.rows("day")) == 2


# --- capacity ------------------------------------------------------------------------------------


def test_a_managed_pool_is_shown_in_its_idle_days_too(views: Views) -> None:
    views.pool()
    views.capacity(8000, since=HOUR)
    views.cpu(25 * HOUR, 26 * HOUR)
    rows = views.rows("day", "pool", now=3 * DAY)
    assert [row["capacity_seconds"] for row in rows] == [
        {"cpu": 8000 * 23 * 3600},
        {"cpu": 8000 * 24 * 3600},
        {"cpu": 8000 * 24 * 3600},
    ]
    assert [row["held_s"] for row in rows] == [0, 3600, 0]
    assert views.report("pool", now=3 * DAY).headline().startswith("held of capacity: cpu 0.2%")


def test_an_observed_pool_is_shown_only_as_long_as_something_is_known(views: Views) -> None:
    views.pool(kind="observed")
    views.capacity(8000)
    views.cpu(49 * HOUR, 50 * HOUR, kind="observed")
    rows = views.rows("day", "pool")
    assert [(row["bucket"], row["capacity_seconds"]) for row in rows] == [
        ("1970-01-03", {"cpu": 8000 * 86_400})
    ]
    assert views.one("pool")["capacity_seconds"] == {"cpu": 8000 * 3600}


def test_capacity_of_a_node_that_is_not_known_is_unknown_and_not_zero(views: Views) -> None:
    views.pool()
    views.capacity(8000, node="known")
    views.cpu(HOUR, 2 * HOUR, node="strange")
    first, second = views.rows("day", now=2 * DAY)
    assert first["capacity_seconds"] is None
    assert second["capacity_seconds"] == {"cpu": 8000 * 86_400}
    known, strange = views.rows("node", now=DAY)
    assert (known["node"], known["capacity_seconds"]) == ("known", {"cpu": 8000 * 86_400})
    assert (strange["node"], strange["capacity_seconds"]) == ("strange", None)


def test_what_was_held_before_capacity_was_known_makes_it_unknown(views: Views) -> None:
    views.pool()
    views.capacity(8000, since=2 * HOUR)
    views.cpu(HOUR, 3 * HOUR)
    assert views.rows("day", now=DAY)[0]["capacity_seconds"] is None


def test_nodes_that_come_and_go_change_the_capacity(views: Views) -> None:
    views.pool()
    views.capacity(8000, 0, 2 * HOUR, node="a")
    views.capacity(2000, HOUR, 3 * HOUR, node="b")
    views.capacity(9000, 2 * HOUR, 3 * HOUR, node="a")
    rows = views.rows("hour", "pool", now=3 * HOUR)
    assert [row["capacity_seconds"]["cpu"] // 3600 for row in rows] == [8000, 10_000, 11_000]
    by_node = views.rows("node", now=3 * HOUR)
    assert [row["capacity_seconds"]["cpu"] // 3600 for row in by_node] == [25_000, 4000]


def test_tenants_holders_and_tasks_have_no_capacity_of_their_own(views: Views) -> None:
    views.pool()
    views.capacity(8000)
    views.cpu(HOUR, 2 * HOUR)
    (row,) = views.rows("pool", "tenant")
    assert row["capacity_seconds"] is None
    assert row["over_capacity"] is None


def test_holding_more_than_there_is_is_flagged_with_where_and_how_much(views: Views) -> None:
    views.pool()
    views.capacity(4000, node="n1")
    views.capacity(4000, node="n2")
    views.cpu(HOUR, 4 * HOUR, 3000, node="n1")
    views.cpu(2 * HOUR, 3 * HOUR, 2000, node="n1")
    views.cpu(2 * HOUR, 3 * HOUR, 4000, node="n2")
    rows = views.rows("hour", "pool", now=5 * HOUR)
    over = {"cpu": {"node": "n1", "most": 1000, "over_s": 3600, "excess_seconds": 3_600_000}}
    assert [row["over_capacity"] for row in rows] == [{}, {}, over, {}, {}]
    assert "over capacity in 1" in views.report("hour", now=5 * HOUR).headline()
    flagged = {row["node"]: row["over_capacity"] for row in views.rows("node", now=5 * HOUR)}
    assert flagged == {"n1": over, "n2": {}}


def test_what_ends_as_the_next_begins_is_not_over_capacity(views: Views) -> None:
    views.pool()
    views.capacity(4000)
    for hour in range(1, 9):
        views.cpu(hour * HOUR, (hour + 1) * HOUR, 4000)
    assert all(row["over_capacity"] == {} for row in views.rows("hour", now=10 * HOUR))


def test_a_capacity_that_is_just_used_up_is_not_exceeded_after_it_grew(views: Views) -> None:
    views.pool()
    views.capacity(2000, 0, 2 * HOUR)
    views.capacity(4000, 2 * HOUR)
    views.cpu(HOUR, 3 * HOUR, 4000)
    rows = views.rows("hour", now=3 * HOUR + 1)
    assert [bool(row["over_capacity"]) for row in rows] == [False, True, False, False]


def test_what_stands_somewhere_in_the_pool_goes_against_all_of_it(views: Views) -> None:
    views.pool(kind="observed")
    views.capacity(4000, node="n1")
    views.capacity(2000, node="n2")
    views.cpu(HOUR, HOUR + S, 5000, node=UNPLACED, kind="observed")
    row = views.one("hour", "pool")
    assert (row["capacity_seconds"], row["over_capacity"]) == ({"cpu": 6000 * 3600}, {})
    views.cpu(HOUR, HOUR + S, 3000, node=UNPLACED, kind="observed")
    assert views.one("hour", "pool")["over_capacity"]["cpu"]["most"] == 2000


# --- against a count minute by minute ------------------------------------------------------------

TICK = 20 * 60 * S
TICKS = 3 * 72
"""Three days in steps of twenty minutes."""

spans_of = st.lists(
    st.tuples(st.sampled_from(["n1", "n2"]), st.sampled_from(["cpu", "gpu"]), st.integers(1, 9)),
    min_size=1,
    max_size=3,
    unique_by=lambda span: span[:2],
)
allocation = st.fixed_dictionaries(
    {
        "began": st.integers(0, TICKS),
        "lengths": st.lists(st.integers(0, 40), min_size=1, max_size=3),
        "spans": spans_of,
        "waited": st.integers(0, 5),
        "pool": st.sampled_from(["p", "q"]),
        "holder": st.sampled_from(["h1", "h2"]),
        "ending": st.sampled_from(["ended", "lease", "open", "seen"]),
        "nested": st.booleans(),
    }
)


def _write(views: Views, one: dict[str, Any], parent: str | None) -> None:
    at = one["began"]
    rows = []
    for seq, length in enumerate(one["lengths"]):
        last = seq + 1 == len(one["lengths"])
        until = None if last and one["ending"] != "ended" else (at + length) * TICK
        for node, resource, amount in one["spans"]:
            rows.append((seq, node, resource, amount + seq, at * TICK, until))
        at += length
    known = {"ended": at * TICK}.get(one["ending"])
    bound = at * TICK if one["ending"] in ("lease", "seen") else None
    views.held(
        one["began"] * TICK,
        known,
        *rows,
        kind="managed" if one["ending"] in ("ended", "lease") else "observed",
        pool=one["pool"],
        holder=one["holder"],
        requested_at=(one["began"] - one["waited"]) * TICK,
        expires_at=bound,
        parent=parent if one["nested"] else None,
    )


def _counted(
    allocations: list[dict[str, Any]], by: str, window: tuple[int, int], now: int
) -> dict[tuple[str, str], dict[str, Any]]:
    """The same report by walking every tick of every allocation."""
    low, high = window
    rows: dict[tuple[str, str], dict[str, Any]] = defaultdict(lambda: defaultdict(int))
    for one in allocations:
        if one["nested"]:
            continue
        edges = [one["began"]]
        for length in one["lengths"]:
            edges.append(edges[-1] + length)
        last = edges[-1]
        if one["ending"] == "open":
            # Its last stretch goes on until now, or the window's end.
            last = max(edges[0], min(now, high))
            edges[-1] = max(edges[-2], last)
        if one["ending"] == "lease" and last > min(now, high):
            # The lease is not over yet.
            over, last = False, max(edges[0], min(now, high))
        else:
            over = one["ending"] in ("ended", "lease")

        def row(tick: int, one: dict[str, Any] = one) -> dict[str, Any]:
            return rows[str(Buckets("day").text(tick // 72)), one[by]]

        if low <= edges[0] < high:
            row(edges[0])["started"] += 1
            row(edges[0])["waited"] += one["waited"]
        if over and low <= last < high:
            row(last)["ended"] += 1
        if last >= low and edges[0] < high:
            for day in {tick // 72 for tick in range(max(low, edges[0]), min(high - 1, last) + 1)}:
                row(day * 72)["running"] += 1
        for tick in range(max(low, edges[0]), min(high, last)):
            seq = next(s for s in reversed(range(len(one["lengths"]))) if edges[s] <= tick)
            row(tick)["held"] += 1
            row(tick)["nodes"] += len({node for node, _, _ in one["spans"]})
            for _, resource, amount in one["spans"]:
                row(tick)[resource] += amount + seq
    return rows


@given(
    st.lists(allocation, max_size=6),
    st.sampled_from(["pool", "holder"]),
    st.tuples(st.integers(0, TICKS), st.integers(1, TICKS)).map(lambda w: (w[0], w[0] + w[1])),
    st.integers(0, 2 * TICKS),
)
def test_the_report_is_what_a_count_tick_by_tick_comes_to(
    allocations: list[dict[str, Any]], by: str, window: tuple[int, int], now: int
) -> None:
    views = Views()
    with closing(views.db):
        for one in allocations:
            _write(views, one, "A0")
        low, high = window
        found = views.rows("day", by, since=low * TICK, until=high * TICK, now=now * TICK)
    expected = _counted(allocations, by, window, now)
    assert {(row["bucket"], row[by]) for row in found} == set(expected)
    tick_s = TICK // S
    for row in found:
        counted = expected[row["bucket"], row[by]]
        granted = {r: counted[r] * tick_s for r in ("cpu", "gpu") if counted[r]}
        assert row["granted_seconds"] == granted
        assert row["held_s"] == counted["held"] * tick_s
        assert row["nodes_seconds"] == counted["nodes"] * tick_s
        assert row["wait_s"] == counted["waited"] * tick_s
        assert row["allocations_started"] == counted["started"]
        assert row["allocations_ended"] == counted["ended"]
        assert row["allocations_running"] == counted["running"]
