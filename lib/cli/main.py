"""`cartwheel`: run the pipeline, submit a job, look at the tables."""

import json
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lib.cli import package
from lib.cli import submit as submitting
from lib.cli.jobs import arguments_of, names_between, plan
from lib.lake.lake import Lake
from lib.lake.places import STORE
from lib.pipeline import JOBS, ROOT
from lib.runs.errors import EXIT_CODES, ExitCode, SettingError, ending_of, one_line
from lib.settings import ClusterSettings, LakeSettings, LiveSettings, hidden_credentials, lake_place, shared_settings
from lib.tables import contract

app = typer.Typer(
    help=__doc__, epilog=EXIT_CODES, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
console = Console(highlight=False, markup=False, emoji=False)  # texts from a lake or a user may contain brackets
SIGNALLED = 128  # a shell's exit code of a command that a signal ended: this and the signal's number
FLAGS_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}
LakePath = Annotated[
    str, typer.Option("--lake", help="The lake's folder, or s3://bucket/folder.")
]  # a Path would shorten s3:// to s3:/


@app.command(context_settings=FLAGS_PASS_THROUGH, epilog=EXIT_CODES)
def run(
    context: typer.Context,
    logs: Annotated[
        str | None, typer.Option(help="File, folder or address of real logs; unset: the simulator's.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Name of a shipped mapping, or path of your own.")] = None,
    lake: LakePath = "lake",
    images: Annotated[Path | None, typer.Option(help="Folder of photographed products for the simulator.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="Begin at this job.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="End at this job.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file; --section.key flags override it.")] = None,
    from_date: Annotated[
        str | None,
        typer.Option(
            help="Backfill: clean and featurize make anew the UTC days from here to --to-date, of the records that were "
            "cleaned before, and leave all other days; new files, products and records without a time wait for a run of all days."
        ),
    ] = None,
    to_date: Annotated[str | None, typer.Option(help="The last day of a backfill, itself included.")] = None,
) -> None:
    """Run the pipeline: every job in order, except those whose inputs, settings and code are unchanged.

    Further flags are settings, such as --clean.session-gap-minutes 45 or --as-of end.
    """
    from lib.cli.walk import JobError, walk  # noqa: PLC0415 - the jobs' modules take seconds to load

    place = _lake(lake)
    arguments = ["--lake.path", place.path]
    dates = {"--from-date": from_date, "--to-date": to_date}
    arguments += [f"{flag}={given}" for flag, given in dates.items() if given is not None]
    is_backfill = from_date is not None or to_date is not None
    names = names_between("clean" if is_backfill and first is None else first, last)
    if logs is not None:
        arguments += ["--log.path", _place_of(logs, "--logs")]
        names = [name for name in names if not JOBS[name].makes_log]
    if format is not None:
        arguments += ["--log.format", str(Path(format).absolute()) if Path(format).is_file() else format]
    if images is not None:
        arguments += ["--simulate.images", str(images.absolute())]
    if config is not None:
        arguments += ["--config", str(config.absolute())]
    try:
        code = walk(plan(names, [*arguments, *context.args]), place, _show)
    except JobError as failure:
        console.print(Text.assemble(("failed", "red"), f"  {failure}"), soft_wrap=True)
        raise typer.Exit(failure.code) from None
    _print_summary(place)
    raise typer.Exit(code)


@app.command(context_settings=FLAGS_PASS_THROUGH, epilog=EXIT_CODES)
def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    on: Annotated[str, typer.Option(help="local, standalone or kubernetes.")] = "local",
    way: Annotated[
        str, typer.Option("--with", help="On Kubernetes: operator (the spark-operator, KubeRay) or spark-submit.")
    ] = "operator",
    schedule: Annotated[
        str | None,
        typer.Option(help="On Kubernetes: a cron line in UTC by which a Spark job is started again and again."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="On Kubernetes: follow the job; end with its exit code.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command or manifest and do nothing.")] = False,
    spark_master: Annotated[str | None, typer.Option("--cluster.spark-master", help="Spark's master.")] = None,
    ray_address: Annotated[str | None, typer.Option("--cluster.ray-address", help="Ray's job server.")] = None,
) -> None:
    """Submit one job with the settings given as flags, using the command or manifest that --dry-run prints.

    Flags of other jobs' sections are passed over, as in a settings file, so that a scheduler may give all jobs the same.
    For a Spark job, the zip that its executors get is rebuilt from the code in this checkout; on Kubernetes they have the
    image's code.
    """
    if job not in JOBS:
        raise ValueError(f"no job is named {job!r}; the jobs are {', '.join(JOBS)}")
    if on not in ("local", "standalone", "kubernetes"):
        raise ValueError(f"--on {on}: should be local, standalone or kubernetes")
    arguments = arguments_of(JOBS[job], context.args)
    if on == "kubernetes":
        from lib.cli import kubernetes  # noqa: PLC0415 - the jobs' modules take seconds to load

        if way not in ("operator", "spark-submit"):
            raise ValueError(f"--with {way}: should be operator or spark-submit")
        options = {"way": way, "schedule": schedule, "wait": wait, "dry_run": dry_run}
        raise typer.Exit(kubernetes.submit(JOBS[job], arguments, **options, show=_show))  # type: ignore[arg-type]
    given = {"spark_master": spark_master, "ray_address": ray_address}
    cluster = ClusterSettings(**{name: value for name, value in given.items() if value is not None})
    command = submitting.command(JOBS[job], on, cluster, arguments)  # type: ignore[arg-type]
    if dry_run:
        print(shlex.join(command))
        return
    if JOBS[job].engine == "spark":
        submitting.require_java()
        package.build(ROOT / submitting.PACKAGE)
    by_ray = command[0] == "ray"
    if by_ray:
        from lib.engines.ray_cluster import client_of  # noqa: PLC0415 - Ray takes seconds to load

        client_of(cluster.ray_address)  # `ray job submit` itself would end in a traceback where none answers
    if JOBS[job].goes_on and not by_ray and JOBS[job].engine == "ray":
        submitting.become(command)
    code = subprocess.run(command, cwd=ROOT, env=submitting.environment(), check=False).returncode
    if by_ray and code == ExitCode.FAILED:
        from lib.engines.ray_cluster import exit_code_of_job  # noqa: PLC0415

        code = exit_code_of_job(cluster.ray_address, shlex.join(command[command.index("--") + 1 :]))
    raise typer.Exit(code if code >= 0 else SIGNALLED - code)


@app.command(context_settings=FLAGS_PASS_THROUGH)
def status(context: typer.Context) -> None:
    """List the jobs on Kubernetes that were submitted and are still known, and what keeps them.

    Further flags are settings, such as --kubernetes.namespace shop or --config FILE; so they are of logs and cancel.
    """
    from lib.cli import kubernetes  # noqa: PLC0415

    console.print(kubernetes.status(kubernetes.cluster_of(context.args)))


@app.command(context_settings=FLAGS_PASS_THROUGH)
def logs(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The submission's name, as `cartwheel status` lists it.")],
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends; end with its exit code.")] = False,
) -> None:
    """Print what a job on Kubernetes says."""
    from lib.cli import kubernetes  # noqa: PLC0415

    cluster = kubernetes.cluster_of(context.args)
    if follow:
        raise typer.Exit(kubernetes.follow(cluster, name, _show))
    kubernetes.show_log(cluster, name, _show)


@app.command(context_settings=FLAGS_PASS_THROUGH)
def cancel(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The submission's name, as `cartwheel status` lists it.")],
) -> None:
    """End a job on Kubernetes and remove its pods; what it has committed stays, and the next run takes it up."""
    from lib.cli import kubernetes  # noqa: PLC0415

    kubernetes.cancel(kubernetes.cluster_of(context.args), name)


@app.command()
def tables(
    name: Annotated[str | None, typer.Argument(help="Describe this table, such as gold/recommendations.")] = None,
    lake: LakePath = "lake",
) -> None:
    """List the lake's tables, or describe one: columns, types, meanings."""
    if name is None:
        held = _held(lake)
        grid = Grid("table", "rows", "one row is", box=None)
        for table in held.tables():
            grid.add_row(table, f"{held.num_rows(table):,}", contract(table).comment)
        console.print(grid)
        return
    declared = contract(name)
    key = ", ".join(declared.key) or "none"
    console.print(Text.assemble((name, "bold"), f"  {declared.comment}\nkey: {key}"))
    grid = Grid("column", "type", "meaning", box=None)
    for column in declared.columns:
        grid.add_row(column.name, f"{column.type}{'' if column.nullable else ' not null'}", column.comment)
    console.print(grid)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="SQL of DuckDB; a table is layer.name, such as gold.recommendations.")],
    lake: LakePath = "lake",
    limit: Annotated[int, typer.Option(help="Rows to print.", min=1)] = 50,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, all rows.")] = False,
) -> None:
    """Query the lake in SQL, read-only."""
    from lib.lake import query as asking  # noqa: PLC0415

    columns, rows = asking.query(_held(lake), sql, limit=None if csv else limit)
    if csv:
        asking.print_csv(columns, rows)
        return
    grid = Grid(box=None)
    for name in columns:
        grid.add_column(name, overflow="fold")  # long values wrap instead of being cut
    for row in rows:
        grid.add_row(*("" if value is None else str(value) for value in row))
    console.print(grid)


@app.command(context_settings=FLAGS_PASS_THROUGH)
def metrics(
    context: typer.Context,
    lake: Annotated[str | None, typer.Option(help="The lake; unset: as --config FILE says.")] = None,
    port: Annotated[int, typer.Option(help="Where Prometheus asks.", min=1, max=65535)] = 9877,
    address: Annotated[str, typer.Option(help="0.0.0.0: every address of this machine.")] = "127.0.0.1",
    once: Annotated[bool, typer.Option("--once", help="Print them and end.")] = False,
) -> None:
    """Serve what Prometheus reads of a lake: runs, rows, what was refused and why, and how fresh each table is."""
    try:
        from lib.metrics import exporter  # noqa: PLC0415
    except ModuleNotFoundError:
        raise SettingError("metrics need Prometheus' client: install cartwheel[metrics]") from None
    given = ["--lake.path", lake, *context.args] if lake is not None else context.args
    place = Lake(shared_settings(LakeSettings, given).path).absolute()
    if once:
        print(exporter.text(place), end="")
        return
    thread = exporter.serve(place, address, port)
    _show(f"metrics of {place.path} at http://{address}:{port}/metrics")
    thread.join()


@app.command(context_settings=FLAGS_PASS_THROUGH, epilog=EXIT_CODES)
def maintain(context: typer.Context, lake: LakePath = "lake") -> None:
    """Bring the tables' small files together, and remove files past their retention, while no run is at work.

    Further flags are settings, such as --maintain.retention-hours 48.
    """
    from lib.cli.walk import walk  # noqa: PLC0415

    held = _held(lake)
    walk(plan(["maintain"], ["--lake.path", held.path, *context.args]), held, _show)


@app.command(context_settings=FLAGS_PASS_THROUGH, epilog=EXIT_CODES)
def erase(
    context: typer.Context,
    users: Annotated[
        list[str] | None, typer.Argument(metavar="USER...", help="User ids, as the log writes them.")
    ] = None,
    format: Annotated[str, typer.Option(help="The mapping by which the log was read.")] = "market",
    lake: LakePath = "lake",
) -> None:
    """Remove people from every table and file of a lake; the next run trains anew what models have learnt of them.

    Without a USER: what has arrived since of those who were erased before.
    """
    from lib.cli.walk import walk  # noqa: PLC0415

    held = _held(lake)
    mapping = str(Path(format).absolute()) if Path(format).is_file() else format
    arguments = [
        "--lake.path",
        held.path,
        "--log.format",
        mapping,
        f"--erase.users={json.dumps(users or [])}",
        *context.args,
    ]
    walk(plan(["erase"], arguments), held, _show)


@app.command(context_settings=FLAGS_PASS_THROUGH, epilog=EXIT_CODES)
def live(
    context: typer.Context,
    format: Annotated[str | None, typer.Option(help="The mapping by which the log was read.")] = None,
    lake: LakePath = "lake",
    with_redis: Annotated[
        bool, typer.Option("--redis", help="Keep the online state in a Redis of this machine, not in a file of SQLite.")
    ] = False,
    partitions: Annotated[int, typer.Option(help="Of topics that are missing.", min=1, max=10_000)] = 4,
) -> None:
    """Start all live parts of a lake on this machine: Kafka, the stream, the server and its page; Ctrl-C stops them.

    With live.kafka or live.state set, these are used and none is started. Further flags are settings, such as --serve.port 8081.
    """
    from lib.cli import live as living  # noqa: PLC0415

    place = _lake(lake)
    if place.path.startswith(STORE):
        raise SettingError(
            "cartwheel live is for a lake on this machine; a store's stream and server are jobs of a cluster"
        )
    arguments = list(context.args)
    if format is not None:
        arguments += ["--log.format", str(Path(format).absolute()) if Path(format).is_file() else format]
    living.live_stack(Path(place.path), arguments, with_redis=with_redis, partitions=partitions, tell=_show).run()


@app.command(context_settings=FLAGS_PASS_THROUGH, epilog=EXIT_CODES)
def replay(
    context: typer.Context,
    logs: Annotated[str, typer.Argument(help="File, folder or address of a log.")],
    format: Annotated[str, typer.Option(help="Name of a shipped mapping, or path of your own.")] = "market",
    kafka: Annotated[str | None, typer.Option(help="Kafka's bootstrap servers; unset: live.kafka.")] = None,
    events_per_second: Annotated[float | None, typer.Option(help="So many records a second.", min=0.001)] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="So many times faster than they happened, such as 60: a minute a second.", min=1e-6),
    ] = None,
    since: Annotated[datetime | None, typer.Option("--from", help="Leave out what happened before, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Leave out what happened then or later, in UTC.")] = None,
    by_time: Annotated[
        bool,
        typer.Option("--by-time", help="The files of a source cover the same time, as parts do: bring them together."),
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Send so many records at most.", min=1)] = None,
    partitions: Annotated[int, typer.Option(help="Of topics that are missing.", min=1, max=10_000)] = 4,
    progress: Annotated[bool, typer.Option("--progress", help="Tell every 5 seconds how far it is.")] = False,
) -> None:
    """Play a log into Kafka, as fast as may be or at a chosen speed: a topic for each source, keyed by user.

    Further flags are settings, such as --live.topic-prefix shop. or --config FILE.
    """
    from lib.formats.mapping import load_mapping  # noqa: PLC0415
    from lib.live import replay as playing  # noqa: PLC0415

    if events_per_second is not None and speed is not None:
        raise SettingError("give --events-per-second or --speed, not both")
    live = shared_settings(LiveSettings, [*(("--live.kafka", kafka) if kafka else ()), *context.args])
    if live.kafka is None:
        raise SettingError("--kafka is needed, such as 127.0.0.1:9092, or the setting live.kafka")
    mapping = load_mapping(str(Path(format).absolute()) if Path(format).is_file() else format)
    records = playing.LogRecords(_place_of(logs, "LOGS"), mapping, by_time=by_time)
    if not any(records.files.values()):
        raise SettingError(f"{logs} holds no file of events or items that the mapping {mapping.name} knows")
    done = playing.replay(
        records,
        live,
        partitions=partitions,
        pace=playing.Pace(events_per_second, speed),
        since=since.replace(tzinfo=UTC) if since else None,
        until=until.replace(tzinfo=UTC) if until else None,
        limit=limit,
        tell=_show if progress else None,
    )
    for topic, number in sorted(done.num_sent.items()):
        _show(f"{topic}: {number:,} records")
    for problem in done.problems:
        _show(f"left out: {problem}")
    rate = done.num_sent.total() / max(done.seconds, 1e-9)
    _show(
        f"{done.num_sent.total():,} sent, {done.num_acknowledged:,} acknowledged in {done.seconds:.1f} s, {rate:,.0f} a second"
    )
    raise typer.Exit(ExitCode.FILES_SET_ASIDE if done.problems else ExitCode.DONE)


@app.command()
def formats(
    name: Annotated[str | None, typer.Argument(help="Print this shipped mapping.")] = None,
    log: Annotated[str | None, typer.Option("--try", help="File or folder of a log to try a mapping on.")] = None,
    format: Annotated[
        str | None, typer.Option(help="The mapping to try; unset: a shipped one that fits, else a proposal.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows to look at.", min=1)] = 10_000,
) -> None:
    """List the shipped mappings, print one, or try one on a log before anything is written."""
    from lib.cli import formats as trying  # noqa: PLC0415
    from lib.formats.mapping import shipped_text  # noqa: PLC0415

    if log is not None:
        trying.show_trial(console, _place_of(log, "--try"), format, max_rows=rows)
    elif name is not None:
        print(shipped_text(name), end="")
    else:
        console.print(trying.shipped())


@app.command()
def report(
    lake: LakePath = "lake", out: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None
) -> None:
    """Write the HTML report of a lake, one self-contained page, and print its path."""
    from lib.report import write_report  # noqa: PLC0415

    print(write_report(_held(lake), out))


def main() -> None:
    """Run the command line; an error is one line."""
    try:
        app()
    except Exception as error:
        console.print(Text.assemble(("error", "red"), f"  {one_line(error)}"), soft_wrap=True)
        end = ending_of(error)
        is_usage = end.code == ExitCode.REFUSED  # no job has begun: what a user gave here is wrong
        raise SystemExit(ExitCode.WRONG_SETTING if is_usage else end.code) from None


def _lake(lake: str) -> Lake:
    """The lake at a place.

    Raises:
        ValueError: it is none that every engine reads.
    """
    try:
        return Lake(lake_place(lake)).absolute()
    except ValueError as error:
        raise ValueError(f"--lake {hidden_credentials(lake)}: {error}") from None


def _place_of(logs: str, option: str) -> str:
    """The logs' absolute path, or their address as it is.

    Raises:
        ValueError: there is no such file or folder.
    """
    if "://" in logs:
        return logs
    path = Path(logs).expanduser().absolute()
    if not path.exists():
        raise ValueError(f"{option} {logs}: no such file or folder")
    return str(path)


def _held(lake: str) -> Lake:
    """The lake at a place.

    Raises:
        ValueError: it holds no table.
    """
    held = _lake(lake)
    if not held.tables():
        raise ValueError(f"--lake {lake}: there is no table; `cartwheel run --lake {lake}` makes a lake")
    return held


def _show(line: str) -> None:
    print(line, flush=True)


def _print_summary(lake: Lake) -> None:
    from lib.report import summary_rows  # noqa: PLC0415

    grid = Grid(box=None, show_header=False)
    grid.add_column()
    grid.add_column(overflow="fold")  # a path is never cut, whatever the terminal's width
    for name, words in summary_rows(lake):
        grid.add_row(Text(name, "bold"), words)
    console.print()
    console.print(grid)
