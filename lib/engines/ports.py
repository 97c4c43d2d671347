"""Ports of this machine for servers that are started on it."""

import socket
from collections.abc import Sequence


def free_ports(number: int) -> Sequence[int]:
    """So many ports that nothing listens on, each another."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
