"""The vocabulary of events: names of fields, and texts that say what happened and never to whom.

Pseudonyms leave these alone and replace every other text. The names of fields are taken from the
classes of events; what stands in their open parts (facts, evidence, details) is listed.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final, get_args

from ledger import commands, policy
from ledger.advance import LEDGER
from ledger.book import Allocation
from ledger.errors import Reason
from ledger.events import AnyBody, Cause
from ledger.identity import ProcessIdentity
from ledger.requests import PRIORITIES, NodeSpec, Placement, Request
from ledger.rules.history import IMPORT, UNKNOWN

_VALUES: Final = (Request, Placement, NodeSpec, ProcessIdentity, Allocation, Cause)
_VERBS: Final = {
    c.VERB for c in vars(commands).values() if isinstance(getattr(c, "VERB", None), str)
}

OURS: Final = frozenset({LEDGER, IMPORT, UNKNOWN, "sweep"})
"""Who stands as a holder where nobody in particular is meant."""

_STATES: Final = ("managed", "observed", "waiting", "reserved", "active", "ending", "ended", "open")
_ENDS: Final = (
    *("released", "expired", "crashed", "leaked", "idle", "preempted", "forced", "withdrawn"),
    *("timed_out", "voided", "succeeded", "failed", "cancelled", "completed", "ttl", "max_age"),
)
_SEEN: Final = (
    *("alive", "dead", "gone", "unknown", "running", "reused", "zombie", "hidden", "slept"),
    *("boot_id", "host", "pid_namespace", "start_time"),
)
"""How a process was judged, and what settled it."""
_MEASURED: Final = (
    *("pss", "rss", "uss", "cgroup", "nvml", "proc", "swf"),
    *("sacct TotalCPU", "sacct MaxRSS x NTasks"),
)
_SENTENCES: Final = (
    *("moved", "stretched", "shrunk to make room", "its grace is over"),
    *("released after it was asked to end", "its grace is over; it has no process"),
    *("the machine was suspended", "a jump of the wall clock was accepted"),
    "another record of it says otherwise",
    "when it began is not in the record: it held at this time already",
)
"""What the ledger itself gives as a reason."""

WORDS: Final = frozenset(
    {
        *(reason.value for reason in Reason),
        *(*PRIORITIES, *policy.ORDERS, *policy.STRATEGIES, *policy.PREEMPTIONS, *policy.DUPLICATES),
        *(*policy.REFILLS, *policy.PROBES, *_VERBS),
        *(*_STATES, *_ENDS, *_SEEN, *_MEASURED, *_SENTENCES),
    }
)
"""Texts that say what happened and never to whom."""

KIND_OF: Final = {
    **dict.fromkeys(
        ("holder", "by", "from_holder", "with_holders", "who", "released_by"), "holder"
    ),
    **{name: name for name in ("tenant", "task", "command", "alert", "cohort", "program")},
    **dict.fromkeys(("host", "probe_host"), "host"),
    **dict.fromkeys(("boot_id", "pid_namespace"), "machine"),
    **dict.fromkeys(("digest", "metadata_sha256"), "digest"),
    **dict.fromkeys(("node", "claim"), "node"),
    "command_id": "command",
    "pool": "pool",
    "sticky": "sticky",
}
"""Field → what kind of name it holds; text in any other field is ``text``."""

FACTS: Final = frozenset(
    {"requested_at", "granted_at", "granted_before", "ended_at", "ended_by", "holder", "task"}
    | {"amounts", "placements"}
)
"""What a correction may tell of (see :mod:`ledger.rules.history` and :mod:`leasebook.amending`)."""
EVIDENCE: Final = frozenset(
    {"pid", "start_time", "boot_id", "pid_namespace", "host", "liveness", "how", "detail"}
    | {"observed_at", "booted_at", "deadline", "terminated", "killed", "left", "released_by"}
    | {"parent", "parent_ended_at", "grace_until", "preempted_by", "corrects"}
)
"""What an ending may rest on."""
DETAILS: Final = frozenset(
    {
        "jump_ns",
        "had_come_to",
        "first",
        "second",
        "tenant",
        "holder",
        "task",
        "program",
        "why",
        "outcome",
    }
    | {"exit_code", "began_at", "started_at", "ended_at", "pool", "used", "peak", "basis"}
)
"""What an alert may tell besides its message."""

KEYS: Final = frozenset(
    {f.name for cls in (*get_args(AnyBody), *_VALUES) for f in fields(cls)}
    | policy.SETTINGS
    | KIND_OF.keys()
    | FACTS
    | EVIDENCE
    | DETAILS
    | {"expires_at", "allocation", "at", "in_use", "cards_in_use", "cordoned", "outside_basis"}
)
"""Names of fields, which are kept as keys; any other key is replaced."""

RESOURCES: Final = frozenset(
    {
        *("amounts", "most", "previous", "in_use", "cards_in_use", "capacity", "limits", "used"),
        *("peak", "consumed", "available", "overdraft", "outside", "fits_now", "refill_amounts"),
        "devices",
    }
)
"""Fields that map resources to numbers."""

SAID: Final = frozenset(("reason", "message", "hint", "why", "outcome"))
"""Fields for words of people's own: what looks like an id there may be anything else as well."""
