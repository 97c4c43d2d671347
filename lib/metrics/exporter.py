"""A lake's metrics as Prometheus reads them: `cartwheel metrics`. No value of the log stands in a label.

Names and units are Prometheus' own conventions; what may fall (a run's state changes, a record is accepted after all) is a gauge.
A job is `job_name`, for Prometheus' own label `job` is what it scrapes.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lib.lake.lake import Lake
from lib.metrics.reading import JobFacts, LakeReader, TableFacts
from lib.runs.errors import SettingError
from lib.runs.logs import job_logger

STATES = ("running", "done", "failed", "skipped", "abandoned")
Sample = tuple[tuple[str, ...], float | None]
TABLE_METRICS: tuple[tuple[str, str, Callable[[TableFacts], float | None]], ...] = (
    ("version", "Latest version of a table.", lambda table: table.version),
    ("rows", "Rows of a table.", lambda table: table.rows),
    ("bytes", "Bytes of the files of a table's latest version.", lambda table: table.bytes),
    ("files", "Files of a table's latest version.", lambda table: table.files),
    ("last_commit_timestamp_seconds", "When data were committed to a table last.", lambda table: table.committed_at),
    ("newest_event_timestamp_seconds", "The newest event that a table holds.", lambda table: table.newest_event),
)
JOB_METRICS: tuple[tuple[str, str, Callable[[JobFacts], float | None]], ...] = (
    ("start_timestamp_seconds", "When a job's last run began.", lambda job: _seconds(job.last["started_at"])),
    ("end_timestamp_seconds", "When a job's last run that has ended ended, however.",
     lambda job: _seconds(job.ended["finished_at"]) if job.ended else None),
    ("success_timestamp_seconds", "When a job's last run that was done ended.",
     lambda job: _seconds(job.done["finished_at"]) if job.done else None),
    ("seconds", "Wall time of a job's last run that was done.", lambda job: job.done["seconds"] if job.done else None),
    ("rows", "Rows that a job's last run that was done wrote.", lambda job: job.done["rows"] if job.done else None),
    ("input_rows", "Rows of the tables that a job's last run read, at the versions that it read.",
     lambda job: job.input_rows),
    ("input_files", "Files of the log that a job's last run read.", lambda job: len(job.last["input_files"])),
)  # fmt: skip

DRIFT_COUNTS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], bool]], ...] = (
    ("measures", "Measures of drift since the release that serves.", lambda row: True),
    ("drifted_measures", "Of these, those that have drifted.", lambda row: row["is_drifted"]),
)
DRIFT_METRICS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float | None]], ...] = (
    ("psi", "Population stability index of a measure since the release.", lambda row: row["psi"]),
    ("distance", "Kolmogorov and Smirnov's distance of a measure, of categories the total variation distance.",
     lambda row: row["statistic"] if row["kind"] != "reward" else None),
    ("reward_rate", "Rate of a reward of impressions since the release.",
     lambda row: row["now"] if row["kind"] == "reward" else None),
    ("reward_rate_before", "The same before the release.",
     lambda row: row["reference"] if row["kind"] == "reward" else None),
)  # fmt: skip


class LakeCollector(Collector):
    """Reads the lake whenever Prometheus asks, one request at a time."""

    def __init__(self, lake: Lake) -> None:
        self._reader = LakeReader(lake)
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            yield from self._metrics()

    def _metrics(self) -> Iterator[Metric]:
        reader, began = self._reader, time.monotonic()
        try:
            reader.read()
        except (ValueError, OSError) as error:
            self._tell({f"{reader.lake.path}: {error}"})
            yield _gauge("cartwheel_lake_up", "Whether the lake could be listed.", (), [((), 0)])
            return
        self._tell({f"{table}: {why}" for table, why in reader.unreadable.items()})
        yield _gauge("cartwheel_lake_up", "Whether the lake could be listed.", (), [((), 1)])
        seconds = time.monotonic() - began
        yield _gauge("cartwheel_lake_read_seconds", "How long it took to read the lake now.", (), [((), seconds)])
        yield from self._of_tables()
        yield from self._of_jobs()
        yield from self._of_drift()
        yield _gauge(
            "cartwheel_refused_records",
            "Refused records and files that bronze/rejects holds.",
            ("stage", "source", "reason"),
            reader.refused.items(),
        )

    def _of_tables(self) -> Iterator[Metric]:
        reader = self._reader
        up = {**dict.fromkeys(reader.tables, 1), **dict.fromkeys(reader.unreadable, 0)}
        meaning = "Whether a table could be read."
        yield _gauge("cartwheel_table_up", meaning, ("table",), (((table,), is_up) for table, is_up in up.items()))
        for name, meaning, value in TABLE_METRICS:
            samples = (((table,), value(facts)) for table, facts in reader.tables.items())
            yield _gauge(f"cartwheel_table_{name}", meaning, ("table",), samples)

    def _of_jobs(self) -> Iterator[Metric]:
        jobs = self._reader.jobs
        for name, meaning, value in JOB_METRICS:
            samples = (((job,), value(facts)) for job, facts in jobs.items())
            yield _gauge(f"cartwheel_run_{name}", meaning, ("job_name",), samples)
        by_state = [(job, state, facts) for job, facts in jobs.items() for state in STATES]
        yield _gauge(
            "cartwheel_run_state",
            "1 for the state of a job's last run, 0 for the others.",
            ("job_name", "state"),
            (((job, state), facts.last["status"] == state) for job, state, facts in by_state),
        )
        yield _gauge(
            "cartwheel_runs",
            "Runs of a job by state.",
            ("job_name", "state"),
            (((job, state), facts.num_by_state.get(state, 0)) for job, state, facts in by_state),
        )

    def _of_drift(self) -> Iterator[Metric]:
        """A policy's name is a value of the log, so that of rewards by policy it is only counted how many drifted."""
        rows = self._reader.drift
        kinds = sorted({row["kind"] for row in rows})
        for name, meaning, count in DRIFT_COUNTS:
            of_kinds = (((kind,), sum(count(row) for row in rows if row["kind"] == kind)) for kind in kinds)
            yield _gauge(f"cartwheel_drift_{name}", meaning, ("kind",), of_kinds)
        told = [row for row in rows if row["kind"] != "reward" or "/" not in row["name"]]
        for name, meaning, value in DRIFT_METRICS:
            samples = (((row["kind"], row["name"]), value(row)) for row in told)
            yield _gauge(f"cartwheel_drift_{name}", meaning, ("kind", "name"), samples)
        yield _gauge(
            "cartwheel_drift_as_of_timestamp_seconds",
            "Up to when the measures of drift used the log.",
            (),
            [((), _seconds(rows[0]["as_of"]))] if rows else [],
        )

    def _tell(self, troubles: set[str]) -> None:
        """Say each trouble once."""
        for trouble in sorted(troubles - self._told):
            job_logger("metrics").warning("cannot read %s", trouble)
        self._told = troubles


def text(lake: Lake) -> str:
    """The metrics of a lake now, in Prometheus' text format; what cannot be read is said to standard error."""
    with redirect_stdout(sys.stderr):
        return generate_latest(_registry(lake)).decode()


def serve(lake: Lake, address: str, port: int) -> threading.Thread:
    """Answer at `http://address:port/metrics` in the thread that is returned, from when the lake was read once.

    Raises:
        SettingError: the port is not free, or the address is none of this machine's.
    """
    registry = _registry(lake)
    try:
        _, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError) as error:
        raise SettingError(f"cannot listen on {address}:{port}: {error}; give --address and --port") from None
    return thread


def _registry(lake: Lake) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(LakeCollector(lake))  # asks it once
    return registry


def _gauge(name: str, meaning: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, number in samples:
        if number is not None:
            family.add_metric(values, float(number))
    return family


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
