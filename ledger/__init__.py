"""Leasebook's write side: facts, rules, and the log.

Reading order: amounts, requests, events, commands; book, evolve; the rules, decide, step; receipts;
the log and its stores, chain, notes, fields, snapshots; clock, gate, wake; the writer.
"""
