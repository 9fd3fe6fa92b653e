"""``pool``: open, list, show, resize, cordon, uncordon and close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.failures import MISSING, Failure
from leasebook.cli.nodes import checked, host_amounts, nodes_in, read_nodes
from leasebook.cli.options import VerbGroup, amounts_in, command_id, pairs_in, session_of
from leasebook.cli.session import Session
from ledger.errors import InvalidInput

if TYPE_CHECKING:
    from ledger.requests import NodeSpec

pool_command = VerbGroup("pool", help="Pools: named capacities made of nodes.")


@pool_command.command("open")
@click.argument("name")
@click.argument("amounts", nargs=-1, metavar="[RESOURCE=AMOUNT]…")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NAME:RESOURCE=AMOUNT,…",
    help="A node, as n1:cpu=64,gpu=2,label:model=T4, or many, as 3100..3199:port=1.",
)
@click.option(
    "--nodes",
    "file",
    metavar="FILE.csv",
    help="A table of nodes: columns name, one per resource, and label:NAME.",
)
@click.option(
    "--host",
    is_flag=True,
    help="The size of this machine, 10 % kept free; amounts given replace its own. What others use"
    " of it is not handed out (off with --policy probe=none).",
)
@click.option(
    "--label", multiple=True, metavar="NAME=VALUE", help="A label of the pool's one node."
)
@click.option("--observed", is_flag=True, help="Only record what happens elsewhere.")
@click.option("--policy", multiple=True, metavar="NAME=VALUE", help="As in `leasebook policy set`.")
@click.option("--consumable", is_flag=True, help="A budget: what is consumed is gone.")
@click.option("--every", metavar="TIME", help="With --consumable: how often it is refilled.")
@click.option("--refill", metavar="reset|add", help="Refill by reset (default) or by adding.")
@click.option("--add", multiple=True, metavar="RESOURCE=AMOUNT", help="What --refill add adds.")
@command_id
@click.pass_context
def open_(
    ctx: click.Context,
    /,
    name: str,
    amounts: tuple[str, ...],
    nodes: tuple[str, ...],
    file: str | None,
    host: bool,
    label: tuple[str, ...],
    observed: bool,
    policy: tuple[str, ...],
    consumable: bool,
    every: str | None,
    refill: str | None,
    add: tuple[str, ...],
    command_id: str | None,
) -> None:
    """Open pool NAME, and the ledger where there is none yet.

    Give amounts for one node of the pool's name, or nodes.
    """
    session = session_of(ctx)
    if (every or refill or add) and not consumable:
        raise click.UsageError("--every, --refill and --add go with --consumable", ctx)
    if (refill or add) and not every:
        raise click.UsageError("--refill and --add go with --every", ctx)
    if (nodes or file) and (amounts or host or label):
        raise click.UsageError("give amounts (or --host) or nodes, not both", ctx)
    many = nodes_in(nodes)
    if file:
        read_nodes(file, many)
    basis = ""
    if not (nodes or file):
        size, basis = host_amounts() if host else ({}, "")
        given = amounts_in(amounts) if amounts or not host else {}
        many.add(name, {**size, **given}, pairs_in("--label", label))
    specs = checked(name, many)
    settings: dict[str, Any] = dict(pairs_in("--policy", policy))
    if "probe" not in settings and not (observed or consumable):
        settings |= _probe_for(specs, host)
    if every:
        settings |= {"refill": refill or ("add" if add else "reset"), "refill_every": every}
    if add:
        settings["refill_amounts"] = amounts_in(add)
    with session.open(create=True) as room:
        call = room.calls.open_pool(
            name,
            nodes=specs,
            kind="observed" if observed else "managed",
            consumable=consumable,
            policy=settings,
            basis=basis,
            command_id=command_id,
        )
        receipt = room.carry_out(call)
        _answer(session, room.ask.pool(name), "opened", receipt, basis)
        if not session.json:
            session.note(f"the ledger is {room.ledger.path}")


def _probe_for(specs: list[NodeSpec], host: bool) -> dict[str, str]:
    """What is looked at where nobody says: this machine for what it is sized by, and ports."""
    from scheduler.probes.ports import is_port

    if host:
        return {"probe": "host"}
    ports = all(is_port(spec.name, spec.capacity) for spec in specs)
    return {"probe": "ports"} if ports else {}


def _answer(session: Session, pool: dict[str, Any], said: str, receipt: Any, basis: str) -> None:
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "replayed": receipt.replayed,
        "pool": pool,
    }
    if basis:
        document["basis"] = basis
    if session.json:
        session.answer(document)
        return
    print(f"{said}  {_line(pool)}" + (f" ({basis})" if basis else ""))


def _line(pool: dict[str, Any]) -> str:
    from leasebook.cli.text import amounts_text

    count = pool["nodes_count"]
    nodes = "" if count == 1 else f" on {count} nodes"
    return f"{pool['name']}  {amounts_text(pool['capacity'])}{nodes}"


@pool_command.command("list")
@click.pass_context
def list_(ctx: click.Context) -> None:
    """All pools: what they have, what is free, who waits."""
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        pools = room.ask.pools()
    if session.json:
        session.answer({"pools": pools})
        return
    from leasebook.cli.text import amounts_text, table

    head = ("POOL", "CAPACITY", "IN USE", "FREE", "NODES", "WAITING", "")
    rows = [
        (
            p["name"],
            amounts_text(p["capacity"]),
            # What an observed pool holds is no part of the book, but of history.
            *(
                "?" if p["kind"] == "observed" else amounts_text(p[what])
                for what in ("in_use", "free")
            ),
            p["nodes_count"],
            p["waiting"],
            _remarks(p) or " ",
        )
        for p in pools
    ]
    print(table(head, rows) if rows else "no pools yet: `leasebook pool open NAME cpu=8` opens one")


def _remarks(pool: dict[str, Any]) -> str:
    words = [] if pool["kind"] == "managed" else ["observed (its use: `leasebook at now`)"]
    return ", ".join(words + (["closed"] if pool["closed"] else []))


@pool_command.command("show")
@click.argument("name")
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """One pool with its nodes."""
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        pool = room.ask.pool(name)
    if session.json:
        session.answer(pool)
        return
    from leasebook.cli.text import amounts_text, facts_text, table

    policy = {k: v for k, v in pool["policy"].items() if v is not None}
    facts = [
        ("pool", pool["name"]),
        ("kind", _remarks(pool) or pool["kind"]),
        *((what.replace("_", " "), amounts_text(pool[what])) for what in _SIZES),
        ("waiting", pool["waiting"]),
        ("policy", " ".join(f"{k}={v}" for k, v in policy.items())),
    ]
    print(facts_text(facts), end="\n\n")
    rows = [
        (
            n["name"],
            *(amounts_text(n[what]) for what in _SIZES),
            " ".join(f"{k}={v}" for k, v in n["labels"].items()),
            "cordoned" if n["cordoned"] else " ",
        )
        for n in pool["nodes"]
    ]
    print(table(("NODE", "CAPACITY", "IN USE", "FREE", "LABELS", ""), rows))


_SIZES = ("capacity", "in_use", "free")


@pool_command.command("resize")
@click.argument("name")
@click.argument("amounts", nargs=-1, metavar="[RESOURCE=AMOUNT]…")
@click.option(
    "--node", "nodes", multiple=True, metavar="NAME:RESOURCE=AMOUNT,…", help="Of this node."
)
@command_id
@click.pass_context
def resize(
    ctx: click.Context,
    name: str,
    amounts: tuple[str, ...],
    nodes: tuple[str, ...],
    command_id: str | None,
) -> None:
    """Give a pool's node another capacity. What is not named stays as it is."""
    session = session_of(ctx)
    if bool(amounts) == bool(nodes):
        raise click.UsageError("give amounts for the pool's one node, or --node for others", ctx)
    with session.open() as room:
        many = nodes_in(nodes)
        if many.labels:
            raise InvalidInput("a resize changes no labels", "leave label: out")
        call = room.calls.resize_pool(
            name,
            capacity=amounts_in(amounts) if amounts else None,
            nodes=many.capacity or None,
            command_id=command_id,
        )
        receipt = room.carry_out(call)
        _answer(session, room.ask.pool(name), "resized", receipt, "")


def _cordon(ctx: click.Context, node: str, pool: str | None, **options: Any) -> None:
    session = session_of(ctx)
    with session.open() as room:
        if pool is None:
            pool = room.ledger.writer.read(lambda book, now: _pool_with(book, node))
        receipt = room.carry_out(room.calls.cordon(pool, node, **options))
        document = {
            "outcome": receipt.outcome,
            "positions": list(receipt.positions),
            "replayed": receipt.replayed,
            "pool": pool,
            "node": node,
        }
        session.answer(document, f"{receipt.outcome.removeprefix('node_')}  {node} of {pool}")


def _pool_with(book: Any, node: str) -> str:
    """The one open pool that has a node of this name. Raises Failure where there is none, and
    InvalidInput where there are several."""
    names = [p.name for p in book.pools.values() if not p.closed and node in p.space.nodes]
    if len(names) == 1:
        return str(names[0])
    if not names:
        said = f"no open pool has a node {node[:40]!r}"
        raise Failure("no_such_node", said, "see `leasebook pool list`", MISSING)
    raise InvalidInput(
        f"{len(names)} pools have a node {node!r}: {', '.join(sorted(names)[:5])}",
        "say which with --pool",
    )


@pool_command.command("cordon")
@click.argument("node")
@click.option("--pool", metavar="POOL", help="Where several pools have a node of this name.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the record.")
@command_id
@click.pass_context
def cordon(ctx: click.Context, /, node: str, pool: str | None, **options: Any) -> None:
    """Let nothing new land on a node; what is there stays, and may shrink, but not grow."""
    _cordon(ctx, node, pool, **options)


@pool_command.command("uncordon")
@click.argument("node")
@click.option("--pool", metavar="POOL", help="Where several pools have a node of this name.")
@command_id
@click.pass_context
def uncordon(ctx: click.Context, /, node: str, pool: str | None, **options: Any) -> None:
    """Let a node take allocations again."""
    _cordon(ctx, node, pool, cordoned=False, **options)


@pool_command.command("close")
@click.argument("name")
@command_id
@click.pass_context
def close(ctx: click.Context, name: str, command_id: str | None) -> None:
    """Grant nothing more from a pool; what is held may be held to its end."""
    session = session_of(ctx)
    with session.open() as room:
        receipt = room.carry_out(room.calls.close_pool(name, command_id=command_id))
        _answer(session, room.ask.pool(name), "closed", receipt, "")
