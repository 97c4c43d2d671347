"""Tells an OpenLineage server of a run: which tables it reads and writes. Its library's own environment says where, or nothing is sent.

A lineage server never fails a job, and delays its end by no more than WAIT_SECONDS: events are sent by a thread of their own.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import environ
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal

from lib.lake.lake import Lake
from lib.pipeline import Job
from lib.runs.errors import recordable
from lib.runs.logs import job_logger

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

    from lib.runs.run import Run

WAIT_SECONDS = 3.0
VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")  # or beginning so
PRODUCER = "urn:cartwheel"


@dataclass(frozen=True)
class Moment:
    """A run at its start or end: versions of its inputs and outputs, and rows of its outputs, by table."""

    state: Literal["START", "COMPLETE", "FAIL"]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    rows: Mapping[str, int]
    error: str | None = None  # without a value of the log
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@contextmanager
def told_of(run: "Run") -> Iterator[None]:
    """Send an event when the block begins and when it ends, by an error too, if a server is configured."""
    if not any(name.startswith(VARIABLES) for name in environ):
        yield
        return
    sender = _Sender(run.job, run.lake.absolute(), run.run_id, run.started_at)
    sender.send(_moment("START", run))
    try:
        yield
    except BaseException as error:
        sender.end(_moment("FAIL", run, recordable(error)))
        raise
    sender.end(_moment("COMPLETE", run))


def _moment(state: Literal["START", "COMPLETE", "FAIL"], run: "Run", error: str | None = None) -> Moment:
    return Moment(state, dict(run.inputs), dict(run.outputs), dict(run.rows_by_table), error)


class _Sender:
    """Sends the events of one run in their order, beside it."""

    def __init__(self, job: Job, lake: Lake, run_id: str, started_at: datetime) -> None:
        self.job, self.lake, self.run_id, self.started_at = job, lake, run_id, started_at
        self._moments: SimpleQueue[Moment | None] = SimpleQueue()
        self._troubles: list[str] = []
        self._thread = threading.Thread(target=self._work, daemon=True)  # which nobody waits for at the process' end
        self._thread.start()

    def send(self, moment: Moment) -> None:
        """Send it soon."""
        self._moments.put(moment)

    def end(self, moment: Moment) -> None:
        """Send the last one and wait for all, but not long; say in one line what went wrong."""
        self._moments.put(moment)
        self._moments.put(None)
        self._thread.join(WAIT_SECONDS)
        troubles = [*self._troubles, *([f"no answer in {WAIT_SECONDS:g} s"] if self._thread.is_alive() else [])]
        if troubles:
            told = "the lineage server was not told of all of this run: %s"
            job_logger(self.job.name).warning(told, troubles[0], extra={"run_id": self.run_id})

    def _work(self) -> None:
        try:
            from openlineage.client import OpenLineageClient  # noqa: PLC0415 - it is the extra `lineage`

            client = OpenLineageClient()
        except ModuleNotFoundError:
            self._troubles.append("install cartwheel[lineage]")
            return
        except Exception as error:
            self._troubles.append(_in_short(error))
            return
        for moment in iter(self._moments.get, None):
            try:
                client.emit(self._event(moment))
            except Exception as error:  # whatever it is, it is no trouble of the job's
                self._troubles.append(_in_short(error))
        with suppress(Exception):
            client.close(WAIT_SECONDS)

    def _event(self, moment: Moment) -> "RunEvent":
        from openlineage.client import event_v2, facet_v2, uuid  # noqa: PLC0415

        place = self.lake.path.rstrip("/")
        versioned = facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet
        counted = facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
        inputs = [
            event_v2.InputDataset(place, table, facets={"version": versioned(str(version))})
            for table, version in moment.inputs.items()
            if "#" not in table  # a model
        ]
        outputs = [
            event_v2.OutputDataset(
                *(place, table),
                facets={"version": versioned(str(version))},
                outputFacets={"outputStatistics": counted(rowCount=moment.rows.get(table))},
            )
            for table, version in moment.outputs.items()
        ]
        failed: dict[str, facet_v2.RunFacet] = {}
        if moment.error is not None:
            failed["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(moment.error, "Python")
        kind = facet_v2.job_type_job.JobTypeJobFacet("BATCH", "CARTWHEEL", "JOB")
        # The same of a run that is taken up again.
        run_uuid = uuid.generate_static_uuid(self.started_at, f"{place}/{self.run_id}".encode())
        return event_v2.RunEvent(
            eventType=event_v2.RunState(moment.state),
            eventTime=moment.time.isoformat(),
            producer=PRODUCER,
            run=event_v2.Run(str(run_uuid), facets=failed),
            job=event_v2.Job(place, self.job.name, facets={"jobType": kind}),
            inputs=inputs,
            outputs=outputs,
        )


def _in_short(error: Exception) -> str:
    """An error's kind alone: its words may hold the server's credentials."""
    return type(error).__name__
