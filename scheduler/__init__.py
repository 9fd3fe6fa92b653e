"""What runs beside the ledger: processes, sweeps, monitoring, and the scheduler of them all."""
