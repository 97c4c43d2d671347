"""Logging of jobs: one readable line per stage, or one JSON object per line if CARTWHEEL_LOG_FORMAT=json.

Each job logs under the name `cartwheel.<job>`. A pipeline that runs a job elsewhere reads its JSON lines and logs them
again.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from os import environ
from typing import Any, TextIO

ROOT_LOGGER = "cartwheel"
FORMAT_VARIABLE = "CARTWHEEL_LOG_FORMAT"
NAME_WIDTH = 15  # of the job's name at the start of a line


class ReadableFormatter(logging.Formatter):
    """The job's name and its message."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_job_of(record):<{NAME_WIDTH}}{record.getMessage()}"


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, job, message, and the figures of the message by name."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        content = {"time": time, "level": record.levelname, "job": _job_of(record), "message": record.getMessage()}
        return json.dumps(content | {"figures": getattr(record, "figures", {})}, ensure_ascii=False, default=str)


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
        handler.setFormatter(JsonFormatter() if environ.get(FORMAT_VARIABLE) == "json" else ReadableFormatter())
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
    job_logger(job).log(logging.getLevelNamesMapping()[level], message, extra={"figures": content.get("figures", {})})
    return True


def _job_of(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT_LOGGER}.")
