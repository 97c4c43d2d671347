"""Loads the jobs' modules by path, and builds each job's settings from the flags of the command line."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from lib.pipeline import JOBS, PIPELINE, Job
from lib.settings import SHARED_SECTIONS, JobSettings, by_section

SHORT_FLAGS = ("config", "as_of", "from_date", "to_date")  # without a section, of every job


@dataclass(frozen=True)
class Stage:
    """One job of a pipeline run, with its arguments and the settings read from them."""

    job: Job
    arguments: list[str]
    settings: JobSettings
    main: Callable[[JobSettings], None]


def load_job(job: Job) -> ModuleType:
    """The job's module, loaded by path as spark-submit does: `jobs/` is never on sys.path."""
    name = f"cartwheel_job_{job.name}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, job.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def settings_class(job: Job) -> type[JobSettings]:
    """The settings class in a job's file."""
    name = "".join(word.capitalize() for word in job.name.split("_")) + "Settings"
    found: type[JobSettings] = getattr(load_job(job), name)
    return found


def plan(names: Sequence[str], arguments: Sequence[str]) -> list[Stage]:
    """The stages of a pipeline run; all settings of all jobs are checked before the first job starts.

    Raises:
        ValueError: an unknown key, an invalid value, or a flag of an unknown section.
    """
    stages = []
    for job in (JOBS[name] for name in names):
        own = arguments_of(job, arguments)
        stages.append(Stage(job, own, settings_class(job).load(own), load_job(job).main))
    return stages


def arguments_of(job: Job, arguments: Sequence[str]) -> list[str]:
    """The flags `--section.key value` that apply to one job: those of the shared sections, its own, and those of jobs that it runs.

    Raises:
        ValueError: a flag of an unknown section.
    """
    kept: list[str] = []
    for section, argument in by_section(arguments):
        if section not in ("", *SHARED_SECTIONS, *JOBS, *SHORT_FLAGS):
            known = ", ".join((*SHARED_SECTIONS, *JOBS))
            raise ValueError(f"{argument}: no job or section is named {section!r}; known are {known}")
        if section in ("", *SHARED_SECTIONS, *SHORT_FLAGS, job.name, *job.runs):
            kept.append(argument)
    return kept


def names_between(first: str | None, last: str | None) -> list[str]:
    """The jobs of the pipeline from one to another, both included."""
    names = [job.name for job in PIPELINE]
    for name in (first, last):
        if name is not None and name not in names:
            raise ValueError(f"no job is named {name!r}; the jobs are {', '.join(names)}")
    return names[names.index(first) if first else 0 : (names.index(last) if last else len(names) - 1) + 1]
