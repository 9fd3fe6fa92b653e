"""What makes two commands under one id the same command."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import commands as c
from ledger.content import content_digest
from ledger.errors import InvalidInput
from ledger.identity import ProcessIdentity
from ledger.requests import NodeSpec, Request

PROCESS = ProcessIdentity("host", 4242, 77, "boot", "ns")
CLAIM = c.Claim("h1", 17)
REQUEST = Request({"cpu": 1000, "memory": 5}, ttl_ns=10**9)
ALLOCATE = c.Allocate(command_id="x", pool="box", holder="h1", request=REQUEST)
SAMPLES: list[c.Command] = [
    ALLOCATE,
    c.AllocateBatch(command_id="x", items=(ALLOCATE, replace(ALLOCATE, holder="h2"))),
    c.Confirm(command_id="x", allocation="A1", claim=CLAIM),
    c.Adjust(command_id="x", allocation="A1", claim=CLAIM, amounts={"cpu": 1}),
    c.Renew(command_id="x", allocation="A1", claim=CLAIM, ttl_ns=5),
    c.RenewHolder(command_id="x", holder="h1"),
    c.Release(command_id="x", allocation="A1", claim=CLAIM),
    c.Transfer(command_id="x", allocation="A1", claim=CLAIM, to_holder="h2", process=PROCESS),
    c.Withdraw(command_id="x", allocation="A1", claim=CLAIM),
    c.Await(command_id="x", allocation="A1", claim=CLAIM),
    c.Reclaim(command_id="x", allocation="A1", claim=CLAIM, cause="forced"),
    c.StartTask(command_id="x", task="t", by="h"),
    c.FinishTask(command_id="x", task="t", by="h"),
    c.SeeHolder(command_id="x", holder="h", process=PROCESS),
    c.RecordUsage(command_id="x", allocation="A1", since=1, until=2, used={}, peak={}),
    c.OpenPool(command_id="x", pool="box", nodes=(NodeSpec("n", {"cpu": 1}),)),
    c.ResizePool(command_id="x", pool="box", nodes=(NodeSpec("n", {"cpu": 1}),)),
    c.ClosePool(command_id="x", pool="box"),
    c.SetQuota(command_id="x", limits={"cpu": 1}),
    c.SetPolicy(command_id="x", pool="box", policy={"order": "fifo"}),
    c.RaiseAlert(command_id="x", alert="a", message="m"),
    c.ClearAlert(command_id="x", alert="a", by="b"),
    c.OpenLedger(command_id="x", ledger_id="l"),
]
BY_VERB = [type(command).__name__ for command in SAMPLES]


def test_the_digest_is_128_bits_of_lower_case_hex() -> None:
    digest = content_digest(ALLOCATE)
    assert len(digest) == 32
    assert int(digest, 16) >= 0
    assert digest == digest.lower()


@pytest.mark.parametrize("command", SAMPLES, ids=BY_VERB)
def test_the_id_is_no_part_of_the_content(command: c.Command) -> None:
    assert content_digest(replace(command, command_id="other")) == content_digest(command)


def test_commands_that_differ_have_digests_that_differ() -> None:
    assert len({content_digest(command) for command in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize("command", SAMPLES, ids=BY_VERB)
def test_the_tenant_is_part_of_the_content(command: c.Command) -> None:
    if isinstance(command, c.AllocateBatch):
        items = tuple(replace(item, tenant="other") for item in command.items)
        changed: c.Command = replace(command, tenant="other", items=items)
    else:
        changed = replace(command, tenant="other")
    assert content_digest(changed) != content_digest(command)


@pytest.mark.parametrize(
    "change",
    [
        {"amounts": {"cpu": 1000}},
        {"amounts": {"cpu": 1000, "memory": 6}},
        {"ttl_ns": 10**9 + 1},
        {"ttl_ns": None, "process": PROCESS},
        {"ttl_ns": None, "process": replace(PROCESS, start_time=78)},
        {"max_age_ns": 10**12},
        {"wait_ns": 1},
        {"priority": "high"},
        {"strategy": "best_fit"},
        {"select": {"model": "T4"}},
        {"reserve_ns": 1},
        {"parent": "A1"},
    ],
    ids=str,
)
def test_every_part_of_a_request_counts_alone_and_in_a_batch(change: dict[str, Any]) -> None:
    changed = replace(ALLOCATE, request=replace(REQUEST, **change))
    assert content_digest(changed) != content_digest(ALLOCATE)
    one = c.AllocateBatch(command_id="x", items=(ALLOCATE,))
    assert content_digest(replace(one, items=(changed,))) != content_digest(one)


@pytest.mark.parametrize(
    "change", [{"holder": "h2"}, {"pool": "p"}, {"task": "t"}, {"metadata": {"k": 1}}], ids=str
)
def test_every_name_of_a_request_counts(change: dict[str, Any]) -> None:
    assert content_digest(replace(ALLOCATE, **change)) != content_digest(ALLOCATE)


def test_the_order_of_resources_and_metadata_does_not_matter() -> None:
    turned = replace(REQUEST, amounts={"memory": 5, "cpu": 1000})
    one = replace(ALLOCATE, metadata={"a": 1, "b": {"c": 2, "d": 3}})
    other = replace(ALLOCATE, request=turned, metadata={"b": {"d": 3, "c": 2}, "a": 1})
    assert content_digest(one) == content_digest(other)


def test_the_order_of_a_batch_matters_and_so_does_atomicity() -> None:
    second = replace(ALLOCATE, holder="h2")
    one = c.AllocateBatch(command_id="x", items=(ALLOCATE, second))
    assert content_digest(one) != content_digest(replace(one, items=(second, ALLOCATE)))
    assert content_digest(one) != content_digest(replace(one, atomic=True))


def test_the_claim_counts() -> None:
    one = c.Release(command_id="x", allocation="A1", claim=c.Claim("h1"))
    for claim in (c.Claim("h2"), c.Claim("h1", 5), c.Claim("h1", operator=True)):
        assert content_digest(replace(one, claim=claim)) != content_digest(one)


def test_what_was_seen_of_a_process_is_no_part_of_a_reclaim_but_its_cause_is() -> None:
    one = c.Reclaim(command_id="x", allocation="A1", claim=CLAIM, cause="forced", reason="why")
    seen = replace(
        one, evidence={"pid": 5, "at": 7}, process_alive=True, enforced=False, happened_at=9
    )
    assert content_digest(seen) == content_digest(one)
    for change in ({"cause": "idle"}, {"reason": "other"}, {"grace_ns": 5}, {"allocation": "A2"}):
        assert content_digest(replace(one, **change)) != content_digest(one)


@pytest.mark.parametrize("command", SAMPLES, ids=BY_VERB)
def test_a_field_at_its_default_is_left_out_so_that_a_new_field_changes_no_digest(
    command: c.Command,
) -> None:
    class Longer(type(command)):  # type: ignore[misc]
        """A later version of the command, with one more field, which nobody sets."""

        __slots__ = ()

    later = Longer(**{f.name: getattr(command, f.name) for f in fields(command)})
    if type(command) in (c.Allocate, c.AllocateBatch, c.Reclaim):
        # These are written out, not walked over.
        return
    assert content_digest(later) == content_digest(command)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), _JSON, max_size=4))
def test_equal_metadata_has_equal_digests_and_other_metadata_others(data: dict[str, Any]) -> None:
    try:
        one = content_digest(replace(ALLOCATE, metadata=data))
    except InvalidInput:
        # Lone surrogates have no canonical form.
        return
    assert one == content_digest(replace(ALLOCATE, metadata={**data}))
    changed = {**data, "another key": 1}
    assert one != content_digest(replace(ALLOCATE, metadata=changed))


@pytest.mark.parametrize("value", [1.5, {1}, {1: 2}, "\ud800", 2**64, object()], ids=range(6))
def test_what_has_no_canonical_form_is_bad_input(value: Any) -> None:
    with pytest.raises(InvalidInput):
        content_digest(replace(ALLOCATE, metadata={"k": value}))
    with pytest.raises(InvalidInput):
        content_digest(c.RaiseAlert(command_id="x", alert="a", message="m", details={"k": value}))
