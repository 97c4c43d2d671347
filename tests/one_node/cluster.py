"""The node with everything on it that Cartwheel's jobs need: images, operators, queues and the manifests of `overlays/local`."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pyspark

from lib.pipeline import ROOT
from tests.one_node import images, node, operators, programs
from tests.one_node.control_plane import kubectl
from tests.one_node.services import Services

TIMES = programs.CACHE / "start.json"  # how long each part of the last start took, in seconds
OVERLAY = ROOT / "conf" / "kubernetes" / "overlays" / "local"
KINDS = ("spark", "ray")


def start(show: Callable[[str], object], kinds: tuple[str, ...] = KINDS) -> None:
    """Start the node, give it the images of these kinds, and start the operators; all but the first time a minute or two.

    Raises:
        NoNodeError: this machine lacks something, or a part did not start.
    """
    node.require_machine()
    TIMES.unlink(missing_ok=True)
    timed(show, "the programs", lambda: programs.build((*programs.NODE, *programs.OPERATORS), show))
    timed(show, "the base image", lambda: images.build_base(show))
    for kind in kinds:
        timed(show, f"the image of {kind} jobs", lambda kind=kind: images.build(kind, show))
    timed(show, "the node", lambda: node.start(show, prepare=images.give_pause))
    for kind in kinds:
        timed(show, f"giving the node the image of {kind} jobs", lambda kind=kind: images.give(images.name_of(kind)))
    timed(show, "the operators", start_operators)
    kubectl("apply", "-k", str(OVERLAY))


def start_operators() -> None:
    """Start Kueue and the operators of Spark and Ray."""
    services = Services()
    operators.start_spark_operator(services, Path(pyspark.__file__).parent)
    operators.start_kuberay()
    operators.start_kueue()


def timed(show: Callable[[str], object], what: str, do: Callable[[], object]) -> None:
    """Do something, and say how long it took."""
    begun = time.monotonic()
    do()
    seconds = time.monotonic() - begun
    show(f"{what}: {seconds:.0f} s")
    taken = json.loads(TIMES.read_text()) if TIMES.is_file() else {}
    TIMES.write_text(json.dumps({**taken, what: seconds}))
