"""``simulate``: a trace, decided by the ledger's own rules in memory. It needs no ledger."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import pairs_in, session_of, verb
from leasebook.cli.text import span_text, table

if TYPE_CHECKING:
    from ledger.requests import NodeSpec
    from reports.simulate.arrivals import Outcome
    from reports.simulate.traces import Arrival

ARRIVALS_SHOWN = ("random", "best_fit", "fragmentation_aware")
LEVELS = (50, 80, 90, 100, 110, 120, 130)
ONLY_FOR = {
    "openb": ("nodes",),
    "csv": ("node", "columns"),
    "--arrivals-only": ("inflate", "seeds", "ignore_models"),
    "lifetimes": ("speedup", "wait", "order"),
}
"""Which options mean something only for a format, or for one of the two ways to simulate."""


@verb("simulate")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["openb", "csv"]),
    default="openb",
    show_default=True,
    help="The trace's format.",
)
@click.option("--nodes", metavar="FILE", help="openb: the file of nodes.")
@click.option("--pods", "trace", required=True, metavar="FILE", help="The trace: what is asked.")
@click.option("--map", "columns", metavar="WHAT=COLUMN,…", help="csv: which column is what.")
@click.option("--node", multiple=True, metavar="[N*]RES=AMOUNT,…", help="csv: a node, or N alike.")
@click.option(
    "--strategy", multiple=True, metavar="S", help="Place by it; give several to compare."
)
@click.option("--nodes-first", type=click.IntRange(1), metavar="N", help="Only the first N nodes.")
@click.option("--cut", type=float, metavar="SHARE", help="Only this share of the nodes, evenly.")
@click.option("--speedup", type=float, metavar="F", help="Arrivals come F times as fast.")
@click.option("--wait", metavar="DURATION", help="Wait at most so long (0: not at all).")
@click.option("--order", type=click.Choice(["fair", "fifo"]), help="How the queue is served.")
@click.option("--arrivals-only", is_flag=True, help="Nothing leaves, nothing waits.")
@click.option("--inflate", type=float, default=1.3, show_default=True, help="Demand of capacity.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Orders of arrival.",
)
@click.option("--ignore-models", is_flag=True, help="Usual shapes are told apart by amounts alone.")
@click.pass_context
def simulate_command(ctx: click.Context, /, **given: Any) -> None:
    """Decide a trace by the ledger's own rules: what is granted, how long who waits, what is used.

    With lifetimes, requests come, wait, hold and leave at their times. With --arrivals-only they only
    come, in a shuffled order for each seed, until demand is --inflate times the cards there are.
    """
    from ledger.errors import InvalidInput

    session = session_of(ctx)
    _check_options(ctx, given)
    try:
        nodes, trace = _read(given)
        way = _arrivals if given["arrivals_only"] else _lifetimes
        document, text = way(given, nodes, trace)
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(str(error), "see `leasebook simulate --help`") from None
    session.answer(document, text)


def _check_options(ctx: click.Context, given: dict[str, Any]) -> None:
    """Raises InvalidInput, or UsageError, for options that make no sense, or none together."""
    from click.core import ParameterSource

    from ledger.errors import InvalidInput
    from ledger.policy import STRATEGIES

    names = given["strategy"]
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        raise InvalidInput(
            f"there is no strategy {unknown[0]!r}", f"there are {', '.join(STRATEGIES)}"
        )
    twice = [name for name in STRATEGIES if names.count(name) > 1]
    if twice:
        raise InvalidInput(f"--strategy {twice[0]} is given twice", "name each strategy once")
    mode = "--arrivals-only" if given["arrivals_only"] else "lifetimes"
    flags = {param.name: param.opts[0] for param in ctx.command.params}
    for where, options in ONLY_FOR.items():
        stray = [o for o in options if ctx.get_parameter_source(o) is not ParameterSource.DEFAULT]
        if stray and where not in (given["format_"], mode):
            kind = "the format" if where in ("openb", "csv") else "a simulation with"
            raise click.UsageError(f"{flags[stray[0]]} is only for {kind} {where}", ctx)
    if given["format_"] == "openb" and given["nodes"] is None:
        raise click.UsageError("the openb format needs --nodes FILE", ctx)
    if given["format_"] == "csv" and not (given["node"] and given["columns"]):
        raise click.UsageError("the csv format needs --node and --map", ctx)
    if given["nodes"] == given["trace"] == "-":
        raise click.UsageError("only one file can be standard input", ctx)


def _read(given: dict[str, Any]) -> tuple[list[NodeSpec], list[Arrival]]:
    """The nodes that are left to simulate with, and the trace."""
    from reports.simulate.jobs import cut
    from reports.simulate.openb import read_nodes, read_pods
    from reports.simulate.table_trace import read_table

    path = Path(given["trace"])
    if given["format_"] == "openb":
        nodes = read_nodes(Path(given["nodes"]))
        trace = read_pods(path)
    else:
        nodes = _nodes_in(given["node"])
        trace = read_table(path, pairs_in("--map", given["columns"].split(",")))
        _check_resources(nodes, trace)
    if not trace:
        raise ValueError(f"{path.name} asks for nothing: it has a head and no line")
    if given["nodes_first"] is not None:
        nodes = nodes[: given["nodes_first"]]
    if given["cut"] is not None:
        nodes = cut(nodes, given["cut"])
    if not nodes:
        raise ValueError("there is no node to simulate with")
    return nodes, trace


def _check_resources(nodes: Iterable[NodeSpec], trace: Iterable[Arrival]) -> None:
    """Raises InvalidInput where a trace asks for what no node has, such as a misspelt column."""
    from ledger.errors import InvalidInput

    there = {resource for spec in nodes for resource in spec.capacity}
    for arrival in trace:
        for resource in arrival.request.amounts:
            if resource not in there:
                raise InvalidInput(
                    f"the trace asks for {resource}, and no node has any",
                    "give it to a --node, or leave it out of --map",
                )


def _nodes_in(given: Iterable[str]) -> list[NodeSpec]:
    """``4*cpu=8,memory=32GiB`` → four nodes. Raises InvalidInput."""
    from ledger.amounts import parse_pairs
    from ledger.errors import InvalidInput
    from ledger.requests import NodeSpec

    nodes: list[NodeSpec] = []
    for text in given:
        count, star, amounts = text.partition("*")
        if not star:
            count, amounts = "1", text
        if not (count.isascii() and count.isdigit() and 0 < int(count) <= 100_000):
            raise InvalidInput(f"--node {text[:40]!r} is no node", "write --node 4*cpu=8")
        capacity = parse_pairs(amounts.split(","))
        for _ in range(int(count)):
            nodes.append(NodeSpec(f"n{len(nodes) + 1:05}", capacity))
    return nodes


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


# --- arrivals only -------------------------------------------------------------------------------


def _arrivals(
    given: dict[str, Any], nodes: list[NodeSpec], trace: list[Arrival]
) -> tuple[dict[str, Any], str]:
    from reports.simulate.arrivals import experiment, never_fitting

    names = given["strategy"] or ARRIVALS_SHOWN
    inflate = given["inflate"]
    if not 0 < inflate <= 100:
        raise ValueError("--inflate takes a number above 0 and up to 100")
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    models = not given["ignore_models"]
    for outcome in experiment(nodes, trace, names, range(given["seeds"]), inflate, models=models):
        found[outcome.strategy].append(outcome)
        _tell(f"seed {outcome.seed}: {outcome.strategy}")
    _tell("")
    last = round(100 * inflate)
    levels = [level for level in LEVELS if level <= last]
    if last not in levels:
        levels.append(last)
    document = {
        "mode": "arrivals",
        "nodes": len(nodes),
        "requests": len(trace),
        "never_fitting": never_fitting(nodes, trace),
        "inflate": inflate,
        "seeds": given["seeds"],
        "models": models,
        "rows": [
            _level(name, level, outcomes) for name, outcomes in found.items() for level in levels
        ],
        "courses": [
            {"strategy": o.strategy, "seed": o.seed, "arrivals": o.arrivals, "granted": o.granted}
            for outcomes in found.values()
            for o in outcomes
        ],
    }
    return document, _arrivals_text(document)


def _level(name: str, level: int, outcomes: list[Outcome]) -> dict[str, Any]:
    def figures(values: Sequence[float]) -> dict[str, float | None]:
        return {
            "mean": round(fmean(values), 4),
            "sd": round(stdev(values), 4) if len(values) > 1 else None,
            "min": round(min(values), 4),
            "max": round(max(values), 4),
        }

    allocated, fragmented = zip(*(outcome.stood(level) for outcome in outcomes), strict=True)
    return {
        "strategy": name,
        "arrived": level,
        "allocated": figures(allocated),
        "fragmented": figures(fragmented),
    }


def _arrivals_text(document: dict[str, Any]) -> str:
    shown = [
        (
            row["strategy"],
            f"{row['arrived']} %",
            f"{row['allocated']['mean']:.2f} %",
            "-" if row["allocated"]["sd"] is None else f"{row['allocated']['sd']:.2f}",
            f"{row['allocated']['min']:.2f} – {row['allocated']['max']:.2f}",
            f"{row['fragmented']['mean']:.2f} %",
        )
        for row in document["rows"]
    ]
    head = ("STRATEGY", "DEMAND", "ALLOCATED", "SD", "RANGE", "FRAGMENTED")
    nodes, seeds = _number(document["nodes"], "node"), _number(document["seeds"], "seed")
    lines = [f"{nodes}, arrivals only, {seeds}; percent of all cards", table(head, shown)]
    if document["never_fitting"]:
        of = f"{document['never_fitting']} of {_number(document['requests'], 'request')}"
        lines.append(f"{of} in the trace fit on no node, even when it is empty")
    return "\n".join(lines)


# --- with lifetimes ------------------------------------------------------------------------------


def _lifetimes(
    given: dict[str, Any], nodes: list[NodeSpec], trace: list[Arrival]
) -> tuple[dict[str, Any], str]:
    from ledger.amounts import parse_duration_ns
    from reports.simulate.jobs import hastened, jobs_of
    from reports.simulate.lifetimes import Simulation

    jobs, assumed = jobs_of(trace)
    if not jobs:
        raise ValueError("there is nothing to simulate: no request has a time of arrival")
    if given["speedup"] is not None:
        jobs = hastened(jobs, given["speedup"])
    wait = given["wait"]
    wait_ns = None if wait is None else parse_duration_ns(wait, allow_zero=True)
    policy = {} if given["order"] is None else {"order": given["order"]}
    courses = []
    for name in given["strategy"] or ("fragmentation_aware",):
        simulation = Simulation(nodes, jobs, name, wait_ns=wait_ns, policy=policy)
        courses.append(
            simulation.run(lambda number, name=name: _tell(f"{name}: {number} of {len(jobs)}"))  # type: ignore[misc]
        )
        _tell("")
    document = {
        "mode": "lifetimes",
        "nodes": len(nodes),
        "requests": len(jobs),
        "without_a_time": assumed.without_a_time,
        "without_an_end": assumed.without_an_end,
        "never_ran": assumed.never_ran,
        "never_ran_held_s": None if assumed.typical_ns is None else assumed.typical_ns / 10**9,
        "rows": [course.to_json() for course in courses],
    }
    return document, _lifetimes_text(document)


def _lifetimes_text(document: dict[str, Any]) -> str:
    rows = document["rows"]
    nodes, requests = _number(document["nodes"], "node"), _number(document["requests"], "request")
    lines = [
        f"{nodes}, {requests} with {'its lifetime' if document['requests'] == 1 else 'their lifetimes'}"
    ]
    facts: list[tuple[str, list[str]]] = [
        ("granted", [str(r["granted"]) for r in rows]),
        ("waited first", [str(r["waited"]) for r in rows]),
        ("refused", [str(sum(r["refused"].values())) for r in rows]),
    ]
    for reason in sorted({reason for r in rows for reason in r["refused"]}):
        facts.append((f"  {reason}", [str(r["refused"].get(reason, 0)) for r in rows]))
    facts += [
        ("timed out", [str(r["timed_out"]) for r in rows]),
        ("waiting at the end", [str(r["waiting_at_end"]) for r in rows]),
        ("  longest by then", [_span(r["waiting_s_max"]) for r in rows]),
        ("wait, mean", [_span(r["wait_s_mean"]) for r in rows]),
        ("wait, median", [_span(r["wait_s_median"]) for r in rows]),
        ("wait, 95 %", [_span(r["wait_s_p95"]) for r in rows]),
        ("wait, longest", [_span(r["wait_s_max"]) for r in rows]),
    ]
    for resource in rows[0]["utilization"]:
        shares = [f"{100 * r['utilization'][resource]:.1f} %" for r in rows]
        facts.append((f"{resource} in use", shares))
    known = [[s["fragmented"] for s in r["series"] if s["fragmented"] is not None] for r in rows]
    if all(known):
        facts.append(("cards fragmented", [f"{100 * fmean(each):.1f} %" for each in known]))
    head = ("", *(r["strategy"] for r in rows))
    lines.append(table(head, [(name, *values) for name, values in facts]))
    return "\n".join([*lines, *_assumed(document)])


def _assumed(document: dict[str, Any]) -> list[str]:
    """What the figures leave out or take for granted, a line each."""
    lines = []
    if any(r["waiting_at_end"] for r in document["rows"]):
        lines.append("waits are of what was granted; what still waits at the end is not among them")
    if n := document["without_a_time"]:
        lines.append(f"requests have no time of arrival and are left out: {n}")
    if n := document["never_ran"]:
        held = document["never_ran_held_s"]
        long = (
            "as long as they were there" if held is None else f"{_span(held)}, the others' median"
        )
        lines.append(f"requests never ran in the trace and are taken to hold for {long}: {n}")
    if n := document["without_an_end"]:
        lines.append(f"requests have no end and hold to the end: {n}")
    return lines


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else span_text(seconds)
