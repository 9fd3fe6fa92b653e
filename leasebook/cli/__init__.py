"""The command line of Leasebook: a door like any other, so it translates and holds no rules.

In reading order: ``session`` (which ledger, and how to answer), ``failures`` (errors and exit
codes), ``text`` (answers for people), ``options`` (what several verbs take), ``app`` (the program
and its verbs, each imported when it is called), then the verbs themselves, and ``reference``, which
writes ``docs/cli.md``.
"""
