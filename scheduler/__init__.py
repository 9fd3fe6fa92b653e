"""What runs beside Leasebook's ledger: processes, sweeps, monitoring, and their scheduler."""
