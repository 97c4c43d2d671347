"""How long things took on the cluster: noted by the tests, and shown as the page docs/kubernetes.md (`make test-k8s`)."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from lib.pipeline import ROOT
from tests.machine import machine
from tests.one_node.cluster import TIMES
from tests.one_node.programs import CACHE

FILE = CACHE / "times.json"
LIVE = """The live parts, by `cartwheel submit stream --on kubernetes` and `cartwheel submit serve --on kubernetes` ([live.md](live.md)), were not run as pods yet.
Tested are their objects before the API server with the operators' kinds (tests/on_kubernetes/test_live.py); the server's application, which Ray Serve's own
controller builds from the RayService's text alone, and which answers behind HAProxy (tests/lib/kubernetes/test_serve_config.py); and the
stream's driver under the image's entrypoint, which a SIGTERM ends in order, with a real Kafka (tests/lib/kubernetes/test_image.py)."""
PAGE = ROOT / "docs" / "kubernetes.md"


@dataclass
class Run:
    """A job's run on the cluster: moments in seconds since 1970."""

    job: str
    way: str
    submitted: float
    ended: float
    first_task: float | None = None  # of Spark
    executors: int = 0  # that Spark had, one after another too
    what: str = ""  # what befell it


@dataclass
class Times:
    """What was noted of one session."""

    runs: list[Run] = field(default_factory=list)

    def note(self, run: Run, filesystem: pafs.FileSystem, events: str) -> Run:
        """Keep a run, with what Spark's event logs in a folder tell of it."""
        told = list(events_since(filesystem, events, run.submitted))
        launched = [
            each["Task Info"]["Launch Time"] / 1000 for each in told if each["Event"] == "SparkListenerTaskStart"
        ]
        run.first_task = min(launched, default=None)
        run.executors = sum(each["Event"] == "SparkListenerExecutorAdded" for each in told)
        self.runs.append(run)
        return run

    def write(self) -> None:
        """Keep it for the page, in place of what earlier sessions noted of the same runs."""
        earlier = [Run(**run) for run in json.loads(FILE.read_text())] if FILE.is_file() else []
        latest = {(run.job, run.way, run.what): run for run in (*earlier, *self.runs)}
        FILE.write_text(json.dumps([asdict(run) for run in latest.values()], indent=1))


def events_since(filesystem: pafs.FileSystem, folder: str, since: float) -> Iterator[dict[str, Any]]:
    """The events of the Spark applications that wrote their log after a moment."""
    for log in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True)):
        if log.is_file and log.size and log.mtime_ns / 1e9 >= since:
            yield from read_events(filesystem, log.path)


def read_events(filesystem: pafs.FileSystem, path: str) -> Iterator[dict[str, Any]]:
    """The events of one file."""
    with filesystem.open_input_stream(path) as stream:
        content = (pa.CompressedInputStream(stream, "zstd") if ".zstd" in path else stream).read()
    yield from map(json.loads, content.decode().splitlines())


def page(runs: Sequence[Run]) -> str:
    """The page of what was noted."""
    parts = [f"| {what} | {seconds:.0f} |" for what, seconds in json.loads(TIMES.read_text()).items()]
    return "\n".join(
        [
            "# On a real Kubernetes",
            "",
            "Written by `make test-k8s` on one node, which holds the control plane, the operators and the object store too: "
            f"{machine()}. A small market (600 users) and two executors or workers a job, so that most of the time is start.",
            "",
            "| start of the cluster | seconds |",
            "|---|---|",
            *parts,
            "",
            "| job | by | what befell it | submitted to first task, s | to its end, s | executors |",
            "|---|---|---|---|---|---|",
            *map(line_of, runs),
            "",
            LIVE,
            "",
        ]
    )


def line_of(run: Run) -> str:
    """A run's line in the table."""
    first = f"{run.first_task - run.submitted:.0f}" if run.first_task else ""
    cells = (run.job, run.way, run.what, first, f"{run.ended - run.submitted:.0f}", run.executors or "")
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Write the page."""
    PAGE.write_text(page([Run(**run) for run in json.loads(FILE.read_text())]))
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
