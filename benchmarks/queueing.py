"""A release that frees room for one, while 10,000 requests wait: processor time of that one step."""

from __future__ import annotations

from statistics import median
from time import process_time

from benchmarks.bench import Bench
from benchmarks.table import Result
from ledger.book import Book
from ledger.commands import Allocate, Claim, OpenLedger, OpenPool, Release
from ledger.requests import NodeSpec, Request
from ledger.step import take_step

TARGET_MS = 2.0
DAY_NS = 86_400 * 1_000_000_000
NODES, CORES = 4, 64
PRIORITIES = ("low", "normal", "high")


def _crowd(waiting: int, holders: int, tenants: int) -> tuple[Book, list[str], int]:
    """A full pool, what is held in it, and a queue of many shapes, holders, tenants, priorities."""
    book, now = Book(), 1_000_000_000
    take_step(book, OpenLedger(command_id="o", ledger_id="bench"), now)
    nodes = tuple(NodeSpec(f"n{i}", {"cpu": CORES * 1000}) for i in range(NODES))
    policy = {"overtakes_max": 10_000, "claim_after_ns": 2**61}
    now += 1
    take_step(book, OpenPool(command_id="p", pool="box", nodes=nodes, policy=policy), now)
    held = []
    for number in range(NODES * CORES + waiting):
        now += 1_000_000
        full = number >= NODES * CORES
        cores = 1 + number % 16 if full else 1
        step = take_step(
            book,
            Allocate(
                command_id=f"a{number}",
                tenant=f"t{number % tenants}",
                pool="box",
                holder=f"h{number % holders}",
                request=Request(
                    {"cpu": cores * 1000},
                    priority=PRIORITIES[number % 3],
                    ttl_ns=DAY_NS,
                    wait_ns=DAY_NS if full else None,
                ),
            ),
            now,
        )
        if not full:
            allocation = step.own[0].allocation
            assert allocation is not None
            held.append(allocation)
    return book, held, now


def queue(bench: Bench) -> list[Result]:
    """Many holders, and few: the line is looked through in another way for each."""
    waiting = 1_000 if bench.quick else 10_000
    results = []
    for holders, tenants in ((10_000, 50), (100, 5), (1, 1)):
        book, held, now = _crowd(waiting, holders, tenants)
        took = []
        for number, allocation in enumerate(held[:100]):
            now += 1_000
            release = Release(
                command_id=f"r{number}",
                tenant=book.allocations[allocation].tenant,
                allocation=allocation,
                claim=Claim("bench", operator=True),
            )
            begun = process_time()
            take_step(book, release, now)
            took.append((process_time() - begun) * 1e3)
        results.append(
            Result(
                f"a release, {waiting:,} waiting of {holders:,} holders",
                "processor time",
                median(took),
                TARGET_MS,
                at_most=True,
                unit="ms",
            )
        )
    return results
