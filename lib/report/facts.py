"""The facts that the report and the end-of-run summary read from a lake with DuckDB, one query each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from deltalake.exceptions import DeltaError

from lib.formats.rules import NOT_ASKED, Clock
from lib.lake.lake import Lake
from lib.lake.query import connect
from lib.runs import history, model_registry
from lib.tables import contract
from lib.tables.bronze import IGNORED, MANY_REJECTED_FRAC, UNSHOWN
from lib.tables.silver import CLOCKS

Row = dict[str, Any]
HEADLINE_METRIC = "ndcg"
HEADLINE_K = 10
ESTIMATORS = (
    "dr",
    "pdis",
    "mean_return",
    "true",
)  # in order of preference: a policy is reported by the first that it has
POLICY_VERDICTS = ("promote", "keep_logging")


class SourceCount(NamedTuple):
    """Records of one source of the log."""

    source: str
    num_read: int
    num_rejected: int
    num_ignored: int = 0

    @property
    def num_kept(self) -> int:
        return self.num_read - self.num_rejected - self.num_ignored


class Ranking(NamedTuple):
    """One strategy's headline metric for one question, and its paired difference to popularity."""

    question: str
    strategy: str
    value: float | None
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    num_users: int
    num_without_list: int


@dataclass(frozen=True)
class LakeFacts:
    """What a lake holds; each fact is one query over its tables `<layer>.<table>` at their latest versions."""

    lake: Lake

    @cached_property
    def tables(self) -> list[str]:
        """Tables that the lake holds."""
        return self.lake.tables()

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        return connect(self.lake)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """The rows that `sql` gives, by column name.

        Raises:
            ValueError: a table cannot be read, in one line.
        """
        try:
            result = self.connection.execute(sql, parameters)
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        except duckdb.Error as error:
            raise ValueError(f"a table of the lake cannot be read: {_first_line(error)}") from None

    @cached_property
    def counts(self) -> dict[str, int]:
        """Rows of each table.

        Raises:
            ValueError: a table cannot be read, in one line that names it.
        """
        return {table: self._num_rows(table) for table in self.tables}

    def _num_rows(self, table: str) -> int:
        try:
            return self.lake.num_rows(table)
        except (OSError, pa.ArrowInvalid, DeltaError) as error:
            raise ValueError(
                f"{table} cannot be read: {_first_line(error)}; restore its files, or remove its folder and run the job "
                "that writes it again"
            ) from None

    def has(self, table: str) -> bool:
        """Whether the table exists and has rows."""
        return self.counts.get(table, 0) > 0

    @cached_property
    def latest_runs(self) -> dict[str, Row]:
        """The newest run of each job but report, which is under way, by job name, in the order in which the runs began."""
        runs = (run for run in history.runs(self.lake) if run["job"] != "report")
        newest = {run["job"]: run for run in sorted(runs, key=lambda run: int(run["number"]))}
        return dict(sorted(newest.items(), key=lambda item: item[1]["started_at"]))

    @cached_property
    def as_of(self) -> datetime | None:
        """The `as_of` of the newest item profiles; None if there are none."""
        if not self.has("gold/item_profiles"):
            return None
        moment: datetime = self.rows("SELECT max(as_of) AS as_of FROM gold.item_profiles")[0]["as_of"]
        return moment

    def why_missing(self, *jobs: str) -> str:
        """One line that says why these jobs have no result: the first that was skipped, failed or has not run."""
        for job in jobs:
            run = self.latest_runs.get(job)
            if run is None:
                return f"{job} has not run on this lake."
            if run["status"] == "skipped":
                return f"{job} was skipped: {run['message'] or 'no reason given'}."
            if run["status"] != "done":
                return f"{job} is {run['status']}" + (f": {run['message']}." if run["message"] else ".")
        return f"{jobs[-1]} ran and wrote no rows."

    @cached_property
    def source_counts(self) -> list[SourceCount]:
        """Records read, refused and not wanted of each source of the log; bronze holds these and the accepted."""
        rejected: dict[str, int] = {}
        ignored: dict[str, int] = {}
        for row in self.rejects:
            if row["stage"] == "clean":
                numbers = ignored if row["reason"] == IGNORED else rejected
                numbers[row["source"]] = numbers.get(row["source"], 0) + row["n"]
        sources = [table.removeprefix("bronze/") for table in self.lake.sources()]
        return [
            SourceCount(name, self.counts[f"bronze/{name}"], rejected.get(name, 0), ignored.get(name, 0))
            for name in sources
        ]

    @cached_property
    def loud_rules(self) -> list[Row]:
        """Each rule that refused more than MANY_REJECTED_FRAC of a source: source, reason, n, num_read."""
        num_read = {source.source: source.num_read for source in self.source_counts}
        rules = [
            {**row, "num_read": num_read[row["source"]]}
            for row in self.rejects
            if row["stage"] == "clean" and row["reason"] not in UNSHOWN and row["source"] in num_read
        ]
        return [rule for rule in rules if rule["n"] > MANY_REJECTED_FRAC * rule["num_read"]]

    @cached_property
    def rejects(self) -> list[Row]:
        """Refused records and files by stage, source and reason: stage, source, reason, n; most frequent first."""
        if not self.has("bronze/rejects"):
            return []
        return self.rows(
            "SELECT stage, source, reason, count(*) AS n FROM bronze.rejects GROUP BY ALL ORDER BY n DESC, source, reason"
        )

    @cached_property
    def coarse_clocks(self) -> list[str]:
        """A line for each source whose clock is coarse: the clock, and what is not asked of it."""
        stated = self.lake.table_property("silver/events", CLOCKS) if self.has("silver/events") else None
        clocks: dict[str, Clock] = json.loads(stated or "{}")
        return [
            f"the clock of {source} is the {clock}: {NOT_ASKED[clock]}"
            for source, clock in clocks.items()
            if clock in NOT_ASKED
        ]

    @cached_property
    def events_by_type(self) -> list[Row]:
        """Accepted events by type: event_type, num_events, num_users, num_bot_events, num_human_events.

        Most frequent first.
        """
        if not self.has("silver/events"):
            return []
        return self.rows(
            """
            SELECT event_type, count(*) AS num_events,
                   count(*) FILTER (is_bot) AS num_bot_events,
                   count(*) FILTER (NOT is_bot) AS num_human_events,
                   count(DISTINCT user_key) FILTER (NOT is_bot) AS num_users
            FROM silver.events GROUP BY event_type ORDER BY num_events DESC, event_type
            """
        )

    @cached_property
    def rankings(self) -> list[Ranking]:
        """The headline metric of each strategy on the test split, both questions, best first."""
        if not self.has("gold/ranking_metrics"):
            return []
        rows = self.rows(
            """
            WITH test AS (
                SELECT * FROM gold.ranking_metrics
                WHERE split = 'test' AND segment = 'all' AND k = $k
                QUALIFY as_of = max(as_of) OVER ()
            )
            SELECT m.question, m.strategy, m.value, m.low, m.high,
                   d.value AS difference, d.low AS difference_low, d.high AS difference_high,
                   m.num_users, m.num_without_list
            FROM test m LEFT JOIN test d
                ON d.question = m.question AND d.strategy = m.strategy AND d.metric = m.metric || '_minus_popularity'
            WHERE m.metric = $metric
            ORDER BY m.question, m.value DESC NULLS LAST, m.strategy
            """,
            {"k": HEADLINE_K, "metric": HEADLINE_METRIC},
        )
        return [Ranking(**row) for row in rows]

    @cached_property
    def candidates(self) -> list[str]:
        """One line for each model, but the policy, whose newest version did not become the current one: which and why."""
        newest = {row["model"]: row for row in model_registry.models(self.lake) if row["status"] != "retired"}
        return [
            f"{row['model']} {row['version']} stands as a candidate: {row.get('reason') or 'no reason given'}."
            for model, row in newest.items()
            if row["status"] == "candidate" and model != "policy"
        ]

    @cached_property
    def policy_verdicts(self) -> list[Row]:
        """The verdict on each learned policy: its row for the preferred estimator that has one."""
        if not self.has("gold/policy_values"):
            return []
        rows = self.rows("SELECT * FROM gold.policy_values ORDER BY policy, dataset")
        chosen: dict[tuple[str, str], Row] = {}
        for row in sorted(rows, key=lambda row: _place(row["estimator"])):
            if row["verdict"] in POLICY_VERDICTS:
                chosen.setdefault((row["policy"], row["dataset"]), row)
        return list(chosen.values())

    @cached_property
    def experiments(self) -> list[Row]:
        """Every metric of every pair of arms, the one that decides first.

        A column that a table of an earlier release lacks is None.
        """
        if not self.has("gold/experiments"):
            return []
        unknown = dict.fromkeys(contract("gold/experiments").schema.names)
        rows = [unknown | row for row in self.rows("SELECT * FROM gold.experiments")]
        return sorted(
            rows, key=lambda row: (row["experiment"], row["arm"], row["control"], not row["is_primary"], row["metric"])
        )

    @cached_property
    def experiment_unit(self) -> str:
        """What the arms are counted in: users, or impressions where the log names no user."""
        sql = "SELECT count(user_key) AS num_named FROM silver.events WHERE experiment IS NOT NULL AND arm IS NOT NULL"
        return "user" if not self.has("silver/events") or self.rows(sql)[0]["num_named"] else "impression"

    @cached_property
    def creatives_by_status(self) -> list[Row]:
        """Creatives by kind, status and reason without its numbers: kind, status, reason, n, mean_quality."""
        if not self.has("gold/creatives"):
            return []
        return self.rows(
            """
            SELECT kind, status, split_part(reason, ':', 1) AS reason, count(*) AS n, avg(quality) AS mean_quality
            FROM gold.creatives GROUP BY ALL ORDER BY kind, status, reason
            """
        )

    def num_creatives(self, *, adverts: bool) -> tuple[int, int]:
        """Adverts, or else the pictures alone, that were accepted and refused."""
        rows = [row for row in self.creatives_by_status if row["kind"].startswith("advert") == adverts]
        accepted = sum(row["n"] for row in rows if row["status"] == "accepted")
        return accepted, sum(row["n"] for row in rows) - accepted

    def file(self, uri: str) -> Path:
        """The file that a `uri` column of the lake names."""
        return self.lake.local(uri)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _place(estimator: str) -> int:
    return ESTIMATORS.index(estimator) if estimator in ESTIMATORS else len(ESTIMATORS)


def by_reason(rejects: list[Row], stage: str) -> Mapping[str, int]:
    """Refused records by reason over all sources, most frequent first; ignored ones are not refused."""
    totals: dict[str, int] = {}
    for row in rejects:
        if row["stage"] == stage and row["reason"] not in UNSHOWN:
            totals[row["reason"]] = totals.get(row["reason"], 0) + row["n"]
    return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))
