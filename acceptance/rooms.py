"""Which code a check's result depends on: the rooms of the jobs that it judges and of all that these build on."""

import hashlib
from collections.abc import Iterable

from lib.pipeline import JOBS, PIPELINE, ROOT, maker_of

EVERY_JOB = tuple(job.name for job in PIPELINE if job.name != "report")  # the report changes no table
COMMAND = ("lib/cli", "lib/pipeline.py", "lib/engines/ray_cluster.py")  # what `cartwheel run` is made of
SETUP = (".ci", "Makefile", "requirements.lock", "requirements-no-deps.lock", "pyproject.toml")
# Check -> the jobs whose results it judges.
JUDGES: dict[str, tuple[str, ...]] = {
    "cleaning": ("simulate", "clean"),
    "forgotten": ("simulate", "featurize", "erase"),
    "ranking": ("simulate", "train_encoder", "evaluate", "experiment"),
    "policy": ("simulate", "train_policy"),
    "online_retail": ("evaluate",),
    "open_bandit": ("train_policy",),
    "spark_cluster": ("simulate", "als"),
    "small_driver": ("evaluate", "decisions", "experiment"),
    "ray_cluster": ("simulate", "train_encoder"),
    "killed_driver": ("simulate", "clean"),
    "in_any_order": ("simulate", "featurize"),
    "killed_days": ("featurize",),
    "killed_jobs": ("simulate", "evaluate", "experiment"),
    "live_faults": ("stream", "clean"),
    "closed_loop": ("simulate", "recommend", "publish", "serve"),
}
# Check -> what it shows beside the results of jobs. Those that are not named here judge every job, by the command.
FURTHER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(JUDGES, ()),
    "spark_cluster": ("lib/cli",),
    "killed_days": COMMAND,
    "in_any_order": ("benchmarks/daily.py",),
    "forgotten": COMMAND,
    "killed_jobs": COMMAND,
    "live_faults": ("conf/kafka", "tests/live_logs.py"),
    "closed_loop": COMMAND,
    "bad_input": (*COMMAND, "tests"),
    "fresh_clone": (*COMMAND, *SETUP, "lib/report"),
    "fresh_tests": (*COMMAND, *SETUP, "lib/report", "tests"),
}


def code_of(check: str) -> str:
    """Identity of all that a check's result depends on."""
    rooms = rooms_of(JUDGES.get(check, EVERY_JOB)) | set(FURTHER.get(check, COMMAND))
    return code_hash({*rooms, f"acceptance/{check}.py", "tests/same.py"})


def rooms_of(jobs: Iterable[str]) -> set[str]:
    """The rooms and files of these jobs and of those whose tables or models they read, and the shipped settings."""
    return {"conf", *(part for job in upstream(jobs) for part in (str(JOBS[job].path), *JOBS[job].code_rooms))}


def upstream(jobs: Iterable[str]) -> set[str]:
    """These jobs and all those whose tables or models they read, directly or not."""
    found, waiting = set[str](), [*jobs]
    while waiting:
        job = JOBS[waiting.pop()]
        if job.name not in found:
            found.add(job.name)
            read = {*job.reads, *job.may_read}
            waiting += [other.name for other in PIPELINE if read & set(other.writes)]
            waiting += map(maker_of, job.models)
    return found


def code_hash(paths: Iterable[str]) -> str:
    """Identity of the sources at or below the given paths of the checkout."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        for file in [ROOT / path] if (ROOT / path).is_file() else sorted((ROOT / path).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
