"""What a job's result depends on (pinned inputs, settings, code), and whether that has changed since its last run."""

import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources.abc import Traversable
from typing import Any

from lib.formats.mapping import load_mapping
from lib.lake.lake import Lake
from lib.pipeline import Job
from lib.runs import history, model_registry
from lib.settings import DateRange, JobSettings

HASHED = (".py", ".j2", ".css", ".html", ".ttf")  # types of files that a result may depend on


def outcome_if_unchanged(job: Job, settings: JobSettings) -> str | None:
    """How the job's last run ended (`done`, or why it was skipped); None if inputs, settings or code changed.

    None too if a table that the job has written was removed: it is made again.
    """
    lake = Lake(settings.lake.path)
    runs = history.runs(lake, job.name)
    last = history.newest(runs)
    if last is None or last["status"] not in ("done", "skipped"):
        return None
    same = (
        (last["settings_hash"], last["code_version"]) == (settings_hash(job, settings), code_version(job))
        and days_of(last) == days_asked(job, settings)
        and pinned(last["inputs"]) == pin_inputs(job, lake)
        and all(map(lake.exists, {table for row in runs for table in pinned(row["outputs"])}))
    )
    return (last["message"] or "done") if same else None


def days_asked(job: Job, settings: JobSettings) -> DateRange | None:
    """The days that a run of the job makes anew; None where it is one of all days."""
    return settings.time.days if job.by_day else None


def days_of(row: Mapping[str, Any]) -> DateRange | None:
    """The days that a run, a row of ops/runs, was to make anew; None where it was one of all days."""
    first, last = row.get("from_date"), row.get("to_date")  # a lake of an earlier release has no such columns yet
    return DateRange(first, last) if first and last else None


def settings_hash(job: Job, settings: JobSettings) -> str:
    """Hash of the settings that affect a job's result, including the mapping."""
    mapping = "" if job.makes_log else load_mapping(settings.log.format).sha256
    return hashlib.sha256(f"{settings.hash()}{mapping}".encode()).hexdigest()[:16]


def code_version(job: Job) -> str:
    """Hash of the code that a job's result depends on, its own file and what it declares, in a checkout or a zip."""
    digest = hashlib.sha256(job.file.read_bytes() if job.file.is_file() else b"")
    for room in job.code_rooms:
        for source in _sources_of(room):
            digest.update(source)
    return digest.hexdigest()[:16]


def pin_inputs(job: Job, lake: Lake) -> dict[str, int]:
    """The tables (and current models) that a job would read now, with their versions."""
    declared = (*job.reads, *job.may_read)
    names = [name for name in declared if "*" not in name]
    names += lake.sources() if "bronze/*" in declared else []
    names += [name for name in lake.tables() if not name.startswith("ops/")] if "*" in declared else []
    if not job.before_events:
        names.append("silver/events")
    versions = {name: lake.data_version(name) for name in sorted(set(names))}
    for model in job.models:
        current = model_registry.current_model(lake, model)
        versions[f"ops/models#{model}"] = int(current["version"].rpartition("-")[2]) if current else None
    return {name: version for name, version in versions.items() if version is not None}


def _sources_of(room: str) -> Iterator[bytes]:
    """The contents of the source files of a room, such as lib/cleaning or lib/settings.py."""
    package, *parts = room.split("/")
    place = importlib.resources.files(package).joinpath(*parts)
    if place.is_file():
        yield place.read_bytes()
    else:
        yield from _sources_below(place)


def _sources_below(folder: Traversable) -> Iterator[bytes]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _sources_below(entry)
        elif entry.name.endswith(HASHED):
            yield entry.read_bytes()


def pinned(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The versions in a list of tables of ops/runs, by table."""
    return {row["table"]: row["version"] for row in rows}
