"""Whether a TCP address can be listened on, and who has it if not. Used by `serve` before weights are loaded, and by
`doctor`.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

_LISTEN = "0A"  # state column of /proc/net/tcp


def check_address(host: str, port: int) -> None:
    """Binds `host:port` for a moment. Raises OSError with a text that names the cause; errno EADDRINUSE for a port in
    use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"host '{host}' cannot be resolved: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise OSError(error.errno, _cause(host, port, error)) from None


def port_owner(port: int) -> int | None:
    """The process that listens on `port`, or None when that cannot be seen."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening_inodes(table, port)}
    if not inodes:
        return None
    for directory in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(entry) in inodes for entry in directory.iterdir()):
                return int(directory.parent.name)
        except OSError:
            continue
    return None


def _listening_inodes(table: str, port: int) -> list[str]:
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _cause(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port)
        return f"port {port} is in use" + (f" by process {owner}" if owner else "") + "; choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one above 1023 with --port"
    return f"cannot listen on {host}:{port}: {error.strerror}"
