"""``simulate``: a trace, decided by the ledger's own rules in memory. It needs no ledger."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import session_of, verb
from leasebook.cli.text import span_text, table

if TYPE_CHECKING:
    from ledger.requests import NodeSpec
    from reports.simulate.lifetimes import Job
    from reports.simulate.openb import Arrival

ARRIVALS_SHOWN = ("random", "best_fit", "fragmentation_aware")
LEVELS = (50, 80, 90, 100, 110, 120, 130)


@verb("simulate")
@click.option("--format", "format_", type=click.Choice(["openb", "csv"]), default="openb")
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
@click.option("--seeds", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.pass_context
def simulate_command(ctx: click.Context, /, **given: Any) -> None:
    """Decide a trace by the ledger's own rules: what is granted, how long who waits, what is used.

    With lifetimes, requests come, wait, hold and leave at their times. With --arrivals-only they only
    come, in a shuffled order for each seed, until demand is --inflate times the cards there are.
    """
    from ledger.errors import InvalidInput
    from ledger.policy import STRATEGIES

    session = session_of(ctx)
    unknown = [name for name in given["strategy"] if name not in STRATEGIES]
    if unknown:
        raise InvalidInput(
            f"there is no strategy {unknown[0]!r}", f"there are {', '.join(STRATEGIES)}"
        )
    try:
        nodes, trace, jobs, timeless = _read(given, ctx)
        if given["arrivals_only"]:
            document, text = _arrivals(given, nodes, trace)
        else:
            document, text = _lifetimes(given, nodes, jobs, timeless)
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no file {error.filename}", "give its path") from None
    except UnicodeDecodeError:
        raise InvalidInput("the trace is not UTF-8 text", "is it compressed?") from None
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(str(error), "see `leasebook simulate --help`") from None
    session.answer(document, text)


def _read(
    given: dict[str, Any], ctx: click.Context
) -> tuple[list[NodeSpec], list[Arrival], list[Job], int]:
    """The nodes, the trace for an order of arrival, its jobs, and how many of them have no time."""
    from leasebook.cli.options import pairs_in
    from reports.simulate.lifetimes import cut, hastened, jobs_of
    from reports.simulate.openb import Arrival, read_nodes, read_pods
    from reports.simulate.table_trace import read_table

    if given["format_"] == "openb":
        if given["nodes"] is None:
            raise click.UsageError("the openb format needs --nodes FILE", ctx)
        nodes = read_nodes(Path(given["nodes"]))
        trace = read_pods(Path(given["trace"]))
        jobs, timeless = jobs_of(trace)
    else:
        if not given["node"] or not given["columns"]:
            raise click.UsageError("the csv format needs --node and --map", ctx)
        nodes = _nodes_in(given["node"])
        jobs, timeless = (
            read_table(Path(given["trace"]), pairs_in("--map", given["columns"].split(","))),
            0,
        )
        trace = [Arrival(job.name, job.request, job.arrived_s) for job in jobs]
    if given["nodes_first"] is not None:
        nodes = nodes[: given["nodes_first"]]
    if given["cut"] is not None:
        nodes = cut(nodes, given["cut"])
    if given["speedup"] is not None:
        jobs = hastened(jobs, given["speedup"])
    return nodes, trace, jobs, timeless


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
    from reports.simulate.arrivals import Outcome, experiment

    names = given["strategy"] or ARRIVALS_SHOWN
    inflate = given["inflate"]
    if not 0 < inflate <= 100:
        raise ValueError("--inflate takes a number above 0 and up to 100")
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for outcome in experiment(nodes, trace, names, range(given["seeds"]), inflate):
        found[outcome.strategy].append(outcome)
        _tell(f"seed {outcome.seed}: {outcome.strategy}")
    _tell("")
    last = round(100 * inflate)
    levels = [level for level in LEVELS if level <= last]
    if last not in levels:
        levels.append(last)
    rows = []
    for name, outcomes in found.items():
        for level in levels:
            moments = [m for o in outcomes if (m := o.at(level)) is not None]
            if moments:
                allocated = [m.allocated for m in moments]
                fragmented = [m.fragmented for m in moments]
                rows.append(_level(name, level, allocated, fragmented))
    document = {
        "mode": "arrivals",
        "nodes": len(nodes),
        "requests": len(trace),
        "inflate": inflate,
        "seeds": given["seeds"],
        "rows": rows,
    }
    shown = [
        (
            row["strategy"],
            f"{row['arrived']} %",
            f"{row['allocated']['mean']:.2f} %",
            f"{row['allocated']['sd']:.2f}",
            f"{row['allocated']['min']:.2f} – {row['allocated']['max']:.2f}",
            f"{row['fragmented']['mean']:.2f} %",
        )
        for row in rows
    ]
    head = ("STRATEGY", "DEMAND", "ALLOCATED", "SD", "RANGE", "FRAGMENTED")
    title = f"{len(nodes)} nodes, arrivals only, {given['seeds']} seeds; percent of all cards"
    return document, f"{title}\n{table(head, shown)}"


def _level(
    name: str, level: int, allocated: list[float], fragmented: list[float]
) -> dict[str, Any]:
    def figures(values: list[float]) -> dict[str, float]:
        return {
            "mean": round(fmean(values), 4),
            "sd": round(stdev(values), 4) if len(values) > 1 else 0.0,
            "min": round(min(values), 4),
            "max": round(max(values), 4),
        }

    return {
        "strategy": name,
        "arrived": level,
        "allocated": figures(allocated),
        "fragmented": figures(fragmented),
    }


# --- with lifetimes ------------------------------------------------------------------------------


def _lifetimes(
    given: dict[str, Any], nodes: list[NodeSpec], jobs: list[Job], timeless: int
) -> tuple[dict[str, Any], str]:
    from ledger.amounts import parse_duration_ns
    from reports.simulate.lifetimes import Simulation

    if not nodes or not jobs:
        raise ValueError("there is nothing to simulate: no node, or no request with a time")
    wait = given["wait"]
    wait_s = None if wait is None else parse_duration_ns(wait, allow_zero=True) // 10**9
    policy = {} if given["order"] is None else {"order": given["order"]}
    courses = []
    for name in given["strategy"] or ("fragmentation_aware",):
        simulation = Simulation(nodes, jobs, name, wait_s=wait_s, policy=policy)
        courses.append(
            simulation.run(lambda number, name=name: _tell(f"{name}: {number} of {len(jobs)}"))  # type: ignore[misc]
        )
        _tell("")
    rows = [course.to_json() for course in courses]
    document = {
        "mode": "lifetimes",
        "nodes": len(nodes),
        "requests": len(jobs),
        "without_a_time": timeless,
        "rows": rows,
    }
    return document, _lifetimes_text(document)


def _lifetimes_text(document: dict[str, Any]) -> str:
    rows = document["rows"]
    lines = [f"{document['nodes']} nodes, {document['requests']} requests with their lifetimes"]
    facts: list[tuple[str, list[str]]] = [
        ("granted", [str(r["granted"]) for r in rows]),
        ("waited first", [str(r["waited"]) for r in rows]),
        ("refused", [str(sum(r["refused"].values())) for r in rows]),
        ("timed out", [str(r["timed_out"]) for r in rows]),
        ("waiting at the end", [str(r["waiting_at_end"]) for r in rows]),
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
    if document["without_a_time"]:
        lines.append(f"{document['without_a_time']} requests have no time of arrival; left out")
    return "\n".join(lines)


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else span_text(seconds)
