"""Leasebook's read side: what the log says, in the shape a question needs."""
