"""clean: bronze/<source> of every source, bronze/images -> silver/events, silver/items, bronze/rejects.

Parses types and UTC times, gives each record one outcome, finds duplicates, double clicks, sessions and bots, and
replaces user and order ids by keyed pseudonyms. One shuffle brings a user's records together; Polars cleans each shard
(lib/cleaning/shard.py). What concerns the whole log is settled around that: each source's clock before, and after it
which events lie far outside the log; where there are any, the shards are cleaned again without them
(lib/cleaning/whole_log.py). Rebuilds its tables in one transaction each; accepted and rejected records add up to
bronze. Too many refused records, or another pseudonym key, stop the job before it writes. A rerun, a retry or a kill changes
nothing.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from math import ceil
from typing import Any

import polars as pl
import pyarrow as pa
from pydantic import Field
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from lib.cleaning import batches as rows
from lib.cleaning.corrections import record_keys
from lib.cleaning.fields import SUPERSEDED, columns_of, field_texts
from lib.cleaning.forms import remarks
from lib.cleaning.notices import about_clocks, about_days, about_repeats
from lib.cleaning.pseudonyms import fingerprint, load_key
from lib.cleaning.shard import DESCRIPTION
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog, clock_of, days_covered
from lib.engines.arrow_tasks import Broadcast
from lib.engines.spark import SparkRun, spark_schema, start_run
from lib.formats.columns import find_columns, locate
from lib.formats.json_lines import nested_texts
from lib.formats.mapping import LogMapping, Source
from lib.formats.rules import Clock
from lib.lake.lake import Lake
from lib.runs.errors import PrivateValueError
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.bronze import IGNORED, SOURCE
from lib.tables.silver import CLOCKS, PSEUDONYM_KEY, SESSION_GAP

LEAST_SHARD_RECORDS = 20_000  # smaller shards cost more than they save
SAMPLED_TIMES = 100_000  # of a source, from which its clock is found
DECLARED = tuple(column.name for column in SOURCE.columns)


class CleanSettings(Thresholds, JobSettings):
    """Thresholds for double clicks, sessions and bots, and when the job stops."""

    max_reject_frac: float = Field(
        0.05, ge=0, le=1, description="largest share of a source's records that may be malformed or hold a bad value"
    )
    max_stray_frac: float = Field(
        0.05,
        ge=0,
        le=0.2,
        description="largest share of all events, on either side of the log, that are refused as `stray_time` where a "
        "silence longer than 30 days and the log itself sets them apart (a fifth of it where the silence is longer than "
        "3 days and a tenth of the log): clocks are wrong there; 0 refuses none",
    )
    records_per_shard: int = Field(
        500_000,
        ge=1000,
        le=5_000_000,
        description="approximate number of records per task; they must fit in its memory",
    )

    def thresholds(self) -> Thresholds:
        """Only the thresholds, to pass to tasks."""
        return Thresholds(**{name: getattr(self, name) for name in Thresholds.model_fields})


def in_shards(records: Mapping[str, DataFrame], mapping: LogMapping, *, whole: str, num_shards: int) -> DataFrame:
    """The records of several sources in one frame, each source with its own columns, spread over shards.

    All records with the same value of the field `whole` are in one shard. Records without a value are spread by their
    content: equal ones are in one shard, but they do not all gather in one.
    """
    frames = []
    for name, frame in records.items():
        own = own_columns(frame)
        value = text_of(whole, mapping.sources[name], own)
        everything = F.xxhash64(*map(quoted, own), F.col("malformed"))
        shard = F.when(value.isNotNull(), F.xxhash64(value)).otherwise(everything)
        renamed = [quoted(column).alias(rows.prefixed(name, column)) for column in own]
        is_superseded = F.col(SUPERSEDED) if SUPERSEDED in frame.columns else F.lit(False).alias(SUPERSEDED)
        place = (F.lit(name).alias(rows.SOURCE_NAME), shard.alias("shard"))
        frames.append(frame.select(*place, *renamed, *DECLARED, is_superseded))
    together = reduce(partial(DataFrame.unionByName, allowMissingColumns=True), frames)
    return together.repartition(num_shards, "shard").drop("shard")


def text_of(field: str, source: Source, own: Sequence[str]) -> Column:
    """A field's text, read by the code that types the record; null if the source does not give it."""
    columns = columns_of(field, source, own)
    if not columns:
        return F.lit(None).cast("string")
    return text_by(partial(field_texts, field=field, source=source), columns)


def text_by(read: Callable[[pl.DataFrame], pl.Series], columns: Iterable[str]) -> Column:
    """The text that `read` finds in these columns of a record."""

    def texts(records: pa.Array) -> pa.Array:
        return read(pl.Series(records).struct.unnest()).to_arrow().cast(pa.string())

    text: Column = arrow_udf(texts, "string")(F.struct(*map(quoted, columns)))  # type: ignore[call-overload]
    return text


def latest_items(descriptions: DataFrame, pictures: DataFrame) -> DataFrame:
    """One row per item: each property as last described; a catalogue takes precedence over events."""
    is_catalogue = F.col("kind") == rows.CATALOGUE_ITEM
    order = F.struct(is_catalogue, "event_time", "described_by")
    latest = [
        F.max_by(field, F.when(F.col("price" if field == "currency" else field).isNotNull(), order)).alias(field)
        for field in DESCRIPTION
    ]
    pictured = pictures.select("item_id").distinct().withColumn("has_picture", F.lit(True))
    image_uri = F.when(F.col("has_picture"), F.concat(F.lit("bronze/images#"), "item_id")).otherwise(F.col("image_uri"))
    items = descriptions.groupBy("item_id").agg(*latest).join(pictured, on="item_id", how="left")
    return items.withColumn("image_uri", image_uri).drop("has_picture")


def require_same_key(lake: Lake, key: bytes) -> None:
    """Check that `key` is the one behind the pseudonyms in the lake.

    Raises:
        ValueError: it is another key; the message gives both fingerprints.
    """
    if lake.exists("silver/events"):
        before = lake.open("silver/events").metadata().configuration.get(PSEUDONYM_KEY)
        if before != fingerprint(key):
            raise ValueError(
                f"the pseudonyms of silver/events were made with another key (its fingerprint is {before}, this one's "
                f"{fingerprint(key)}); use the key that they were made with"
            )


def require_fit_records(
    counts: Sequence[Mapping[str, Any]], rejects: DataFrame, mapping: LogMapping, *, max_reject_frac: float
) -> None:
    """Check that not too many records of a source are malformed or hold bad values, and that some times can be read.

    Raises:
        PrivateValueError: gives the count, the limit, what to check, and the first bad value, which may identify a
            person.
    """
    for source in sorted({row["source"] for row in counts}):
        num_records = {row["outcome"]: row["num_records"] for row in counts if row["source"] == source}
        total = sum(n for outcome, n in num_records.items() if outcome != IGNORED)
        unfit = {reason: n for reason, n in num_records.items() if n and reason.startswith(("malformed", "bad_value:"))}
        no_time = unfit.get("bad_value:event_time", 0)
        is_timeless = no_time and total == sum(
            unfit.get(reason, 0) for reason in ("malformed", "bad_value:event_type", "bad_value:event_time")
        )
        if is_timeless or sum(unfit.values()) > max_reject_frac * total:
            reason = "bad_value:event_time" if is_timeless else max(unfit, key=lambda reason: (unfit[reason], reason))
            what = f"{unfit[reason]:,} of {total:,} records of {source}"
            limit = (
                ""
                if is_timeless
                else f"; {sum(unfit.values()):,} are refused in all (limit {max_reject_frac:.3g} of them)"
            )
            message = f"{what} {described(reason, mapping.sources[source])}{limit}; first: "
            value, place = first_of(rejects, source, reason, mapping)
            raise PrivateValueError(
                f"{message}{value!r} in {place}" if value is not None else message + place, recorded=message + place
            )


def described(reason: str, source: Source) -> str:
    """What is wrong with records that were refused for this reason, and what to check."""
    _, _, field = reason.partition(":")
    if not field:
        return "could not be parsed; check the mapping's reader"
    name = source.names.get(field)
    columns = ", ".join(name.source_columns) if name else "events and ignore" if field == "event_type" else "constants"
    return f"have no valid {field}; check the mapping's {columns}"


def first_of(rejects: DataFrame, source: str, reason: str, mapping: LogMapping) -> tuple[str | None, str]:
    """The first record that was refused for this reason: its bad value, if in a single column, and its place."""
    chosen = rejects.where((F.col("source") == source) & (F.col("reason") == reason))
    first = (
        chosen.orderBy("source_file", F.length("source_record"), "source_record").select("source_record", "raw").first()
    )
    assert first is not None
    name = mapping.sources[source].names.get(reason.partition(":")[2])
    if reason == "malformed" or name is None or name.column is None:
        return None, first["source_record"]
    record = json.loads(first["raw"])
    column, path = locate(tuple(record), name.column) or ("", None)
    value = record.get(column)
    return nested_texts([value], path)[0].as_py() if path else value, first["source_record"]


def quoted(column: str) -> Column:
    """A column whose name may hold dots and dashes."""
    return F.col(f"`{column}`")


def own_columns(frame: DataFrame) -> list[str]:
    """The source's own columns in a table of bronze."""
    return [column for column in frame.columns if column not in (*DECLARED, SUPERSEDED)]


def clocks(run: SparkRun) -> dict[str, Clock]:
    """The clock of each source of events: what the mapping says, else what a sample of its times shows."""
    found: dict[str, Clock] = {}
    for name, source in run.mapping.of_kind("events").items():
        if not run.has(f"bronze/{name}"):
            continue
        clock = source.clock or clock_of(clock_counts(run, name, source))
        if clock is not None:
            found[name] = clock
    return found


def clock_counts(run: SparkRun, name: str, source: Source) -> dict[Clock, int]:
    """How many times of a sample of a source's records lie on which clock; the sample hangs on the records alone."""
    table = f"bronze/{name}"
    frame = run.read(table)
    columns = columns_of("event_time", source, own_columns(frame))
    every = max(1, run.lake.num_rows(table, run.inputs[table]) // SAMPLED_TIMES)
    is_chosen = F.pmod(F.xxhash64("source_file_sha256", "record_number"), F.lit(every)) == 0
    sample = frame.where(is_chosen).select(*map(quoted, columns)) if columns else frame.limit(0)
    count = partial(rows.clock_batches, source=name, mapping=run.mapping)
    counts = sample.mapInArrow(count, schema=spark_schema(rows.CLOCK_COUNTS))
    return {row["clock"]: row["n"] for row in counts.groupBy("clock").agg(F.sum("num_times").alias("n")).collect()}


def with_corrections(frame: DataFrame, name: str, mapping: LogMapping, *, num_shards: int) -> DataFrame:
    """The records of a source with SUPERSEDED, if its mapping has a `record_key`: records of one key in one shard.

    Raises:
        ValueError: no record has a column of the key.
    """
    source, own = mapping.sources[name], own_columns(frame)
    if not source.record_key:
        return frame
    unknown = [column for column in source.record_key if not find_columns(own, column)]
    if unknown:
        raise ValueError(f"record_key of {name} names {unknown[0]!r}; the columns of its records are {', '.join(own)}")
    used = dict.fromkeys(column for key in source.record_key for column in find_columns(own, key))
    key = text_by(partial(record_keys, source=source), used)
    place = F.concat_ws(":", "source_file_sha256", "record_number")
    schema = SOURCE.with_source_columns(tuple(own)).schema.append(pa.field(SUPERSEDED, pa.bool_()))
    mark = partial(rows.mark_superseded_batches, source=name, mapping=mapping, schema=schema)
    by_key = frame.select(*map(quoted, schema.names[:-1])).repartition(num_shards, F.coalesce(key, place))
    return by_key.mapInArrow(mark, schema=spark_schema(schema))


def cleaned(run: SparkRun, settings: CleanSettings, key: Broadcast[bytes], log: WholeLog) -> DataFrame:
    """The cleaned records of all the mapping's sources, in rows of several kinds (lib/cleaning/batches.py)."""
    clean_events = partial(
        rows.clean_event_batches, mapping=run.mapping, thresholds=settings.thresholds(), key=key, log=log
    )
    clean_items = partial(rows.clean_item_batches, mapping=run.mapping)
    parts = []
    for kind, whole, clean in (("events", "user_id", clean_events), ("items", "item_id", clean_items)):
        records = {name: run.read(f"bronze/{name}") for name in run.mapping.of_kind(kind) if run.has(f"bronze/{name}")}
        if records:
            num_records = sum(run.lake.num_rows(f"bronze/{name}", run.inputs[f"bronze/{name}"]) for name in records)
            num_shards = max(
                ceil(num_records / settings.records_per_shard),
                min(run.spark.sparkContext.defaultParallelism, ceil(num_records / LEAST_SHARD_RECORDS)),
            )
            records = {
                name: with_corrections(frame, name, run.mapping, num_shards=num_shards)
                for name, frame in records.items()
            }
            shards = in_shards(records, run.mapping, whole=whole, num_shards=num_shards)
            parts.append(shards.mapInArrow(clean, schema=spark_schema(rows.CLEANED)))
        elif kind == "events":
            raise ValueError(f"the lake holds no records of the format {run.mapping.name}; run ingest with it first")
    return reduce(DataFrame.unionByName, parts)


def cleaned_without_strays(run: SparkRun, settings: CleanSettings, key: Broadcast[bytes], log: WholeLog) -> DataFrame:
    """The cleaned records, persisted; where some events lie far outside the log, cleaned again without them."""
    result = cleaned(run, settings, key, log).persist()
    by_day = result.where(F.col("kind") == rows.EVENT).groupBy("event_date").count()
    events_by_day = {row["event_date"]: row["count"] for row in by_day.collect()}
    if not events_by_day:
        return result
    stated = [moment.date() for _, moment in run.mapping.times if moment is not None]  # the log's own, strays or not
    found = days_covered(events_by_day, max_stray_frac=settings.max_stray_frac)
    first, last = min(*found, *stated), max(*found, *stated)
    for line in about_days(events_by_day, first, last):
        run.log(line)
    if first <= min(events_by_day) and max(events_by_day) <= last:
        return result
    result.unpersist()
    return cleaned(run, settings, key, replace(log, first_day=first, last_day=last)).persist()


def counted(cleaned_rows: DataFrame) -> list[dict[str, Any]]:
    """The numbers of records and events by source and outcome."""
    counts = cleaned_rows.where(F.col("kind") == rows.COUNT).groupBy("source", "outcome")
    totals = counts.agg(F.sum("num_records").alias("num_records"), F.sum("num_events").alias("num_events"))
    by_outcome: list[dict[str, Any]] = (
        totals.toArrow().sort_by([("source", "ascending"), ("outcome", "ascending")]).to_pylist()
    )
    return by_outcome


def forms_counted(cleaned_rows: DataFrame) -> list[dict[str, Any]]:
    """How many records have values of which form, and the first and last of their files."""
    forms = cleaned_rows.where(F.col("kind") == rows.FORM).groupBy("source", "outcome", "form")
    totals = forms.agg(
        F.sum("num_records").alias("num_records"),
        F.min("first_file").alias("first_file"),
        F.max("last_file").alias("last_file"),
    )
    by_form: list[dict[str, Any]] = totals.toArrow().to_pylist()
    return by_form


def main(settings: CleanSettings) -> None:
    """Rebuild silver, and the rows of this job in bronze/rejects, from all of bronze."""
    with start_run("clean", settings) as run:
        key = load_key(settings.privacy, settings.lake.path)
        require_same_key(run.lake, key)
        shared_key = run.spark.sparkContext.broadcast(key)
        log = WholeLog(clocks=clocks(run))
        for line in about_clocks(log.clocks, run.mapping):
            run.log(line)
        result = cleaned_without_strays(run, settings, shared_key, log)
        counts = counted(result)
        for source in sorted({row["source"] for row in counts}):
            run.log(
                f"cleaned {source}", **{row["outcome"]: row["num_records"] for row in counts if row["source"] == source}
            )
        remarked = remarks(counts, forms_counted(result), run.mapping)
        for line in (*remarked, *about_repeats(counts, run.mapping, log.clocks)):
            run.log(line)
        rejects = result.where(F.col("kind") == rows.REJECT).withColumn("stage", F.lit("clean"))
        require_fit_records(counts, rejects, run.mapping, max_reject_frac=settings.max_reject_frac)

        events = result.where(F.col("kind") == rows.EVENT).select(contract("silver/events").schema.names)
        known = {PSEUDONYM_KEY: fingerprint(key), SESSION_GAP: str(settings.session_gap_minutes)}
        run.commit("silver/events", events, properties={**known, CLOCKS: json.dumps(log.clocks, sort_keys=True)})
        descriptions = result.where(F.col("kind").isin(rows.EVENT_ITEM, rows.CATALOGUE_ITEM))
        run.commit("silver/items", latest_items(descriptions, run.read_or_empty("bronze/images")))
        run.commit("bronze/rejects", rejects.select(contract("bronze/rejects").schema.names), where={"stage": "clean"})
        result.unpersist()
        shared_key.destroy()


if __name__ == "__main__":
    main(CleanSettings.from_command_line())
