"""Which file system a path lies on, and whether a ledger may live there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ledger.errors import LedgerUnavailable

MOUNTS = Path("/proc/self/mountinfo")

_NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncp",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "wekafs",
    }
)
_NETWORK_FUSE = frozenset(
    {
        "afp",
        "blobfuse",
        "blobfuse2",
        "ceph",
        "ceph-fuse",
        "curlftpfs",
        "davfs",
        "davfs2",
        "gcsfuse",
        "glusterfs",
        "goofys",
        "juicefs",
        "moosefs",
        "mount-s3",
        "rclone",
        "s3fs",
        "seaweedfs",
        "smbnetfs",
        "sshfs",
    }
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def kind_of(path: Path) -> str:
    """The type of the file system that a path lies on (``ext4``, ``nfs4``, ``fuse.sshfs``).

    The path need not exist yet. Empty where the system does not tell (no ``/proc``).
    """
    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    return kind_in(table, os.path.realpath(path))


def kind_in(table: str, path: str) -> str:
    """As :func:`kind_of`, for an absolute path and the text of a ``mountinfo`` table.

    The longest mount point wins, and of several on one point the last, which covers the others
    (proc(5), "mountinfo").
    """
    kind, length = "", -1
    for line in table.splitlines():
        fields, separator, rest = line.partition(" - ")
        columns = fields.split(" ")
        if not separator or len(columns) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), columns[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= length:
            kind, length = rest.split(" ", 1)[0], len(point)
    return kind


def is_network(kind: str) -> bool:
    """Whether a type of file system is shared between machines, or served over a network."""
    if kind.startswith("fuse."):
        return kind[5:] in _NETWORK_FUSE
    return kind in _NETWORK


def require_local(path: Path) -> None:
    """Refuse a path where locks and shared memory between processes cannot be relied on.

    Raises: :class:`~ledger.errors.LedgerUnavailable`.
    """
    kind = kind_of(path)
    if is_network(kind):
        raise LedgerUnavailable(
            f"{path} lies on a network file system ({kind}), where locks between machines are not"
            " reliable and a ledger can be damaged",
            "put the ledger on a local disk, and let other machines reach it through"
            " `leasebook serve`",
        )
