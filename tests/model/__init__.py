"""An independent model of the ledger's rules, to hold the real ones against.

It is written from the design alone, with lists and loops and no index, so that whoever reads it can
see that it is right. It shares no code with :mod:`ledger` but the shapes of commands and events.
"""
