"""OpenStack notifications: given records in any order, then facts that a ledger makes one life of."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasebook.importers import openstack
from leasebook.importers.base import Found, Inventory, Item, Options, Reject, Source, WrongFormat
from leasebook.importers.json_stream import Broken, JsonStream
from leasebook.importers.openstack import date_in, read
from ledger.clock import Reading
from ledger.commands import OpenPool, RecordFacts
from ledger.memory_log import MemoryLog
from ledger.writer import Writer, begin
from projections.engine import Engine
from reports.lives import UNPLACED
from reports.utilization import utilization

S = 1_000_000_000
HOUR = 3600 * S
DAY_0 = 1_524_009_600 * S
"""2018-04-18T00:00:00Z."""
A, B = "a" * 8, "b" * 8


def note(kind: str, hour: float, instance: str = A, **fields: object) -> dict[str, Any]:
    """A notification at an hour of 2018-04-18: of an active instance with 2 processors on ``h1``."""
    minutes = round(hour * 60)
    day, clock = 18 + minutes // 1440, f"{minutes // 60 % 24:02}:{minutes % 60:02}"
    known = {
        "event_type": f"compute.instance.{kind}",
        "generated": f"2018-04-{day} {clock}:00.000000",
        "instance_id": instance,
        "vcpus": "2",
        "memory_mb": "1024",
        "host": "h1",
        "state": "deleted" if kind == "delete.end" else "active",
        "project_name": "physics",
        "user_name": "ada",
        "instance_type": "m1.small",
        "message_id": f"{kind}-{hour}-{instance}",
    }  # fmt: skip
    return known | fields


def items_of(path: Path, **options: object) -> list[Item]:
    source = Source(str(path))
    try:
        return list(read(source, Options(**options)))  # type: ignore[arg-type]
    finally:
        source.close()


def items(
    tmp_path: Path, *records: Any, name: str = "events.json", **options: object
) -> list[Item]:
    path = tmp_path / name
    path.write_text(json.dumps(list(records)))
    return items_of(path, **options)


class Ledger:
    """An observed pool in a real ledger, and its history after imports."""

    def __init__(self, folder: Path) -> None:
        log = MemoryLog()
        self.writer = Writer(log, clock=lambda: Reading(DAY_0 + 100 * HOUR, S, S, "boot"))
        begin(log, "test", self.writer)
        self._do(OpenPool(command_id="o", pool="openstack", nodes=(), kind="observed"))
        self.engine = Engine(log, folder / "ledger.db.views.db")

    def _do(self, command: Any) -> None:
        assert self.writer.execute(command).outcome != "refused"

    def take(self, found: list[Item]) -> None:
        for number, item in enumerate(found):
            if isinstance(item, Found):
                self._do(RecordFacts(command_id=f"{number}", pool=item.pool, facts=(item.fact,)))

    def take_records(self, tmp_path: Path, *records: Any) -> None:
        self.take(items(tmp_path, *records))

    def spans(self) -> list[tuple[str, str, float, float | None]]:
        """(holder, node, from hour, until hour) of the processors, in order."""
        self.engine.catch_up()
        with closing(self.engine.connect()) as views:
            rows = views.execute(
                "SELECT s.holder, s.node, s.amount, s.since_at, coalesce(s.until_at, a.expires_at)"
                " FROM spans s JOIN allocations a ON a.id = s.allocation WHERE s.resource = 'cpu'"
                " ORDER BY s.since_at, s.allocation"
            ).fetchall()
        return [
            (f"{holder}:{amount // 1000}", node, (since - DAY_0) / HOUR, (until - DAY_0) / HOUR)
            for holder, node, amount, since, until in rows
        ]

    def states(self) -> list[str]:
        self.engine.catch_up()
        with closing(self.engine.connect()) as views:
            return [row[0] for row in views.execute("SELECT state FROM allocations ORDER BY id")]

    def hours(self) -> float:
        """Processor hours altogether, as the report has them."""
        self.engine.catch_up()
        with closing(self.engine.connect()) as views:
            rows = utilization(views, ["pool"], now=DAY_0 + 100 * HOUR).rows
        return sum(row["granted_seconds"]["cpu"] for row in rows) / 1000 / 3600

    def close(self) -> None:
        self.engine.close()
        self.writer.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path)) as made:
        yield made


# --- what is said of an instance -----------------------------------------------------------------


def test_an_instance_holds_from_its_creation_until_it_is_deleted(tmp_path: Path) -> None:
    (found,) = items(tmp_path, note("create.end", 1), note("delete.end", 5))
    assert isinstance(found, Found)
    fact = found.fact
    assert (fact.began_at, fact.ended_at) == (DAY_0 + HOUR, DAY_0 + 5 * HOUR)
    amounts = {"cpu": 2000, "memory": 1024 << 20}
    assert [(p.node, p.amounts) for p in fact.placements] == [("h1", amounts)]
    assert (fact.key, fact.tenant, fact.holder) == (f"openstack:{A}", "physics", "ada")
    assert (found.pool, fact.metadata) == ("openstack", {"instance_type": "m1.small"})


def test_of_several_creations_and_deletions_the_first_counts(tmp_path: Path) -> None:
    records = [note("create.end", 2), note("delete.end", 7), note("create.end", 1)]
    (found,) = items(tmp_path, *records, note("create.end", 3), note("delete.end", 6))
    assert isinstance(found, Found)
    assert (found.fact.began_at, found.fact.ended_at) == (DAY_0 + HOUR, DAY_0 + 6 * HOUR)


def test_powering_off_ends_nothing(ledger: Ledger, tmp_path: Path) -> None:
    ledger.take_records(
        tmp_path,
        note("create.end", 1),
        note("power_off.end", 2, state="stopped"),
        note("exists", 3, state="stopped"),
        note("delete.end", 6),
    )
    assert ledger.spans() == [("ada:2", "h1", 1, 6)]


def test_what_is_not_deleted_holds_until_it_was_last_seen_active_and_stays_open(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.take_records(
        tmp_path,
        note("create.end", 1),
        note("exists", 4),
        note("exists", 3),
        note("exists", 9, state="stopped"),
        note("exists", 8, state="error"),
    )
    assert ledger.spans() == [("ada:2", "h1", 1, 4)]
    assert ledger.states() == ["active"]
    assert ledger.hours() == 2 * 3


def test_what_was_created_before_the_file_holds_from_when_it_was_first_seen_active(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.take_records(
        tmp_path, note("exists", 5), note("exists", 2, state="stopped"), note("delete.end", 7)
    )
    assert ledger.spans() == [("ada:2", "h1", 5, 7)]
    assert ledger.states() == ["ended"]


def test_what_was_never_active_is_no_allocation(tmp_path: Path) -> None:
    assert (
        items(tmp_path, note("exists", 1, state="error"), note("create.error", 2, state="error"))
        == []
    )


def test_a_migration_moves_it_without_ending_it(ledger: Ledger, tmp_path: Path) -> None:
    ledger.take_records(
        tmp_path,
        note("create.end", 1),
        note("live_migration._post.end", 3, host="h2"),
        note("live_migration.post.dest.end", 3.1, host="h2"),
        note("delete.end", 6, host="h2"),
    )
    assert ledger.spans() == [("ada:2", "h1", 1, 3), ("ada:2", "h2", 3, 6)]
    assert ledger.states() == ["ended"]


def test_a_resize_changes_what_it_has_and_what_only_prepares_for_it_does_not(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.take_records(
        tmp_path,
        note("create.end", 1),
        note("resize.prep.end", 2, vcpus="8"),
        note("resize.end", 2.5, vcpus="8"),
        note("finish_resize.end", 3, vcpus="8", host="h3"),
        note("live_migration.rollback.dest.end", 4, host="h9"),
        note("delete.end", 5, vcpus="8", host="h3"),
    )
    assert ledger.spans() == [("ada:2", "h1", 1, 3), ("ada:8", "h3", 3, 5)]


def test_heartbeats_move_nothing(ledger: Ledger, tmp_path: Path) -> None:
    ledger.take_records(tmp_path, note("create.end", 1), note("exists", 3, host="h2"))
    assert ledger.spans() == [("ada:2", "h1", 1, 3)]


HISTORY = [
    note("create.end", 1),
    *(note("exists", hour) for hour in range(2, 6)),
    note("power_off.end", 5.5, state="stopped"),
    note("exists", 6, state="stopped"),
    note("live_migration._post.end", 7, host="h2"),
    *(note("exists", hour, host="h2") for hour in range(8, 11)),
    note("finish_resize.end", 11, vcpus="4", host="h2"),
    note("delete.end", 13, vcpus="4", host="h2"),
    note("create.end", 4, B, user_name="bob"),
    *(note("exists", hour, B, user_name="bob") for hour in range(5, 30, 5)),
]
SPANS = [
    ("ada:2", "h1", 1, 7),
    ("bob:2", "h1", 4, 25),
    ("ada:2", "h2", 7, 11),
    ("ada:4", "h2", 11, 13),
]


def test_a_whole_history_comes_out_as_it_was(ledger: Ledger, tmp_path: Path) -> None:
    ledger.take_records(tmp_path, *HISTORY)
    assert ledger.spans() == SPANS
    assert ledger.states() == ["ended", "active"]


@pytest.mark.parametrize("seed", range(12))
def test_late_repeated_and_unsorted_files_come_to_the_same(
    ledger: Ledger, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    records = HISTORY + chance.sample(HISTORY, 5)
    chance.shuffle(records)
    while records:
        count = chance.randint(1, 9)
        ledger.take_records(tmp_path, *records[:count])
        records = records[count:]
    assert ledger.spans() == SPANS
    assert sorted(ledger.states()) == ["active", "ended"]


def test_a_second_import_adds_nothing(ledger: Ledger, tmp_path: Path) -> None:
    ledger.take_records(tmp_path, *HISTORY)
    position = ledger.writer.log.head().position
    ledger.take_records(tmp_path, *HISTORY)
    assert ledger.writer.log.head().position == position


def test_instances_are_told_piece_by_piece_where_there_are_too_many(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openstack, "INSTANCES_MAX", 1)
    monkeypatch.setattr(openstack, "MOVES_MAX", 1)
    records = sorted(HISTORY, key=lambda record: str(record["generated"]))
    found = items(tmp_path, *records)
    assert len(found) > 2
    ledger.take(found)
    assert ledger.spans() == SPANS


def test_a_deletion_before_the_creation_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    reject, found = items(tmp_path, note("create.end", 5), note("delete.end", 2))
    assert isinstance(reject, Reject) and "deleted before it was created" in reject.reason
    assert isinstance(found, Found) and found.fact.ended_at is None


def test_names_may_be_missing_and_values_may_be_numbers(tmp_path: Path) -> None:
    bare = note(
        "create.end", 1, vcpus=3, memory_mb=None, host=None, user_name="", project_name="None"
    )
    bare["resource_id"] = bare.pop("instance_id")
    (found,) = items(tmp_path, bare | {"user_id": "u7", "project_id": "p7"}, pool="cloud")
    assert isinstance(found, Found)
    assert (found.pool, found.fact.holder, found.fact.tenant) == ("cloud", "u7", "p7")
    assert [(p.node, p.amounts) for p in found.fact.placements] == [(UNPLACED, {"cpu": 3000})]


# --- what is not about instances, or cannot be understood -----------------------------------------


def test_what_is_not_about_instances_is_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    others = [{"event_type": kind} for kind in ("volume.create.end", "identity.user.created")]
    path.write_text(json.dumps([*others, note("create.end", 1), note("exists", 2)]))
    source = Source(str(path))
    found = list(read(source, Options()))
    source.close()
    assert (len(found), source.skipped, source.attached) == (1, 2, 1)


def test_every_notification_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text(json.dumps([*HISTORY, note("exists", 1, "c"), note("exists", 2, "c")]))
    source = Source(str(path))
    found = list(read(source, Options()))
    source.close()
    assert len(found) + source.attached == len(HISTORY) + 2


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (7, "no event_type"),
        ({"generated": "x"}, "no event_type"),
        (note("create.end", 1, generated=None), "does not say when"),
        (note("create.end", 1, generated="yesterday"), "'yesterday' is not a time"),
        (note("create.end", 1, instance=""), "names no instance"),
        (note("create.end", 1, vcpus="many"), "'many' as vcpus"),
    ],
)
def test_a_record_that_cannot_be_understood_is_told_and_the_rest_goes_on(
    tmp_path: Path, record: Any, why: str
) -> None:
    found = items(tmp_path, note("exists", 1, B), record, note("exists", 2, B))
    rejects = [item for item in found if isinstance(item, Reject)]
    assert [reject.line for reject in rejects] == [2]
    assert why in rejects[0].reason
    assert json.loads(rejects[0].text) == record
    (rest,) = [item for item in found if isinstance(item, Found)]
    assert (rest.fact.seen_from, rest.fact.seen_until) == (DAY_0 + HOUR, DAY_0 + 2 * HOUR)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "7", '[{"a": 1}]', "[7]", '{"a": 1}'])
def test_a_file_of_another_format_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "events.json"
    path.write_text(text)
    with pytest.raises(WrongFormat):
        items_of(path)


# --- hypervisors ---------------------------------------------------------------------------------


def test_hypervisors_are_all_the_nodes_of_the_day_in_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hypervisors_2018-04-18.json"
    listed = [
        {"hypervisor_hostname": "h1", "id": "1", "memory_mb": "2048", "vcpus": "8"},
        {"hypervisor_hostname": "h2", "id": "2", "memory_mb": 1024, "vcpus": 4},
        {"hypervisor_hostname": "h3", "id": "3"},
        {"hypervisor_hostname": "h4", "vcpus": "x"},
    ]
    path.write_text(json.dumps({"hypervisors": listed}))
    first, second, inventory = items_of(path)
    assert isinstance(first, Reject) and "without a name or a size" in first.reason
    assert isinstance(second, Reject) and "'x' as vcpus" in second.reason
    assert isinstance(inventory, Inventory)
    assert (inventory.at, inventory.complete, inventory.pool) == (DAY_0, True, "openstack")
    assert [(node.name, node.capacity) for node in inventory.nodes] == [
        ("h1", {"cpu": 8000, "memory": 2048 << 20}),
        ("h2", {"cpu": 4000, "memory": 1024 << 20}),
    ]


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("2018-04-18.json", 0),
        ("hypervisors-20180418.json.gz", 0),
        ("h_2018-04-18T06:30:00.json", 6.5),
        ("h_20180418_0630.json", 6.5),
        ("h_99999999_2018-04-18.json", 0),
    ],
)
def test_a_date_is_found_in_the_name_of_a_file(name: str, hours: float) -> None:
    assert date_in(name) == DAY_0 + hours * HOUR


def test_a_name_without_a_date_has_none() -> None:
    assert date_in("hypervisors.json") is None
    assert date_in("h_2018-13-45.json") is None


# --- the stream ----------------------------------------------------------------------------------

json_objects = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=30),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=5,
    ),
    max_size=4,
)


class Bytes:
    """A source of bytes that gives a few at a time."""

    name = "bytes"

    def __init__(self, data: bytes, step: int) -> None:
        self._data = data
        self._step = step

    def binary(self) -> Bytes:
        return self

    def read(self, count: int) -> bytes:
        data, self._data = self._data[: self._step], self._data[self._step :]
        return data


def streamed(text: str, step: int) -> list[Any]:
    return [value for _, value in JsonStream(Bytes(text.encode(), step)).values()]  # type: ignore[arg-type]


@given(st.lists(json_objects, max_size=5), st.integers(1, 40), st.booleans(), st.booleans())
def test_values_are_read_as_they_stand_however_they_are_cut(
    values: list[Any], step: int, ascii_only: bool, array: bool
) -> None:
    if array:
        text = json.dumps(values, ensure_ascii=ascii_only, indent=1)
    else:
        text = "\n".join(json.dumps(value, ensure_ascii=ascii_only) for value in values) or "[]"
    assert streamed(text, step) == values


@given(st.integers(1, 40))
def test_a_broken_value_is_told_and_what_comes_behind_it_is_read(step: int) -> None:
    text = '[{"a": 1}, {"b": nope, "c": [}, {"d": "}"}, {"e": 2}]'
    first, broken, second, third = streamed(text, step)
    assert (first, second, third) == ({"a": 1}, {"d": "}"}, {"e": 2})
    assert isinstance(broken, Broken)
    assert broken.text == '{"b": nope, "c": [}, '


def test_a_file_that_is_cut_off_tells_so_and_keeps_what_came_before() -> None:
    first, cut, end = streamed('[{"a": 1}, {"b": "half', 7)
    assert first == {"a": 1}
    assert isinstance(cut, Broken) and cut.text == '{"b": "half'
    assert isinstance(end, Broken) and "ends before its array" in end.reason


def test_a_value_too_long_to_be_one_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("leasebook.importers.json_stream.VALUE_CHARACTERS_MAX", 1000)
    stream = JsonStream(Bytes(b'[{"a": "' + b"x" * 100_000 + b'"}]', 500))  # type: ignore[arg-type]
    _, value = next(stream.values())
    assert isinstance(value, Broken)
    assert len(stream._text) < 5000
