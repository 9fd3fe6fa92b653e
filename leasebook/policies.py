"""A pool's policy between people's words and the book's settings; one mapping for every door.

Outside, durations end in nothing on the way in (``grace=30s``) and in ``_s`` on the way out, and a
roll-out is ``rollout=best_fit:10%``. Inside they are nanoseconds and thousandths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger.amounts import format_amounts, format_duration_s, parse_amounts, parse_duration_ns
from ledger.errors import InvalidInput
from ledger.policy import Policy

_DURATIONS = {
    "max_age": "max_age_ns",
    "ageing": "ageing_ns",
    "claim_after": "claim_after_ns",
    "grace": "grace_ns",
    "refill_every": "refill_every_ns",
}
_NUMBERS = ("queue_limit", "overtakes_max", "backfill_depth")
_WORDS = (
    "order",
    "strategy",
    "max_priority",
    "preemption",
    "duplicates",
    "probe",
    "probe_host",
    "refill",
)
NAMES = (*_WORDS, *_NUMBERS, *_DURATIONS, "rollout", "refill_amounts", "refill_from")
"""Every setting that can be given, by the name it is given under."""


def _is_none(value: Any) -> bool:
    return value is None or value == "none"


def policy_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """The book's settings for what was said. Raises InvalidInput for what cannot be read.

    A ``probe`` without a ``probe_host`` looks at this machine.
    Whether the settings suit each other is for the rules to say (:func:`ledger.policy.complaint`).
    """
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name in _DURATIONS:
            zero = name in ("grace", "claim_after")
            settings[_DURATIONS[name]] = (
                None if _is_none(value) else parse_duration_ns(value, allow_zero=zero)
            )
        elif name in _NUMBERS:
            settings[name] = _whole(name, value)
        elif name == "rollout":
            settings |= _rollout(value)
        elif name == "refill_amounts":
            settings[name] = None if _is_none(value) else dict(parse_amounts(_pairs(value)))
        elif name == "refill_from":
            settings[name] = None if _is_none(value) else _time(value)
        elif name == "probe":
            settings[name] = "none" if _is_none(value) else value
        elif name in _WORDS:
            settings[name] = None if _is_none(value) else value
        else:
            raise InvalidInput(
                f"there is no policy setting {str(name)[:40]!r}",
                f"there are {', '.join(sorted(NAMES))}",
            )
    if settings.get("probe", "none") != "none" and settings.get("probe_host") is None:
        from scheduler.processes.identity import this_host

        settings["probe_host"] = this_host()
    return settings


def _whole(name: str, value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInput(f"{name} takes a whole number, not {text[:40]!r}", "such as 100")
    return int(text)


def _pairs(value: Any) -> Mapping[str, Any]:
    """A mapping as it is; ``tokens:5k,calls:10`` as a mapping."""
    if isinstance(value, Mapping):
        return value
    pairs = [part.partition(":") for part in str(value).split(",")]
    return {resource: amount for resource, _, amount in pairs}


def _rollout(value: Any) -> dict[str, Any]:
    if _is_none(value):
        return {"rollout_strategy": None, "rollout_permille": 0}
    strategy, _, share = str(value).partition(":")
    percent = share.removesuffix("%")
    whole, _, tenth = percent.partition(".")
    if not share.endswith("%") or not whole.isdigit() or len(whole) > 3 or len(tenth) > 1:
        raise InvalidInput(
            f"{str(value)[:40]!r} is not a roll-out", "write rollout=best_fit:10%, or none"
        )
    if tenth and not tenth.isdigit():
        raise InvalidInput(f"{share!r} is not a share", "write such as 10% or 2.5%")
    return {
        "rollout_strategy": strategy,
        "rollout_permille": int(whole) * 10 + int(tenth or 0),
    }


def _time(value: Any) -> int:
    from leasebook.when import parse_when

    kind, when = parse_when(str(value), 0)
    if kind != "time":
        raise InvalidInput(f"{value!r} is not a time to count from", "write 2026-11-22T00:00:00Z")
    return when


def policy_out(policy: Policy) -> dict[str, Any]:
    """A policy as every door shows it."""
    from leasebook.when import rfc3339

    out: dict[str, Any] = {name: getattr(policy, name) for name in (*_WORDS, *_NUMBERS)}
    for name, inside in _DURATIONS.items():
        ns = getattr(policy, inside)
        out[f"{name}_s"] = None if ns is None else format_duration_s(ns)
    out["rollout"] = (
        None
        if policy.rollout_strategy is None
        else f"{policy.rollout_strategy}:{policy.rollout_permille / 10:g}%"
    )
    amounts = policy.refill_amounts
    out["refill_amounts"] = None if amounts is None else format_amounts(amounts)
    out["refill_from"] = rfc3339(policy.refill_from)
    return out
