"""What others use of this machine without asking the ledger, looked up without changing anything.

In reading order: ``finding`` (what a look gives), ``holders`` (whose processes are whose), ``memory``,
``load`` and ``cards`` (what a host has), ``host`` (the three together), ``ports``, and ``lookout``
(when to look, and what is worth recording). The book changes by the event alone. Nothing is imported
here: who asks a pool without a probe pays nothing for this.
"""
