"""Records of what really happened elsewhere, read into facts for observed pools.

:mod:`leasebook.importers.base` says what a reader is, each format has a module of its own, and
:mod:`leasebook.importers.runner` carries what they find into a ledger.
"""
