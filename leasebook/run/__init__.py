"""``leasebook run -- COMMAND``: Leasebook's door for whole programs. Hold while one runs, measure it.

In reading order: ``options``, ``sizing`` (how much, where nobody says), ``environment`` (how the
command learns its size), ``signals`` and ``terminal``, ``guardian`` (what ends the command when
this process is killed), ``starting``, ``measuring``, ``holding`` (the allocation, and losing it),
``watching`` (the loop), ``spool`` (what could not be recorded), ``summary``, and ``command``, the
flow. Nothing is imported here.
"""
