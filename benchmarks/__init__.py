"""Benchmarks: how fast the ledger is beside plain SQLite. A script and a table, not timed tests.

``python -m benchmarks [names…] [--quick]`` measures and writes ``docs/benchmarks.md``.
"""
