"""`python -m tests.one_node start|status|stop`: a real Kubernetes of one node on this machine, without Docker (`make cluster`)."""

import argparse
import os
import sys

from tests.one_node import cluster, node
from tests.one_node.control_plane import kubeconfig
from tests.one_node.programs import NoNodeError


def main() -> int:
    """Start, look at or stop the node; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.one_node", description=__doc__)
    parser.add_argument("what", choices=("start", "status", "stop"))
    parser.add_argument(
        "--images", nargs="*", choices=cluster.KINDS, default=cluster.KINDS, help="jobs that it can run"
    )
    options = parser.parse_args()
    try:
        if options.what == "start":
            cluster.start(_say, tuple(options.images))
            _say(f"ready; export KUBECONFIG={kubeconfig('admin')}")
        elif options.what == "status":
            print(node.status())
        else:
            node.stop()
    except (NoNodeError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    return 0


def _say(line: str) -> None:
    print(f"cluster        {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
