"""The sections about the log and the lake: records, funnel, events over time, seconds per stage, tables."""

from datetime import timedelta
from itertools import pairwise

from lib.report.charts import bar_chart, line_chart
from lib.report.facts import LakeFacts, Row, by_reason
from lib.report.parts import Grid, Section, count, decimal, enumerate_words, percent, plural, sentence, words
from lib.tables import contract

FUNNEL = ("impression", "view", "cart", "favourite", "purchase", "return", "rating")
STEPS = ("impression", "view", "cart", "purchase")
SHORT_LOG_DAYS = 2


def loud_rule(rule: Row) -> str:
    """A rule that refused much of a source, in words."""
    share = f"{count(rule['n'])} of {count(rule['num_read'])} records of {rule['source']}"
    return f"{share} ({percent(rule['n'], rule['num_read'])}) are refused as {words(rule['reason'])}"


def data(facts: LakeFacts) -> Section:
    """What was read, refused and kept."""
    title = "Records read, refused and kept"
    if not facts.source_counts:
        return Section("data", title, missing=facts.why_missing("ingest"))
    num_read = sum(source.num_read for source in facts.source_counts)
    num_kept = sum(source.num_kept for source in facts.source_counts)
    num_ignored = sum(source.num_ignored for source in facts.source_counts)
    num_rejected = num_read - num_kept - num_ignored
    reasons, files = by_reason(facts.rejects, "clean"), by_reason(facts.rejects, "ingest")
    num_events = facts.counts.get("silver/events", 0)
    text = (
        f"{count(num_read)} records were read and {count(num_rejected)} refused ({percent(num_rejected, num_read, 2)}), "
        f"each with its reason. The {count(num_kept)} that were kept give {count(num_events)} events and {count(facts.counts.get('silver/items', 0))} products."
    )
    if num_ignored:
        text += f" {plural(num_ignored, 'record')} of kinds that the mapping ignores."
    for rule in facts.loud_rules:
        text += f" {loud_rule(rule)}."
    if files:
        text += f" {plural(sum(files.values()), 'file')} set aside whole."
    for line in facts.coarse_clocks:
        text += f" {sentence(line)}"
    tables = [
        Grid(
            "By source",
            ("source", "read", "refused", "ignored", "kept"),
            [
                (s.source, count(s.num_read), count(s.num_rejected), count(s.num_ignored), count(s.num_kept))
                for s in facts.source_counts
            ],
        ),
        Grid(
            "Refused, by reason",
            ("reason", "records", "of all read"),
            [(words(reason), count(n), percent(n, num_read, 2)) for reason, n in reasons.items()]
            + [(f"whole file: {reason.removeprefix('file:')}", plural(n, "file"), "–") for reason, n in files.items()],
        ),
    ]
    charts = []
    if reasons:
        charts.append(
            bar_chart(
                "Refused records by reason",
                [words(reason) for reason in reasons],
                list(reasons.values()),
                [count(n) for n in reasons.values()],
            )
        )
    return Section("data", title, text, charts, [table for table in tables if table.rows])


def funnel(facts: LakeFacts) -> Section:
    """From what was shown to what was bought."""
    title = "From shown to bought"
    by_type = {row["event_type"]: row for row in facts.events_by_type}
    steps = [by_type[event_type] for event_type in FUNNEL if event_type in by_type]
    if not steps:
        return Section("funnel", title, missing=facts.why_missing("ingest", "clean"))
    num_bots = sum(row["num_bot_events"] for row in steps)
    main = [row for row in steps if row["event_type"] in STEPS]
    shares = {
        later["event_type"]: percent(later["num_human_events"], before["num_human_events"])
        for before, later in pairwise(main)
    }
    text = f"Bots are left out here and in everything below: {plural(num_bots, 'event')} of theirs flagged."
    absent = [event_type for event_type in STEPS if event_type not in by_type]
    if absent:
        text += f" This log holds no {enumerate_words(absent)} events."
    chart = bar_chart(
        "Events by type",
        [row["event_type"] for row in steps],
        [row["num_human_events"] for row in steps],
        [count(row["num_human_events"]) for row in steps],
    )
    table = Grid(
        "Events and the users behind them",
        ("event", "events", "of the step before", "users"),
        [
            (
                row["event_type"],
                count(row["num_human_events"]),
                shares.get(row["event_type"], "–"),
                count(row["num_users"]),
            )
            for row in steps
        ],
    )
    return Section("funnel", title, text, [chart], [table])


def activity(facts: LakeFacts) -> Section:
    """Events over time."""
    title = "Events over time"
    if not facts.has("silver/events"):
        return Section("activity", title, missing=facts.why_missing("ingest", "clean"))
    span = facts.rows("SELECT min(event_time) AS first, max(event_time) AS last FROM silver.events")[0]
    is_short = (span["last"] - span["first"]).days < SHORT_LOG_DAYS
    unit, article = ("hour", "an") if is_short else ("day", "a")
    rows = facts.rows(
        f"""
        SELECT date_trunc('{unit}', event_time) AS moment, event_type, count(*) AS n
        FROM silver.events WHERE NOT is_bot GROUP BY ALL ORDER BY moment
        """
    )
    step = timedelta(hours=1) if is_short else timedelta(days=1)
    # A moment without events counts as zero: a line drawn across it would show events that did not happen.
    num_moments = (rows[-1]["moment"] - rows[0]["moment"]) // step + 1 if rows else 0
    moments = [rows[0]["moment"] + number * step for number in range(num_moments)]
    types = [event_type for event_type in FUNNEL if any(row["event_type"] == event_type for row in rows)]
    by_place = {(row["moment"], row["event_type"]): row["n"] for row in rows}
    series = {kind: [float(by_place.get((moment, kind), 0)) for moment in moments] for kind in types}
    as_of = facts.as_of
    totals = {kind: sum(values) for kind, values in series.items()}
    chart = line_chart(
        f"Events {article} {unit}",
        [moment.strftime("%Y-%m-%d %H:%M") for moment in moments],
        series,
        marks={} if as_of is None else {"as of": as_of.strftime("%Y-%m-%d %H:%M")},
    )
    table = Grid(
        f"Events by {unit}",
        ("event", "total", f"mean {article} {unit}", f"busiest {unit}", "events then"),
        [
            (
                kind,
                count(totals[kind]),
                count(totals[kind] / len(moments)),
                max(zip(values, moments, strict=True))[1].strftime("%d %b %Y %H:%M" if is_short else "%d %b %Y"),
                count(max(values)),
            )
            for kind, values in series.items()
        ],
    )
    return Section(
        "activity", title, f"{span['first']:%d %b %Y %H:%M} to {span['last']:%d %b %Y %H:%M}, UTC.", [chart], [table]
    )


def stages(facts: LakeFacts) -> Section:
    """Duration of each job's newest run."""
    title = "Seconds per stage"
    runs = list(facts.latest_runs.values())
    if not runs:
        return Section("stages", title, missing="No run is recorded in ops/runs.")
    timed = [run for run in runs if run["seconds"] is not None and run["status"] == "done"]
    charts = []
    if timed:
        charts.append(
            bar_chart(
                "Seconds of each job",
                [run["job"] for run in timed],
                [run["seconds"] for run in timed],
                [f"{run['seconds']:.1f} s" for run in timed],
            )
        )
    table = Grid(
        "The newest run of each job",
        ("job", "status", "says", "rows written", "seconds"),
        [(r["job"], r["status"], r["message"] or "", count(r["rows"]), decimal(r["seconds"], 1)) for r in runs],
        num_text_columns=3,
    )
    total = sum(run["seconds"] for run in timed)
    return Section("stages", title, f"{plural(len(timed), 'job')} took {total:,.0f} s together.", charts, [table])


def where(facts: LakeFacts) -> Section:
    """Where the tables are, and what each holds."""
    rows = [
        (table, contract(table).comment, count(facts.counts[table]), str(facts.lake.open(table).version()))
        for table in facts.tables
    ]
    text = (
        f"Each is the Delta table {facts.lake.absolute().path}/<table>, read alike by Spark, delta-rs and DuckDB. In SQL from the shell: "
        'cartwheel query "SELECT * FROM gold.item_profiles LIMIT 5". What every column means stands in docs/tables.md.'
    )
    table = Grid("Tables of the lake", ("table", "one row is", "rows", "version"), rows, num_text_columns=2)
    return Section("tables", "Where the tables are", text, [], [table])
