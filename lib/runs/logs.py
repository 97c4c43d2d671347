"""Logging of jobs: one readable line per stage, or one JSON object per line if CARTWHEEL_LOG_FORMAT=json.

Each job logs under the name `cartwheel.<job>`. A pipeline that runs a job elsewhere reads its JSON lines and logs them
again. How a job failed goes to standard error, as `error: ...` or as a JSON line of that level.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from os import environ
from typing import Any, TextIO

from lib.runs.errors import PrivateValueError, is_users, noted, one_line, recordable_traceback, told_with_place

ROOT_LOGGER = "cartwheel"
FORMAT_VARIABLE = "CARTWHEEL_LOG_FORMAT"
NAME_WIDTH = 15  # of the job's name at the start of a line
ERROR_PREFIX = "error: "
TRACEBACK_CHARACTERS = 12_000  # of its end, in a line: a container's log breaks lines of 16 KiB
# What a record bears beside its job, level and message.
EXTRA: dict[str, Any] = {"run_id": None, "stage": None, "figures": {}}


class ReadableFormatter(logging.Formatter):
    """The job's name and its message, or how it failed."""

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.ERROR:
            return f"{ERROR_PREFIX}{record.getMessage()}"
        return f"{_job_of(record):<{NAME_WIDTH}}{record.getMessage()}"


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, job, run_id, stage, message, and the figures of the message by name.

    `stage` is the message without its figures; it and `run_id` are null of what is said outside a run. A line of an error
    whose traceback lies nowhere else has that too.
    """

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "job": _job_of(record),
            "message": record.getMessage(),
            **{name: getattr(record, name, default) for name, default in EXTRA.items()},
        }
        if hasattr(record, "traceback"):
            content["traceback"] = record.traceback
        return json.dumps(content, ensure_ascii=False, default=str)


class StandardOutput(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stdout`, even if that is replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


def job_logger(job: str) -> logging.Logger:
    """The logger of a job; the first call in a process sets up the handler of all jobs."""
    root = logging.getLogger(ROOT_LOGGER)
    if not root.handlers:
        handler = StandardOutput()
        handler.setFormatter(_formatter())
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        root.propagate = False
    return root.getChild(job)


def say_again(line: str) -> bool:
    """Log a JSON line that a job wrote elsewhere; returns False for any other line, such as one of the engine."""
    try:
        content: Any = json.loads(line)
        job, level, message = content["job"], content["level"], content["message"]
    except (ValueError, TypeError, KeyError):
        return False
    extra = {name: content.get(name, default) for name, default in EXTRA.items()}
    job_logger(job).log(logging.getLevelNamesMapping()[level], message, extra=extra)
    return True


def say_error(job: str, error: BaseException) -> None:
    """Say to standard error how a job failed, in one line.

    A JSON line goes to a log collector, whose readers are more than the lake's: of our own errors it quotes no value of the
    log. It holds the traceback where that lies nowhere else, for the files of a pod go away with it.
    """
    if not _is_json():
        print(f"{ERROR_PREFIX}{one_line(error)}", file=sys.stderr, flush=True)
        return
    told = error.recorded if isinstance(error, PrivateValueError) else told_with_place(error)
    extra = {"run_id": noted(error, "run")}
    if not is_users(error) and noted(error, "traceback") is None:
        extra["traceback"] = recordable_traceback(error)[-TRACEBACK_CHARACTERS:]
    record = logging.getLogger(f"{ROOT_LOGGER}.{job}").makeRecord(
        f"{ROOT_LOGGER}.{job}", logging.ERROR, "", 0, told, (), None, extra=extra
    )
    print(_formatter().format(record), file=sys.stderr, flush=True)


def error_in(line: str) -> str | None:
    """How a job failed, where a line says so, in either form; None for any other line."""
    if line.startswith(ERROR_PREFIX):
        return line.removeprefix(ERROR_PREFIX)
    try:
        content: Any = json.loads(line)
        return str(content["message"]) if content["level"] == "ERROR" and content["job"] else None
    except (ValueError, TypeError, KeyError):
        return None


def _is_json() -> bool:
    return environ.get(FORMAT_VARIABLE) == "json"


def _formatter() -> logging.Formatter:
    return JsonFormatter() if _is_json() else ReadableFormatter()


def _job_of(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT_LOGGER}.")
