"""Leasebook's write side: facts, rules, and the log.

Reading order, room by room; nothing imports what stands later.

Values: errors, quick, identity, amounts, times, requests, policy, nodes, mix, line, spaces.
Facts and intentions: events, commands.
The book and what facts do to it: book, advance, accounts, evolve.
How facts are stored: log, canonical, chain, codec, content, garbage, fold, fields.
The rules, in ``rules``. What they share: answers, validity. Pools: pools, budgets. Where a request
lands: capacity, resizing, fragmentation, tables, gradients, strategies, placement, packing. Who may:
quotas, access, duplicates, leases. Why not: estimates, explain. The queue: elastic, granting, keeping,
gangs, claims, cycles, prospects, preemption, clearing, waiting. The commands: adjusting, admission,
batching, tenure. What happened elsewhere: history, notices,
inventories, facts.
Deciding: decide, step, receipts.
Locks: locks, gate, forks.
The stores: batches, memory_log; sqlite_driver, sqlite_schema, filesystem, sqlite_file,
held_file, sqlite_connections, sqlite_log.
The writer: snapshots, clock, wake, group, work, writer.
Proof and care: proving, verify, notes, backup, upgrade.
"""
