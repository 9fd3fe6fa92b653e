"""Leasebook's reports: efficiency and audit, rendered for people and machines."""
