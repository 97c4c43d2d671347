"""What impressions with a position tell evaluate: how often each is looked at, and at which users found what they wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from lib.engines.arrow_tasks import gathered
from lib.engines.parts import Parts, TaskRun
from lib.ranking import position_bias
from lib.ranking.position_bias import Examined, ShownWork, join_answers, spread_shown
from lib.tables import contract


@dataclass(frozen=True)
class Positions:
    """What impressions with a position tell."""

    told: Parts  # of kind LED what users wanted in the window, by the position at which they found it
    examined: tuple[Examined, ...]  # how often positions are looked at


def positions_of(
    run: TaskRun, events: str, *, until: datetime, num_events: int, rows_per_shard: int, num_shards: int
) -> tuple[Positions | None, str]:
    """How often positions are looked at; None and the reason where the log cannot tell.

    Args:
        run: as of the moment before which impressions tell it.
        events: the table, silver/events.
        until: the end of the window in which users wanted something.
        num_events: latest ones before the moment, whole days of them, that tell it.
        rows_per_shard: of events, by request.
        num_shards: of users, and of items.
    """
    if not run.has(events):
        return None, run.why_missing(events)
    files = run.lake.actions(events, run.version_of(events))
    nulls = files["null_count.position"] if "null_count.position" in files.column_names else pa.nulls(1)
    if not nulls.null_count and pc.sum(nulls).as_py() == pc.sum(files["num_records"]).as_py():
        return None, "no impression of this log has a position"
    of_days = run.lake.rows_by_partition(events, "event_date", run.version_of(events))
    first = latest_days(of_days, run.as_of, num_rows=num_events)
    work = ShownWork(
        begin=datetime(first.year, first.month, first.day, tzinfo=UTC),
        as_of=run.as_of,
        until=until,
        relevance=run.mapping.relevance,
        num_shards=num_shards,
    )
    days = [day for day in of_days if first <= day <= until.astimezone(UTC).date()]
    requests = run.num_shards(sum(of_days[day] for day in days), rows_per_shard=rows_per_shard)
    told = run.files_of({"": events}, holding={"event_date": days}).then(spread_shown, work=work, num_shards=requests)
    told = told.to_shards(requests).then(join_answers, work=work).keep()
    summed = told.of(position_bias.COUNT).to_shards(num_shards).then(position_bias.strata).collected()
    examined = position_bias.curve(gathered(summed, position_bias.STRATUM, position_bias.GATHERED))
    if len(examined) < 2:
        told.drop()
        return None, (
            f"from {first:%Y-%m-%d} on no two positions have {position_bias.LEAST_CLICKS} impressions that were answered, of items "
            "that were shown at the first as well"
        )
    run.log("positions are looked at", **{f"at_{row.position}": round(row.value, 3) for row in examined})
    return Positions(told, tuple(examined)), ""


def examination_rows(positions: Positions, *, as_of: datetime, split: str, seed: int) -> pa.Table:
    """How often positions are looked at, as rows of gold/ranking_metrics."""
    shared = {"as_of": as_of, "split": split, "question": "all", "strategy": "impressions", "segment": "all"}
    shared |= {"metric": "examination", "num_without_list": 0, "seed": seed}
    rows = [
        {**shared, "k": row.position, "value": row.value, "low": row.low, "high": row.high, "num_users": row.num_shown}
        for row in positions.examined
    ]
    return pa.Table.from_pylist(rows, schema=contract("gold/ranking_metrics").schema)


def latest_days(rows_of: Mapping[date, int], as_of: datetime, *, num_rows: int) -> date:
    """The first of the latest days that have so many rows without those of the day of `as_of`, or the first of all."""
    last, rows = as_of.astimezone(UTC).date(), 0
    first = last
    for day in sorted((day for day in rows_of if day <= last), reverse=True):
        first, rows = day, rows + rows_of[day]
        if rows >= num_rows + rows_of.get(last, 0):
            break
    return first
