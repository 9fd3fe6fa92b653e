"""Leasebook's simulations: a trace of requests, decided by the ledger's own rules."""
