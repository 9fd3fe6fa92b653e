"""Processes as they really are: identity, liveness, usage, enclosure and ending.

In reading order: ``identity`` (which process), ``liveness`` (does it live, and how do we know),
``procfs`` (what the kernel tells), ``tree`` (a process with all that it started), ``usage``
(samples into aggregates), ``cgroup`` and ``enclosure`` (limits read and set), ``gpus``,
``ending`` (TERM, grace, KILL) and ``ports``. Nothing is imported here: an agent's hook needs
``identity`` alone and must start fast.
"""
