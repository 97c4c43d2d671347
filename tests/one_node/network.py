"""The node's network: a namespace of its own, joined to the machine by one pair of interfaces.

What the node changes in tables of packet filters and routes is inside the namespace and goes with it.
"""

import subprocess
from collections.abc import Sequence
from typing import IO

NAMESPACE, INTERFACE = "cartwheel-node", "cartwheel0"
MACHINE_IP, NODE_IP = "10.222.0.1", "10.222.0.2"
PODS, SERVICES = "10.244.0.0/16", "10.96.0.0/16"


def start() -> None:
    """Make the namespace and the machine's routes to the pods and services in it."""
    _ip("netns", "add", NAMESPACE)
    _ip("link", "add", INTERFACE, "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
    _ip("address", "add", f"{MACHINE_IP}/30", "dev", INTERFACE)
    _ip("link", "set", INTERFACE, "up")
    for command in (
        ("ip", "link", "set", "lo", "up"),
        ("ip", "address", "add", f"{NODE_IP}/30", "dev", "eth0"),
        ("ip", "link", "set", "eth0", "up"),
        ("ip", "route", "add", "default", "via", MACHINE_IP),
        ("sysctl", "-qw", "net.ipv4.ip_forward=1"),
    ):
        run(inside(command))
    for addresses in (PODS, SERVICES):
        _ip("route", "add", addresses, "via", NODE_IP)


def stop() -> None:
    """Remove the interfaces, the routes and the namespace, as far as they exist."""
    for command in (("ip", "link", "delete", INTERFACE), ("ip", "netns", "delete", NAMESPACE)):
        subprocess.run(command, check=False, capture_output=True)


def inside(command: Sequence[str]) -> list[str]:
    """A command as it runs in the node's network; `ip netns exec` would hide the control groups from it."""
    return ["nsenter", f"--net=/run/netns/{NAMESPACE}", "--", *command]


def _ip(*arguments: str) -> None:
    run(["ip", *arguments])


def run(command: Sequence[str], *, given: str | IO[bytes] | None = None) -> str:
    """What a command says, that is given a text or an open file.

    Raises:
        RuntimeError: it failed.
    """
    source = {"input": given} if isinstance(given, str) else {"stdin": given}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, **source)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout
