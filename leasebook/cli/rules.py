"""``quota`` and ``policy``: the rules that an operator sets."""

from __future__ import annotations

from typing import Any

import click

from leasebook.cli.options import VerbGroup, amounts_in, command_id, pairs_in, session_of

quota_command = VerbGroup("quota", help="Quotas: hard limits on what is held at once.")
policy_command = VerbGroup("policy", help="Policies: settings that steer a pool's decisions.")


@quota_command.command("set")
@click.argument("limits", nargs=-1, metavar="[RESOURCE=AMOUNT]…")
@click.option("--tenant", metavar="T", default="default", show_default=True, help="The tenant.")
@click.option("--holder", metavar="H", help="This holder of it only.")
@click.option("--pool", metavar="POOL", help="In this pool only.")
@click.option("--cohort", metavar="C", help="Lend and borrow among the tenants of this cohort.")
@click.option("--lift", is_flag=True, help="Take the quota away.")
@command_id
@click.pass_context
def set_quota(ctx: click.Context, /, limits: tuple[str, ...], lift: bool, **options: Any) -> None:
    """Limit what a tenant, or one holder of it, holds at once. Replaces the limits set before."""
    session = session_of(ctx)
    if bool(limits) == lift:
        raise click.UsageError("give limits such as cpu=8, or --lift", ctx)
    with session.open() as room:
        call = room.calls.set_quota(amounts_in(limits) if limits else {}, **options)
        receipt = room.carry_out(call)
        found = [q for q in room.ask.quotas() if _is_of(q, options)]
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "replayed": receipt.replayed,
        "quota": found[0] if found else None,
    }
    session.answer(document, f"set  {_line(found[0])}" if found else "lifted")


def _is_of(quota: dict[str, Any], options: dict[str, Any]) -> bool:
    return all(quota[name] == options[name] for name in ("tenant", "holder", "pool"))


def _line(quota: dict[str, Any]) -> str:
    from leasebook.cli.text import amounts_text

    holder = f", holder {quota['holder']}" if quota["holder"] else ""
    place = f" of pool {quota['pool']}" if quota["pool"] else ""
    return f"tenant {quota['tenant']}{holder}: at most {amounts_text(quota['limits'])}{place}"


@quota_command.command("list")
@click.pass_context
def list_quotas(ctx: click.Context) -> None:
    """All quotas, and what is held of each."""
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        quotas = room.ask.quotas()
    if session.json:
        session.answer({"quotas": quotas})
        return
    from leasebook.cli.text import amounts_text, table

    rows = [
        (q["tenant"], q["holder"], q["pool"], amounts_text(q["limits"]), amounts_text(q["held"]))
        for q in quotas
    ]
    head = ("TENANT", "HOLDER", "POOL", "LIMITS", "HELD")
    print(table(head, rows) if rows else "no quotas")


@policy_command.command("set")
@click.argument("pool")
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE…")
@command_id
@click.pass_context
def set_policy(
    ctx: click.Context, pool: str, settings: tuple[str, ...], command_id: str | None
) -> None:
    """Change settings of a pool.

    Queue: order=fair|fifo, queue_limit, ageing, overtakes_max, claim_after, backfill_depth. Placing:
    strategy, rollout=STRATEGY:SHARE% (or none). Tenure: max_age (or none), max_priority,
    preemption=never|lower_priority, grace, duplicates=allow|report|refuse|answer. Budgets:
    refill=reset|add, refill_every, refill_amounts, refill_from.

    A duplicate that was answered leaves no event: its command id is free again once the first has ended.
    """
    session = session_of(ctx)
    with session.open() as room:
        call = room.calls.set_policy(pool, pairs_in("policy", settings), command_id=command_id)
        receipt = room.carry_out(call)
        policy = room.ask.pool(pool)["policy"]
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "replayed": receipt.replayed,
        "pool": pool,
        "policy": policy,
    }
    session.answer(document, f"set  {pool}: {_settings(policy)}")


def _settings(policy: dict[str, Any]) -> str:
    return " ".join(f"{k}={'none' if v is None else v}" for k, v in policy.items())


@policy_command.command("show")
@click.argument("pool")
@click.pass_context
def show_policy(ctx: click.Context, pool: str) -> None:
    """The settings of a pool."""
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        policy = room.ask.pool(pool)["policy"]
    session.answer({"pool": pool, "policy": policy}, _settings(policy))
