"""``whatif``: the record decided again under other settings. Nothing is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.failures import UNPROVEN
from leasebook.cli.options import session_of, verb
from leasebook.cli.text import span_text, table

if TYPE_CHECKING:
    from reports.whatif import Answer, Changes

FATES_SHOWN = 20


@verb("whatif")
@click.option("--since", metavar="WHEN", help="From this time or position on; else from the start.")
@click.option("--until", metavar="WHEN", help="Up to this time, or before this position.")
@click.option("--pool", metavar="POOL", help="Change this pool only; else every managed one.")
@click.option("--strategy", metavar="S", help="Place by this strategy.")
@click.option("--order", type=click.Choice(["fair", "fifo"]), help="Serve the queue in this order.")
@click.option("--policy", multiple=True, metavar="KEY=VALUE", help="Another policy setting.")
@click.option(
    "--size", multiple=True, metavar="[POOL:]NODE:RES=AMOUNT", help="Another size of a node."
)
@click.option(
    "--nodes", type=int, metavar="±N", help="So many nodes more, like the last; or fewer."
)
@click.option(
    "--quota", multiple=True, metavar="TENANT:RES=AMOUNT,…", help="A tenant's quota; empty: none."
)
@click.option("--ttl", metavar="DURATION", help="The ttl of every request that has one.")
@click.option(
    "--all-requests", is_flag=True, help="--strategy also for requests that name one of their own."
)
@click.pass_context
def whatif_command(ctx: click.Context, /, **given: Any) -> int:
    """What would have been under another policy, size or quota: the record, decided again.

    Without any change the record must come out again exactly: exit code 6 and the first difference where
    it does not. Nothing is written.
    """
    from leasebook.when import rfc3339
    from projections.past import Past
    from reports.whatif import ask

    session = session_of(ctx)
    with session.open(read_only=True) as room:
        writer = room.ledger.writer
        past = Past(writer.log, writer.snapshots)
        now, _ = room.ask.now_and_position()
        since, upto = _window(past, given["since"], given["until"], now)
        changes = _changes(given)
        answer = ask(past, changes, since, upto, _progress("what-if", rfc3339))
    document = {"changes": _changes_out(given), **answer.to_json()}
    document["since"] = rfc3339(document.pop("since_ns"))
    document["until"] = rfc3339(document.pop("until_ns"))
    session.answer(document, None if session.json else _text(answer, document, bool(changes)))
    return UNPROVEN if not changes and not answer.exact else 0


def _window(past: Any, since: str | None, until: str | None, now: int) -> tuple[int, int | None]:
    """The first and the last position that are meant."""
    from leasebook.when import parse_when
    from ledger.errors import InvalidInput

    first, last = 0, None
    if since is not None:
        kind, value = parse_when(since, now)
        first = value if kind == "position" else past.position_at(value - 1) + 1
    if until is not None:
        kind, value = parse_when(until, now)
        last = max(0, value - 1) if kind == "position" else past.position_at(value)
    if since is not None and last is not None and last + 1 < first:
        raise InvalidInput("this window ends before it begins", "swap --since and --until")
    return first, last


def _changes(given: dict[str, Any]) -> Changes:
    from leasebook.cli.options import pairs_in
    from leasebook.policies import policy_in
    from ledger.amounts import parse_duration_ns
    from ledger.errors import InvalidInput
    from reports.whatif import Changes

    policy: dict[str, Any] = policy_in(pairs_in("--policy", given["policy"]))
    for name in ("strategy", "order"):
        if given[name] is not None and name in policy:
            raise InvalidInput(
                f"--{name} and --policy {name}=… say the same thing", "give one of them"
            )
    if given["all_requests"] and given["strategy"] is None and "strategy" not in policy:
        raise InvalidInput("--all-requests goes with a --strategy", "name one, or leave it out")
    if given["strategy"] is not None:
        policy |= {"strategy": given["strategy"], "rollout_strategy": None, "rollout_permille": 0}
    if given["order"] is not None:
        policy["order"] = given["order"]
    return Changes(
        pool=given["pool"],
        policy=policy,
        sizes=_sizes(given["size"], given["pool"]),
        nodes=given["nodes"] or 0,
        quotas=_quotas(given["quota"]),
        ttl_ns=None if given["ttl"] is None else parse_duration_ns(given["ttl"]),
        keep_strategies=not given["all_requests"],
    )


def _sizes(given: Iterable[str], pool: str | None) -> dict[tuple[str, str], dict[str, int]]:
    """``gpus:n1:gpu=4`` → (pool, node) → capacity. Raises InvalidInput."""
    from ledger.amounts import parse_pairs
    from ledger.errors import InvalidInput

    found: dict[tuple[str, str], dict[str, int]] = {}
    for text in given:
        place, equals, _ = text.partition("=")
        where, colon, resource = place.rpartition(":")
        name, _, node = where.rpartition(":")
        name = name or pool or node
        if not (equals and colon and node and resource):
            raise InvalidInput(f"--size {text[:60]!r} is no size", "write --size POOL:NODE:cpu=8")
        amounts = parse_pairs([text[len(where) + 1 :]], allow_zero=True)
        there = found.setdefault((name, node), {})
        if resource in there:
            raise InvalidInput(f"--size gives {resource} of {where} twice", "give each size once")
        there.update(amounts)
    return found


def _quotas(given: Iterable[str]) -> dict[str, dict[str, int]]:
    """``team:cpu=8,gpu=1`` → tenant → limits. Raises InvalidInput."""
    from ledger.amounts import check_name, parse_pairs
    from ledger.errors import InvalidInput

    found: dict[str, dict[str, int]] = {}
    for text in given:
        tenant, colon, limits = text.partition(":")
        if not tenant or not colon:
            raise InvalidInput(f"--quota {text[:60]!r} is no quota", "write --quota TENANT:cpu=8")
        check_name("tenant", tenant)
        if tenant in found:
            raise InvalidInput(
                f"--quota gives {tenant!r} twice", f"write --quota {tenant}:cpu=8,gpu=1"
            )
        pairs = [pair for pair in limits.split(",") if pair]
        found[tenant] = parse_pairs(pairs, allow_zero=True) if pairs else {}
    return found


def _changes_out(given: dict[str, Any]) -> dict[str, Any]:
    """The changes as they were given."""
    kept = {key: value for key, value in given.items() if value not in (None, (), False)}
    for name in ("since", "until"):
        kept.pop(name, None)
    return {key: list(v) if isinstance(v, tuple) else v for key, v in kept.items()}


def _progress(what: str, shown: Any) -> Any:
    """A line on stderr that says how far it is, where somebody is looking."""
    if not sys.stderr.isatty():
        return None

    def tell(value: Any) -> None:
        print(f"\r{what}: {shown(value)}  ", end="", file=sys.stderr, flush=True)

    return tell


_ROWS = (
    ("requests", "asked"),
    ("granted", "granted"),
    ("of these after a wait, or waiting", "waited"),
    ("refused", "refused"),
    ("timed out in the queue", "timed_out"),
    ("withdrawn", "withdrawn"),
    ("still waiting", "still_waiting"),
    ("leases expired", "expired"),
    ("preempted", "preempted"),
)
_WAITS = (
    ("wait, median", "wait_s_median"),
    ("wait, 95 %", "wait_s_p95"),
    ("longest", "wait_s_max"),
)


def _text(answer: Answer, document: dict[str, Any], changed: bool) -> str:
    from projections.wording import many

    lines = [f"events {answer.begins} to {answer.ends}, decided again"]
    if answer.exact:
        came = f"all {answer.same} events come" if answer.same > 1 else "this one event comes"
        same = f"{came} out exactly as recorded"
        lines.append(same + ("; the changes make no difference" if changed else ""))
        return "\n".join(lines)
    if answer.parted_at is None:
        lines.append("everyone fares as recorded; only what is written about it differs")
    else:
        lines.append(f"fates part at event {answer.parted_at}")
    first = document["first_difference"]
    lines.append(f"  recorded:  {first['recorded'] or 'nothing'}")
    lines.append(f"  simulated: {first['simulated'] or 'nothing'}")
    if first["recorded"] == first["simulated"]:
        lines.append(f"  which differ in {', '.join(first['differs_in'])}")
    lines += ["", _figures(document), ""]
    if document["fates"]:
        lines.append(f"{many(document['differing'], 'request fares', 'requests fare')} otherwise:")
        lines.append(_fates(document["fates"][:FATES_SHOWN]))
        if document["differing"] > FATES_SHOWN:
            more = document["differing"] - FATES_SHOWN
            upto = len(document["fates"])
            listed = "them" if upto == document["differing"] else f"the first {upto:,}"
            lines.append(f"… {more:,} more; --json lists {listed}")
    if document["assumptions"]:
        lines += ["", "assumed:", *(f"- {each}" for each in document["assumptions"])]
    return "\n".join(lines)


def _figures(document: dict[str, Any]) -> str:
    before, after = document["recorded"], document["simulated"]
    rows: list[tuple[str, Any, Any]] = [(name, before[key], after[key]) for name, key in _ROWS]
    rows += [(name, _span(before[key]), _span(after[key])) for name, key in _WAITS]
    pools = {**before["utilization"], **after["utilization"]}
    for pool in sorted(pools):
        for resource in sorted(pools[pool]):
            row = [
                _share(side["utilization"].get(pool, {}).get(resource)) for side in (before, after)
            ]
            rows.append((f"{resource} of {pool} in use", row[0], row[1]))
    for pool in sorted({*before["unmet"], *after["unmet"]}):
        shown = [_pairs(side["unmet"].get(pool, {})) for side in (before, after)]
        rows.append((f"never granted of {pool}", shown[0], shown[1]))
    return table(("", "recorded", "simulated"), rows)


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else span_text(seconds)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _pairs(amounts: dict[str, str]) -> str:
    return " ".join(f"{resource}={amount}" for resource, amount in amounts.items()) or "-"


def _fates(fates: list[dict[str, Any]]) -> str:
    rows = [
        (
            each["id"],
            each["holder"],
            each["task"],
            _fate(each["recorded"]),
            _fate(each["simulated"]) if each["simulated"] else "not asked",
        )
        for each in fates
    ]
    return table(("request", "holder", "task", "recorded", "simulated"), rows)


def _fate(fate: dict[str, Any]) -> str:
    parts = [] if fate["wait_s"] is None else [f"after {span_text(fate['wait_s'])}"]
    if fate["wait_s"] is not None:
        parts.append(f"on {','.join(fate['nodes'][:3])}")
    if fate["held_s"] is not None:
        parts.append(f"for {span_text(fate['held_s'])}")
    return ", ".join([*parts, fate["state"]])
