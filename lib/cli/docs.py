"""Generates docs/tables.md from the contracts, docs/settings.md from the settings, docs/jobs.md and Airflow's pipeline.json from the jobs.

`python -m lib.cli.docs` writes them; with `--check` it names those that are stale and fails.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence

import annotated_types
from pydantic.fields import FieldInfo

from lib.cli.jobs import settings_class
from lib.pipeline import JOBS, PIPELINE, ROOT, Size, Workers, jobs_before
from lib.settings import SHARED_SECTIONS
from lib.tables import TABLES, Table


def tables_page() -> str:
    """Every contract as Markdown: what a row is, its key, columns, checks, writers and readers."""
    lines = [
        "# Tables",
        "",
        "Generated from `lib/tables` by `make docs`; each column's meaning is also stored with the table itself.",
        "",
    ]
    for table in TABLES.values():
        lines += _table_lines(table)
    return "\n".join(lines).rstrip() + "\n"


def settings_page() -> str:
    """Every section of the settings as Markdown: key, type, default, meaning."""
    lines = [
        "# Settings",
        "",
        "Generated from the settings classes by `make docs`. Set a key with a flag",
        "(`--clean.session-gap-minutes 45`), in the environment (`CARTWHEEL_CLEAN__SESSION_GAP_MINUTES=45`) or in the",
        "file that `--config` names; the first of these wins.",
        "",
        "## Shared by all jobs",
        "",
    ]
    for name, section in SHARED_SECTIONS.items():
        lines += _section_lines(name, section.__doc__, section.model_fields)
    lines += ["## By job", ""]
    for job in JOBS.values():
        settings = settings_class(job)
        lines += _section_lines(job.name, settings.__doc__, settings.own_fields())
    return "\n".join(lines).rstrip() + "\n"


def jobs_page() -> str:
    """Every job as Markdown: what it does, what it reads and writes, and what it asks of a cluster."""
    lines = [
        "# Jobs",
        "",
        "Generated from `lib/pipeline.py` by `make docs`, and so are the manifests for Kubernetes. Sizes are for some 50 M events a day",
        "([scaling.md](scaling.md)): cores, GiB of memory (of these GiB of Java's heap) and GPUs. `kubernetes.cpu_frac`, `memory_frac`,",
        "`num_workers` and `use_gpus` fit them to another cluster. A Ray job's driver is its head.",
        "",
        "| job | engine | does | reads | writes | driver | executors or workers |",
        "|---|---|---|---|---|---|---|",
    ]
    for job in JOBS.values():
        reads = [
            *job.reads,
            *(f"{table} (if there)" for table in job.may_read),
            *(f"model {name}" for name in job.models),
        ]
        cells = (
            job.name,
            job.engine,
            job.does,
            _names(reads),
            _names(job.writes),
            _size(job.driver),
            _workers(job.workers),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def schedule() -> str:
    """The pipeline as JSON for conf/airflow: its jobs, each with those that it follows. None writes the log itself."""
    jobs = [
        {
            "name": job.name,
            "does": job.does,
            "after": jobs_before(job),
            "by_day": job.by_day,
            "finds_new_files": job.finds_new_files,
        }
        for job in PIPELINE
        if not job.makes_log
    ]
    return json.dumps(jobs, indent=2) + "\n"


def main(check: bool) -> int:
    """Write the pages, or compare them with those in the checkout; returns the exit code."""
    stale = []
    for path, text in PAGES.items():
        target = ROOT / path
        if check and (not target.is_file() or target.read_text() != text()):
            stale.append(path)
        elif not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text())
    if stale:
        print(f"stale: {', '.join(stale)}; run `make docs` and commit", file=sys.stderr)
    return 1 if stale else 0


def _table_lines(table: Table) -> Iterator[str]:
    writers = [f"`{job.name}`" for job in PIPELINE if table.name in job.writes]
    readers = [f"`{job.name}`" for job in PIPELINE if table.name in (*job.reads, *job.may_read)]
    yield from (f"## {table.name}", "", table.comment, "")
    yield f"Key: {', '.join(f'`{column}`' for column in table.key) or 'none'}. Contract version {table.version}."
    if table.partition_by:
        yield f"Partitioned by {', '.join(f'`{column}`' for column in table.partition_by)}."
    if writers:
        yield f"Written by {', '.join(writers)}{'; read by ' + ', '.join(readers) if readers else ''}."
    yield from ("", "| column | type | | meaning |", "|---|---|---|---|")
    if table.open:
        yield "| *the source's own columns* | string | | as received |"
    for column in table.columns:
        marks = ", ".join(
            mark for mark, holds in (("required", not column.nullable), ("volatile", column.volatile)) if holds
        )
        yield f"| {column.name} | {column.type} | {marks} | {column.comment} |"
    yield ""
    for name, condition in table.checks.items():
        yield f"- check `{name}`: `{condition}`"
    for name, meaning in table.properties.items():
        yield f"- property `{name}`: {meaning}"
    if table.checks or table.properties:
        yield ""


def _section_lines(name: str, text: str | None, fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    yield from (f"### {name}", "", (text or "").strip().splitlines()[0] if text else "", "")
    yield from ("| key | type | default | allowed | meaning |", "|---|---|---|---|---|")
    for key, field in fields.items():
        kind = getattr(field.annotation, "__name__", None) or str(field.annotation)
        if "[" in str(field.annotation) or "|" in str(field.annotation):
            kind = str(field.annotation).replace("typing.", "").replace("|", "\\|")
        default = field.get_default(call_default_factory=True)
        yield f"| {key} | {kind} | `{default!r}` | {_allowed(field)} | {(field.description or '').replace('|', chr(92) + '|')} |"
    yield ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(name.replace("*", "\\*") for name in names)


def _size(size: Size) -> str:
    heap, gpus = f" ({size.heap:g})" if size.heap else "", f", {size.gpus} GPU" if size.gpus else ""
    return f"{size.cores:g} core{'s' if size.cores != 1 else ''}, {size.memory:g} GiB{heap}{gpus}"


def _workers(workers: Workers | None) -> str:
    return f"up to {workers.at_most} × {_size(workers.size)}" if workers else ""


def _allowed(field: FieldInfo) -> str:
    signs = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
    return ", ".join(
        f"{sign} {getattr(rule, kind.__name__.lower())}"
        for rule in field.metadata
        for kind, sign in signs.items()
        if type(rule) is kind
    )


PAGES = {
    "docs/tables.md": tables_page,
    "docs/settings.md": settings_page,
    "docs/jobs.md": jobs_page,
    "conf/airflow/pipeline.json": schedule,
}

if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv))
