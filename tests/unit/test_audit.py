"""Audit: a sentence for every event, what concerns whom, causes linked, and what a trail rests on."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from datetime import datetime
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import commands as c
from ledger import events as e
from ledger.chain import digest_of, link, metadata_hash
from ledger.codec import to_row
from ledger.errors import LimitExceeded, Refused
from ledger.events import AnyBody, Event
from ledger.log import GENESIS, Row
from ledger.memory_log import MemoryLog
from projections.details import details
from projections.elsewhere import observed_sentence
from projections.sentences import sentence
from projections.wording import lasting, moment_text
from reports.audit import Asked, Trail, audit, trail_csv, trail_document, trail_text
from reports.audit.telling import headline
from reports.audit.writing import COLUMNS, safe_cell
from reports.exporting.cloudevents import source_of, trail_cloudevents
from tests.scenario import PROCESS, SECOND, Scenario
from tests.unit.storage_examples import BODIES, example

NOW = 1_790_000_000 * SECOND


def rows_of(events: list[Event]) -> list[Row]:
    rows: list[Row] = []
    before = GENESIS
    for event in events:
        rows.append(to_row(event, before))
        before = rows[-1].hash
    return rows


def log_of(events: list[Event]) -> MemoryLog:
    return MemoryLog(rows_of(events))


def trail_of(s: Scenario, **asked: Any) -> Trail:
    return audit(log_of(s.events), Asked(**asked), now=s.now)


def positions(trail: Trail) -> list[int]:
    return [entry.row.position for entry in trail.entries]


def texts_of(trail: Trail, relation: str) -> list[str]:
    return [k.text for entry in trail.entries for k in entry.links if k.relation == relation]


def after_all(s: Scenario, body: AnyBody, **columns: Any) -> Event:
    """One more event at the end of a scenario, as another writer would have added it."""
    names = {"tenant": "", "pool": None, "allocation": None, "holder": None, "task": None}
    event = Event(len(s.events) + 1, s.now, s.now, **{**names, **columns}, cause=None, body=body)
    s.events.append(event)
    return event


# --- sentences -----------------------------------------------------------------------------------


def test_every_event_type_has_a_sentence_of_its_own() -> None:
    assert {type(body) for body in BODIES} == set(get_args(AnyBody))
    for position, body in enumerate(BODIES, 1):
        event = example(position, body)
        said = sentence(event)
        # The bare name of the type would be no sentence.
        assert said != event.type.replace("_", " "), said
        assert len(said.split()) >= 3 and said.isprintable() and not said.endswith("."), said
        assert "None" not in said, said
        for more in details(event):
            assert more.isprintable() and not more.endswith("."), more


def test_every_event_type_has_a_sentence_also_where_it_happened_elsewhere() -> None:
    for position, body in enumerate(BODIES, 1):
        said = observed_sentence(example(position, body))
        assert said.isprintable() and len(said.split()) >= 3
        assert "unless renewed" not in said and "at most (" not in said, said


def test_claim_of_one_that_waits_on_reads_as_one() -> None:
    request = example(1, BODIES[16]).body
    assert isinstance(request, e.Queued)
    claim = replace(request, reason="reserved_for_waiting", shortfall={"n1": {"cpu": 5}})
    # A claim is the ledger's own, no command's effect.
    said = sentence(replace(example(7, claim), cause=None))
    assert "what comes free on n1 is kept for it" in said
    given_up = replace(example(8, replace(claim, shortfall={})), cause=None)
    assert "no node is kept for it any more" in sentence(given_up)
    assert "somebody else waits for it" in sentence(example(9, claim))


def test_settings_of_a_policy_read_with_their_units() -> None:
    settings = {"ageing_ns": 300 * SECOND, "refill_from": NOW, "refill_amounts": {"cpu": 500}}
    said = sentence(example(1, e.PolicySet({**settings, "rollout_strategy": None})))
    assert said == (
        "the policy of pool box was set: ageing 5 min, refill from 2026-09-21 14:13:20,"
        " refill amounts cpu=500m, rollout strategy none"
    )


def test_a_name_that_would_act_on_a_terminal_is_shown_written_out() -> None:
    # No door lets such a name in; a log from elsewhere may hold it.
    seen = e.HolderSeen(PROCESS, "python")
    said = sentence(Event(9, NOW, NOW, "", "box", None, "h\x1b[2J\n2", None, None, seen, None))
    assert "\x1b" not in said and "\n" not in said and "\\x1b" in said


@given(st.integers(0, 2**62))
def test_a_duration_in_words_is_right_to_a_twentieth(ns: int) -> None:
    factors = {"ns": 1, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
    factors["d"] = 24 * factors["h"]
    parts = lasting(ns).split()
    total = sum(
        float(number) * factors[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True)
    )
    assert total == pytest.approx(ns, rel=0.05, abs=1)


# --- a golden story ------------------------------------------------------------------------------


def small_story() -> Scenario:
    """Two want one node: one is refused and then waits, until the other's lease runs out."""
    s = Scenario()
    s.now = NOW
    s.pool(n1={"cpu": 4000})
    s.got({"cpu": 4000}, holder="first", task="build", ttl=60)
    s.refused({"cpu": 1000}, holder="second")
    s.waits({"cpu": 2000}, holder="second", wait=300, ttl=600)
    s.later(100).settle()
    return s


GOLDEN = """\
6 events: 2 allocations, 1 refusal, by 2 holders, from 2026-09-21 14:13:21 to 2026-09-21 14:15:04
UTC
Audit of pool box. All times are UTC.

Pool  box
  2026-09-21, Monday
    14:13:21.000  #2  pool box was opened: n1 with cpu=4

A3  first for task build held cpu=4 of box on n1 for 60 s; ended: expired
  Decided under the policy of pool box as event 2 left it.
  2026-09-21, Monday
    14:13:22.000  #3  first got cpu=4 of box on n1, for 60 s unless renewed
                      Placed by first fit.
    14:14:22.000  #6  its lease ended without renewal
                      This was written down 42 s later, at 2026-09-21 14:15:04.
                      That made room for A5 of second, which then got cpu=2 (event 7).

Refused  to second, pool box
  Decided under the policy of pool box as event 2 left it.
  2026-09-21, Monday
    14:13:23.000  #4  second was refused cpu=1 of box: insufficient capacity; box has no room for
                      this now; n1 is the nearest
                      n1 was short by cpu=1. In the way: first (A3) with cpu=4 since 2026-09-21
                        14:13:22 UTC. The advice was: wait for it (`--wait`), ask for what fits now,
                        or release something; it may fit in 59 s, going by the ends of leases.
                      1 s later second's next request got a place in the queue: A5 (event 5).

A5  second holds cpu=2 of box on n1 since 2026-09-21 14:15:04 UTC, after waiting 100 s
  Decided under the policy of pool box as event 2 left it.
  2026-09-21, Monday
    14:13:24.000  #5  second asked for cpu=2 of box and waits, for 5 min at most (insufficient
                      capacity; n1 lacks cpu=2)
                      It had been refused before: R4 of second, 1 s earlier.
    14:15:04.000  #7  second got cpu=2 of box on n1 after waiting 100 s, for 10 min unless renewed
                      Placed by first fit.
                      Room came of A3 of first, which ended (event 6).

What this rests on
  Events 2 to 7 of ledger test, whose record ends at event 7,
  hash HASH.
  Checked: 6 events shown, each agrees with its digest and follows the hash of the event before it.
    `leasebook verify` proves the whole record.
  Nothing of it was redacted.
"""


def test_small_story_reads_as_it_happened() -> None:
    trail = trail_of(small_story(), pool="box")
    told = trail_text(trail).replace(trail.rests.head_hash.hex(), "HASH")
    assert told.splitlines() == GOLDEN.splitlines()


# --- what concerns whom --------------------------------------------------------------------------


def two_holders() -> tuple[Scenario, str, str]:
    s = Scenario()
    s.pool(n1={"cpu": 8000})
    return s, s.got({"cpu": 1000}, holder="h1", task="t1"), s.got({"cpu": 1000}, holder="h2")


def test_trail_of_an_allocation_has_what_no_column_of_it_says() -> None:
    s, a, b = two_holders()
    renewed = s.when(c.RenewHolder(command_id="r", holder="h1", ttl_ns=5_000 * SECOND))
    extended = after_all(s, e.TimeExtended(5 * SECOND, s.now - 5, s.now, "it slept"))
    corrected = after_all(s, e.Corrected(3, "wrong node", "ops", {"node": "n2"}))
    expected = [3, renewed[0].position, extended.position, corrected.position]
    assert positions(trail_of(s, subject=a)) == expected
    assert positions(trail_of(s, subject=b)) == [4, extended.position]


def test_time_given_back_after_an_end_does_not_concern_it() -> None:
    s, a, _ = two_holders()
    s.release(a)
    after_all(s, e.TimeExtended(5 * SECOND, s.now - 5, s.now, "it slept"))
    assert positions(trail_of(s, subject=a)) == [3, 5]


def test_trail_of_a_holder_follows_transfers_to_it_and_away_from_it() -> None:
    s, a, _ = two_holders()
    moved = s.on(c.Transfer, a, "h1", to_holder="h3")
    s.release(a, "h3")
    assert positions(trail_of(s, holder="h1")) == [3, moved[0].position]
    assert positions(trail_of(s, holder="h3")) == [5, 6]
    said = trail_of(s, holder="h3").entries[0].text
    assert said.startswith("h1 handed it to h3")


def test_trail_of_a_holder_has_what_it_did_to_others() -> None:
    s, _, b = two_holders()
    taken = after_all(s, e.Reclaimed("forced", {}, "h1", "needed"), allocation=b, holder="h2")
    assert taken.position in positions(trail_of(s, holder="h1"))


def test_alert_that_names_a_holder_is_in_its_trail_and_in_no_tenants() -> None:
    s, _, _ = two_holders()
    details = {"holders": ["h1", "h7"]}
    raised = after_all(s, e.AlertRaised("hold_and_wait:h1,h7", "h1 waits for h7", details))
    after_all(s, e.AlertRaised("clock_jumped", "it jumped", {}))
    cleared = after_all(s, e.AlertCleared("hold_and_wait:h1,h7", "ops", "seen"))
    assert positions(trail_of(s, holder="h1")) == [3, raised.position, cleared.position]
    assert positions(trail_of(s, holder="h7")) == [raised.position, cleared.position]
    assert positions(trail_of(s, tenant="default")) == [3, 4]


def test_what_is_shared_with_a_holder_is_in_its_trail() -> None:
    s, a, _ = two_holders()
    shared = after_all(s, e.Shared(("h5", "h6"), "h1"), allocation=a, holder="h1")
    assert positions(trail_of(s, holder="h6")) == [shared.position]


def test_hand_over_for_another_task_ends_the_trail_of_the_first() -> None:
    s, a, _ = two_holders()
    moved = s.on(c.Transfer, a, "h1", to_holder="h1", to_task="t2")
    s.when(c.RenewHolder(command_id="r", holder="h1", ttl_ns=5_000 * SECOND))
    assert positions(trail_of(s, task="t1")) == [3, moved[0].position]
    assert positions(trail_of(s, task="t2")) == [moved[0].position, moved[0].position + 1]


def test_correction_and_repeats_of_a_refusal_are_in_its_trail() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    s.got({"cpu": 4000})
    body = s.refused({"cpu": 1000}, holder="h2")
    counted = after_all(s, replace(body, repeats=3, repeats_of=4), pool="box", holder="h2")
    corrected = after_all(s, e.Corrected(4, "a fault", "ops"))
    trail = trail_of(s, subject="R4")
    assert positions(trail) == [4, counted.position, corrected.position]
    assert "This counts repeats of R4" in trail.entries[1].details
    assert "Event 4 had said: h2 was refused cpu=1 of box" in texts_of(trail, "corrects")[0]
    alone = trail_of(s, type="corrected")
    assert texts_of(alone, "corrects") == ["Event 4 is of type refused, outside of this trail"]


def test_filters_narrow_each_other_and_still_find_the_indirect_ones() -> None:
    s, _, b = two_holders()
    s.when(c.RenewHolder(command_id="r", holder="h1", ttl_ns=5_000 * SECOND))
    assert positions(trail_of(s, holder="h1", pool="box")) == [3, 5]
    assert positions(trail_of(s, holder="h1", type="renewed")) == [5]
    assert positions(trail_of(s, task="t1")) == [3, 5]
    assert positions(trail_of(s, task="t1", holder="h2")) == []
    with pytest.raises(Refused, match=f"no allocation {b}"):
        trail_of(s, subject=b, tenant="other")


def test_window_bounds_what_happened_and_later_corrections_still_show() -> None:
    s, _, _ = two_holders()
    at = s.events[2].at
    s.later(1000)
    after_all(s, e.Corrected(3, "wrong", "ops", {"ended_at": at}))
    trail = trail_of(s, since=at, until=at + 1)
    assert positions(trail) == [3]
    (said,) = texts_of(trail, "corrected_by")
    assert "Corrected since, at event 5: ops corrected event 3: wrong; really so: ended at" in said


@given(st.sets(st.integers(1, 30)), st.integers(0, 30), st.integers(0, 31))
def test_trail_between_two_positions_is_the_events_between_them(
    releases: set[int], after: int, upto: int
) -> None:
    s = Scenario()
    s.pool(n1={"cpu": 60_000})
    for number in range(15):
        allocation = s.got({"cpu": 1000}, holder=f"h{number % 3}")
        if number in releases:
            s.release(allocation, f"h{number % 3}")
    everything = [event.position for event in s.events]
    assert positions(trail_of(s)) == everything
    between = [p for p in everything if after < p <= upto]
    trail = trail_of(s, after=after, upto=upto)
    assert positions(trail) == between
    of_holders = [p for n in range(3) for p in positions(trail_of(s, holder=f"h{n}"))]
    # Nothing of an allocation belongs to two holders who never handed anything over.
    assert sorted(of_holders) == everything[2:]
    assert trail.rests.ok


def test_unknown_subject_and_too_long_a_trail_are_errors() -> None:
    s, _, _ = two_holders()
    for subject in ("A999", "R3", "R999"):
        with pytest.raises(Refused) as refused:
            trail_of(s, subject=subject)
        assert refused.value.reason == "no_such_allocation"
    with pytest.raises(LimitExceeded, match="more than 3 events"):
        audit(log_of(s.events), Asked(), now=s.now, events_max=3)


# --- causes --------------------------------------------------------------------------------------


def test_refusal_is_linked_with_the_later_grant_of_the_same_command() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    a = s.got({"cpu": 4000})
    command = s.request({"cpu": 1000}, holder="h2")
    s.when(command)
    assert s.own[0].type == "refused"
    refusal = s.own[0].position
    s.release(a)
    s.when(s.request({"cpu": 500}, holder="h9"))
    s.when(command)
    granted = s.own[0]
    trail = trail_of(s, subject=f"R{refusal}")
    assert positions(trail) == [refusal, granted.position]
    (said,) = texts_of(trail, "granted_later")
    assert f"the same command was granted cpu=1: {granted.allocation}" in said
    assert texts_of(trail_of(s, subject=granted.allocation), "refused_before") == []
    assert texts_of(trail_of(s, holder="h2"), "refused_before") != []


def test_refusal_that_came_to_nothing_says_so() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    s.got({"cpu": 4000})
    s.refused({"cpu": 1000}, holder="h2")
    headline = trail_document(trail_of(s, subject="R4"))["headline"]
    assert headline.endswith("h2 has got nothing of box since")


def test_what_an_ending_freed_is_linked_with_whom_it_was_freed_for() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 2000}, n2={"cpu": 2000})
    a, b = s.got({"cpu": 2000}), s.got({"cpu": 2000}, holder="h2")
    w = s.waits({"cpu": 2000}, holder="h3")
    s.release(b, "h2")
    assert f"room for {w} of h3" in texts_of(trail_of(s, subject=b), "freed_for")[0]
    assert f"came of {b} of h2" in texts_of(trail_of(s, subject=w), "freed_by")[0]
    s.release(a)
    assert texts_of(trail_of(s, subject=a), "freed_for") == []


def preempted_by_another_tenant() -> tuple[Scenario, str, str]:
    s = Scenario()
    policy = {"preemption": "lower_priority", "grace_ns": 0}
    s.pool(policy=policy, n1={"cpu": 2000})
    low = s.got({"cpu": 2000}, holder="mine", tenant="ours", priority="low")
    s.when(s.request({"cpu": 2000}, holder="secret", tenant="theirs", priority="high", wait=60))
    assert "reclaimed" in [event.type for event in s.events]
    return s, low, s.own[0].allocation or ""


def test_tenants_trail_shows_no_more_of_others_than_amounts() -> None:
    s, low, high = preempted_by_another_tenant()
    whole = trail_of(s, subject=low)
    assert "secret" in trail_text(whole)
    trail = trail_of(s, tenant="ours")
    shown = trail_text(trail) + str(trail_document(trail)) + str(trail_cloudevents(trail))
    table = io.StringIO()
    trail_csv(trail, table)
    for text in (shown, table.getvalue()):
        assert "secret" not in text and "theirs" not in text
        assert not re.search(rf"\b{high}\b", text)
        assert "another tenant's request" in text
    assert {entry.row.tenant for entry in trail.entries} == {"ours"}


# --- what it rests on ----------------------------------------------------------------------------


def test_changed_event_is_shown_and_named_as_unsound() -> None:
    s, a, _ = two_holders()
    rows = rows_of(s.events)
    rows[2] = rows[2]._replace(data=rows[2].data.replace("1000", "9000"))
    trail = audit(MemoryLog(rows), Asked(subject=a), now=s.now)
    assert (trail.rests.ok, trail.rests.unsound) == (False, (3,))
    assert "NOT SOUND: the content or the hash of event 3" in trail_text(trail)
    assert trail_document(trail)["rows"][0]["sound"] is False


def test_row_whose_data_is_no_json_is_shown_as_it_is_stored() -> None:
    s, a, _ = two_holders()
    rows = rows_of(s.events)
    rows[2] = rows[2]._replace(data="{torn", metadata="{too")
    trail = audit(MemoryLog(rows), Asked(subject=a), now=s.now)
    assert trail.rests.unsound == trail.rests.unknown == (3,)
    assert "{torn" in trail_text(trail)
    row = trail_document(trail)["rows"][0]
    assert (row["data"], row["metadata"]) == ({}, "{too")


def test_missing_metadata_is_sound_only_with_a_redaction_that_proves_it() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8000})
    command = s.request({"cpu": 1000})
    s.when(replace(command, metadata={"note": "private"}))
    (row,) = [row for row in rows_of(s.events) if row.position == 3]
    after_all(s, e.Redacted(3, metadata_hash(row.metadata).hex(), "asked for", "ops"))
    rows = rows_of(s.events)
    assert "private" in trail_text(audit(MemoryLog(rows), Asked(subject="A3"), now=s.now))
    rows[2] = rows[2]._replace(metadata=None)
    trail = audit(MemoryLog(rows), Asked(subject="A3"), now=s.now)
    assert (trail.rests.ok, trail.rests.redacted, positions(trail)) == (True, (3,), [3, 4])
    told = trail_text(trail)
    assert "Its metadata was erased by ops: asked for (event 4)." in told
    assert "Redacted: the metadata of 1 event was erased (3)" in told
    rows[3] = rows[3]._replace(position=4, type="corrected")
    assert not audit(MemoryLog(rows), Asked(subject="A3"), now=s.now).rests.ok


def test_event_of_a_type_from_the_future_is_shown_as_stored() -> None:
    s, a, _ = two_holders()
    rows = rows_of(s.events)
    last = rows[-1]
    digest = digest_of(5, s.now, s.now, "teleported", 3, "default", "box", a, "h1", None, None,
                       '{"to":"moon"}', metadata_hash(None))  # fmt: skip
    rows.append(Row(5, s.now, s.now, "teleported", 3, "default", "box", a, "h1", None, None,
                    '{"to":"moon"}', None, digest, link(last.hash, digest)))  # fmt: skip
    trail = audit(MemoryLog(rows), Asked(subject=a), now=s.now)
    assert trail.rests.unknown == (5,) and trail.rests.ok
    told = trail_text(trail)
    assert 'an event of type teleported, which this program cannot read: {"to":"moon"}' in told
    assert "Not understood: 1 event (5)" in told
    assert trail_document(trail)["rows"][-1]["data"] == {"to": "moon"}
    assert trail_cloudevents(trail)[-1]["type"] == "org.leasebook.teleported.v3"


def test_imported_history_says_when_it_was_recorded_and_from_where() -> None:
    s = Scenario()
    s.when(c.OpenPool(command_id="p", pool="slurm", nodes=(), kind="observed"))
    body = BODIES[[type(each) for each in BODIES].index(e.Allocated)]
    then = s.now - 900 * SECOND
    cause = e.Cause("sacct:phillips:4711", "0" * 32)
    s.events.append(Event(3, then, s.now, "default", "slurm", "A3", "ada", "t", cause, body, None))
    names = {"pool": "slurm", "allocation": "A3", "holder": "ada", "tenant": "default"}
    after_all(s, e.Renewed(s.now - 5), **names)
    trail = trail_of(s, subject="A3")
    assert {entry.source for entry in trail.entries} == {"sacct:phillips:4711"}
    headline = trail_document(trail)["headline"]
    assert headline.startswith("A3: ada for task t held cpu=2 gpu=1 of slurm since")
    assert headline.endswith("its end is not recorded")
    told = trail_text(trail)
    assert "It happened elsewhere; recorded" in told and "from sacct:phillips:4711." in told
    # Nothing was decided here, and no lease ran.
    assert "unless renewed" not in told and "policy" not in told
    after_all(s, e.Reclaimed("forced", {}, "import"), **names)
    assert trail_of(s, subject="A3").entries[-1].text == "it ended: forced"


def test_headline_of_what_happened_elsewhere_tells_what_is_known_now() -> None:
    s = Scenario()
    s.when(c.OpenPool(command_id="p", pool="slurm", nodes=(), kind="observed"))
    grant = BODIES[[type(each) for each in BODIES].index(e.Allocated)]
    names = {"pool": "slurm", "holder": "ada", "tenant": "default", "allocation": "A3"}
    begun = after_all(s, grant, **names)
    s.now += 600 * SECOND
    after_all(s, e.Reclaimed("crashed", {}, "import"), **names)
    assert headline(trail_of(s, subject="A3")).endswith("; ended: crashed")
    really = {"ended_at": begun.at + 5 * SECOND, "ended_by": "released"}
    after_all(s, e.Corrected(begun.position, "another says otherwise", "import", really), **names)
    told = headline(trail_of(s, subject="A3"))
    assert "for 5 s" in told and told.endswith("; ended: released")
    before = {"granted_before": begun.at, "granted_at": begun.at}
    after_all(s, e.Corrected(begun.position, "seen", "import", before), **names)
    text = trail_text(trail_of(s, subject="A3"))
    when = moment_text(begun.at)
    assert f"granted at: {when}, granted before: {when}" in " ".join(text.split())
    assert str(begun.at) not in text


def test_what_ends_elsewhere_makes_room_for_nobody() -> None:
    s = Scenario()
    s.when(c.OpenPool(command_id="p", pool="slurm", nodes=(), kind="observed"))
    grant = BODIES[[type(each) for each in BODIES].index(e.Allocated)]
    names = {"pool": "slurm", "holder": "ada", "tenant": "default"}
    after_all(s, grant, allocation="A3", **names)
    after_all(s, e.Released("ada"), allocation="A3", **names)
    after_all(s, grant, allocation="A5", **names)
    trail = trail_of(s, pool="slurm")
    assert texts_of(trail, "freed_for") == texts_of(trail, "freed_by") == []


# --- for programs --------------------------------------------------------------------------------


def everything() -> Trail:
    """A trail with one event of every type."""
    events = [example(position, body) for position, body in enumerate(BODIES, 1)]
    return audit(log_of(events), Asked(), now=NOW)


def test_document_has_the_shape_that_every_report_has() -> None:
    document = trail_document(everything())
    assert list(document)[:7] == [
        "report", "position", "generated_at", "since", "until", "headline", "filters"
    ]  # fmt: skip
    assert document["report"] == "audit" and document["position"] == len(BODIES)
    assert len(document["rows"]) == len(BODIES)
    assert all(tuple(row) == COLUMNS for row in document["rows"])
    orjson.dumps(document)


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[^\s<>\"{}|\\^`]+\Z")


def check_cloud_event(event: dict[str, Any]) -> None:
    """The rules of CloudEvents 1.0 for attributes and the JSON format."""
    assert event["specversion"] == "1.0"
    for name in ("id", "source", "type"):
        assert isinstance(event[name], str) and event[name]
    assert _URI.match(event["source"])
    assert event["type"].startswith("org.leasebook.")
    for name, value in event.items():
        assert re.fullmatch(r"[a-z0-9]{1,20}", name), name
        if name == "data":
            continue
        assert isinstance(value, str) and value, (name, value)
        # Strings hold no control characters, surrogates or non-characters.
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]", value)
    for name in ("time", "recordedtime"):
        assert _RFC3339.match(event[name])
        datetime.fromisoformat(event[name])
    assert event["datacontenttype"] == "application/json"


def test_cloud_events_keep_the_rules_of_the_specification() -> None:
    batch = orjson.loads(orjson.dumps(trail_cloudevents(everything())))
    assert len(batch) == len(BODIES)
    for event in batch:
        check_cloud_event(event)
    assert len({(event["source"], event["id"]) for event in batch}) == len(batch)
    sequences = [event["sequence"] for event in batch]
    assert sorted(sequences) == sequences


@given(st.text(min_size=1, max_size=30))
def test_any_ledgers_name_makes_a_source(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    assert _URI.match(source_of(name))


@given(st.text(max_size=20))
def test_no_cell_begins_as_a_formula_and_nothing_is_lost(text: str) -> None:
    cell = safe_cell(text)
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "|", "%"))
    assert (cell[1:] if cell.startswith("'") else cell) == text


def test_csv_has_one_row_for_each_event_and_no_formulas() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8000})
    s.got({"cpu": 1000}, holder="=cmd|' /C calc'!A0", task="@SUM(1)")
    table = io.StringIO(newline="")
    trail_csv(trail_of(s, pool="box"), table)
    head, *rows = csv.reader(io.StringIO(table.getvalue(), newline=""))
    assert tuple(head) == COLUMNS and len(rows) == 2
    cells = dict(zip(head, rows[1], strict=True))
    assert cells["holder"] == "'=cmd|' /C calc'!A0" and cells["task"] == "'@SUM(1)"
    assert cells["text"].startswith("'=cmd|")
    assert "\r\n" in table.getvalue()
