"""Puts the sections on one page, and a summary of each into a small table.

Reads the latest versions of the lake's tables.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2
import plotly.offline

from lib.lake.lake import Lake
from lib.report import drift, log, results, shop, visits
from lib.report.facts import HEADLINE_K, LakeFacts, by_reason
from lib.report.parts import Section, count, decimal, interval, percent, plural, signed, words
from lib.tables.gold import QUESTIONS

SECTIONS = (
    log.data,
    log.funnel,
    log.activity,
    results.ranking,
    visits.next_item,
    results.models,
    results.policy,
    results.experiment,
    shop.adverts,
    shop.shoppers,
    shop.products,
    log.stages,
    log.where,
)
IF_MEASURED = {"gold/drift": drift.drift}  # sections of lakes with a table that no job of the pipeline makes
REPORT_FILE = "files/report/index.html"  # below the lake


@dataclass(frozen=True)
class Header:
    """The page's head: which log, its times, and when the pipeline last ran."""

    name: str
    first_event: datetime | None
    last_event: datetime | None
    as_of: datetime | None
    made_at: datetime | None


def write_report(lake: Lake, out: Path | None = None, *, name: str | None = None) -> str:
    """Write the page and return its path or address, `<lake>/files/report/index.html` by default.

    `name` is what the page calls the log or shop; by default that of the lake's folder. The page needs no network and no second
    file. It is written to a temporary file and then moved, so that a reader never sees an incomplete page.
    """
    facts = LakeFacts(lake)
    path = out if out is not None else lake.folder / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    unfinished.write_text(render(facts, name=name), encoding="utf-8")
    unfinished.replace(path)
    if out is not None:
        return str(out)
    lake.keep(path)
    return lake.uri(REPORT_FILE)


def render(facts: LakeFacts, *, name: str | None = None) -> str:
    """The page as HTML. What comes from the log is escaped; a content security policy forbids every request."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lib.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        header=header(facts, name),
        summary=summary_of(facts),
        sections=[section(facts) for section in sections_of(facts)],
        plotly_js=plotly.offline.get_plotlyjs(),
    )


def sections_of(facts: LakeFacts) -> list[Callable[[LakeFacts], Section]]:
    """The sections of the page, in order."""
    measured = [section for table, section in IF_MEASURED.items() if facts.has(table)]
    place = SECTIONS.index(shop.adverts)
    return [*SECTIONS[:place], *measured, *SECTIONS[place:]]


def header(facts: LakeFacts, name: str | None) -> Header:
    """The content of the page's head."""
    first = last = None
    if facts.has("silver/events"):
        span = facts.rows("SELECT min(event_time) AS first, max(event_time) AS last FROM silver.events")[0]
        first, last = span["first"], span["last"]
    finished = [run["finished_at"] for run in facts.latest_runs.values() if run["finished_at"] is not None]
    return Header(name or facts.lake.name, first, last, facts.as_of, max(finished, default=None))


def summary_rows(lake: Lake) -> list[tuple[str, str]]:
    """The rows of the end-of-run table, (subject, text): read, rejected, kept, rankings, policy and so on.

    The last row is the page's path.
    """
    return [*summary_of(LakeFacts(lake)), ("report", lake.uri(REPORT_FILE))]


def summary_of(facts: LakeFacts) -> list[tuple[str, str]]:
    """`summary_rows` from given facts, without the page's path."""
    return [
        *_record_rows(facts),
        *_ranking_rows(facts),
        *([("candidates", "\n".join(facts.candidates))] if facts.candidates else []),
        ("policy", _policy_line(facts)),
        ("experiment", _experiment_line(facts)),
        ("adverts", _adverts_line(facts)),
        ("tables", facts.lake.absolute().path),
    ]


def _record_rows(facts: LakeFacts) -> list[tuple[str, str]]:
    if not facts.source_counts:
        return [("read", facts.why_missing("ingest"))]
    num_read = sum(source.num_read for source in facts.source_counts)
    num_kept = sum(source.num_kept for source in facts.source_counts)
    num_ignored = sum(source.num_ignored for source in facts.source_counts)
    num_rejected = num_read - num_kept - num_ignored
    num_events = facts.counts.get("silver/events", 0)
    reasons, files = by_reason(facts.rejects, "clean"), by_reason(facts.rejects, "ingest")
    why = ", ".join(f"{words(reason)} {count(n)}" for reason, n in reasons.items())
    aside = f"; {plural(sum(files.values()), 'file')} set aside whole" if files else ""
    return [
        ("read", f"{count(num_read)} records"),
        (
            "rejected",
            f"{count(num_rejected)} ({percent(num_rejected, num_read, 2)})" + (f": {why}" if why else "") + aside,
        ),
        *[("WARNING", log.loud_rule(rule)) for rule in facts.loud_rules],
        *([("ignored", f"{plural(num_ignored, 'record')}, as the mapping says")] if num_ignored else []),
        ("kept", f"{count(num_kept)} records, {count(num_events)} events"),
    ]


def _ranking_rows(facts: LakeFacts) -> list[tuple[str, str]]:
    if not facts.rankings:
        return [("ranking", facts.why_missing("featurize", "recommend", "evaluate"))]
    rows = []
    for question in QUESTIONS:
        ranked = [row for row in facts.rankings if row.question == question]
        base = next((row for row in ranked if row.strategy == "popularity"), None)
        said = [] if base is None else [f"popularity {decimal(base.value)} {interval(base.low, base.high)}".strip()]
        said += [
            f"{row.strategy} {signed(row.difference)} {interval(row.difference_low, row.difference_high, with_sign=True)}".strip()
            for row in ranked
            if row.strategy != "popularity"
        ]
        if said:
            rows.append((f"NDCG@{HEADLINE_K}, {results.QUESTION_TITLES[question]}", "\n".join(said)))
    if not rows:
        rows = [("ranking", facts.why_missing("featurize", "recommend"))]
    said_next = visits.next_line(facts)
    return rows + ([("HR and MRR, next in a visit", said_next)] if said_next else [])


def _policy_line(facts: LakeFacts) -> str:
    if not facts.has("gold/policy_values"):
        return facts.why_missing("decisions", "train_policy")
    return "\n".join(results.policy_lines(facts)) or "no learned policy was judged"


def _experiment_line(facts: LakeFacts) -> str:
    return "\n".join(results.experiment_lines(facts)) if facts.experiments else facts.why_missing("experiment")


def _adverts_line(facts: LakeFacts) -> str:
    if not facts.has("gold/creatives"):
        return facts.why_missing("train_gan", "make_creatives")
    return shop.creatives_line(facts)
