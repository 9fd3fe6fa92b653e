"""Whose port is this: best effort, and None rather than a guess."""

from __future__ import annotations

import socket

from ledger.identity import ProcessIdentity
from scheduler.processes.identity import identify
from scheduler.processes.procfs import psutil_module


def port_owner(port: int) -> ProcessIdentity | None:
    """Who listens on TCP ``port`` of this machine, or else has UDP ``port`` bound.

    None when nobody does, or when the owner is hidden: other users' sockets are shown to root
    only, and another network namespace's to nobody here.
    """
    psutil = psutil_module()
    try:
        connections = psutil.net_connections(kind="inet")
    except psutil.Error:
        return None
    except OSError:
        return None
    tcp, udp = [], []
    for connection in connections:
        if connection.pid is None or not connection.laddr or connection.laddr.port != port:
            continue
        if connection.status == psutil.CONN_LISTEN:
            tcp.append(connection.pid)
        elif connection.type == socket.SOCK_DGRAM:
            udp.append(connection.pid)
    for pid in sorted(tcp) + sorted(udp):
        try:
            return identify(pid)
        except ProcessLookupError:
            continue
    return None
