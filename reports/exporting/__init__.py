"""Exporting: the log, and tables made from it, as files for other tools.

JSON Lines (:mod:`reports.exporting.jsonl`) hold all that proves the chain; Parquet
(:mod:`reports.exporting.parquet`) is partitioned by day for DuckDB and Spark; CloudEvents
(:mod:`reports.exporting.cloudevents`) are for event routers.
"""
