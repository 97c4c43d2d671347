"""Spark: the session, and runs that read and commit DataFrames.

The only file besides jobs/spark that imports pyspark.
"""

import heapq
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from math import ceil
from typing import Any, Literal

import polars as pl
import pyarrow as pa
from deltalake.transaction import AddAction
from pyspark import SparkConf, SparkContext
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from lib.engines.arrow_tasks import PARTS, TABLE_FILES, apply_to_shard, write_rows, written
from lib.engines.spark_properties import (
    PACKAGES,
    address_for_spark,
    shipped_properties,
    store_packages,
    store_properties,
)
from lib.formats.mapping import LogMapping
from lib.formats.money import has_several
from lib.lake.places import STORE
from lib.lake.writes import commit_files, remove_files, transaction_id
from lib.pipeline import ROOT
from lib.runs import run as runs
from lib.settings import JobSettings
from lib.tables import Table, contract

# Defaults on one machine, where tables are small: few partitions for shuffles and for a table's log are enough.
ON_ONE_MACHINE = {
    "spark.sql.shuffle.partitions": "4",
    "spark.default.parallelism": "4",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
    "spark.driver.host": "localhost",
    "spark.driver.bindAddress": "127.0.0.1",
}

LEAST_SHARD_ROWS = 20_000  # smaller shards cost more than they save
TASK_BYTES = 64 << 20  # of a table's files that one task reads


def spark_schema(schema: pa.Schema) -> StructType:
    """The Spark schema of a contract's Arrow schema."""
    return from_arrow_schema(schema)


def session(settings: JobSettings) -> SparkSession:
    """The running session, the one that spark-submit configures, or a new one with conf/spark-defaults.conf."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # a task has one core
    builder = SparkSession.builder.appName("cartwheel")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if not submitted:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    defaults = (
        {}
        if submitted
        else {
            **shipped_properties(),
            "spark.master": settings.cluster.spark_master,
            "spark.driver.memory": settings.cluster.driver_memory,
            "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{ROOT / 'conf' / 'log4j2.properties'}",
        }
    )
    if settings.lake.path.startswith(STORE):
        defaults |= store_properties() | ({} if submitted else {PACKAGES: store_packages()})
    if submitted:
        SparkContext._ensure_initialized()  # SparkConf is empty until it knows the JVM of spark-submit
    given = dict(SparkConf().getAll()) if submitted else defaults
    if given.get("spark.master", "").startswith("local"):
        defaults |= {name: value for name, value in ON_ONE_MACHINE.items() if name not in given}
    for name, value in defaults.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


@dataclass
class SparkRun(runs.Run):
    """A run that reads and commits DataFrames."""

    @cached_property
    def spark(self) -> SparkSession:
        """The session; started at first use."""
        return session(self.settings)

    def read(self, table: str) -> DataFrame:
        """An input table at its pinned version."""
        version = self.lake.kept_version(table, self.version_of(table))
        self.lake.open(table, version)
        reader = self.spark.read.format("delta").option("versionAsOf", version)
        return reader.load(self.address(table))

    def address(self, table: str) -> str:
        """Where Spark finds a table."""
        return address_for_spark(self.lake.uri(table))

    def read_or_empty(self, table: str) -> DataFrame:
        """An input table at its pinned version, or no rows of its contract where the lake has none."""
        return self.read(table) if table in self.inputs else self.empty(table)

    def files_of(self, tables: Mapping[str, str]) -> DataFrame:
        """The files of input tables at their pinned versions, each named by a kind, spread over tasks."""
        rows = [
            {"location": location, "num_bytes": num_bytes, "kind": kind}
            for kind, table in tables.items()
            for location, num_bytes in self.lake.data_files(table, self.version_of(table))
        ]
        return in_tasks(self.spark, pa.Table.from_pylist(rows, schema=TABLE_FILES), task_bytes=TASK_BYTES)

    def num_shards(self, num_rows: int, *, rows_per_shard: int) -> int:
        """Into how many shards so many rows are divided: enough for the cores, where that saves time."""
        of_cores = min(self.spark.sparkContext.defaultParallelism, ceil(num_rows / LEAST_SHARD_ROWS))
        return max(1, ceil(num_rows / rows_per_shard), of_cores)

    def empty(self, table: str) -> DataFrame:
        """No rows, with the contract's columns."""
        return self.spark.createDataFrame([], spark_schema(contract(table).schema))

    def commit(
        self,
        table: str,
        frame: DataFrame,
        *,
        where: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Replace the table's content, or its partitions `where`, in one transaction, once per run.

        Tasks write the rows into files, and this process commits the files. `properties` are table properties, set before.

        Raises:
            ValueError: the frame's columns are not the contract's.
        """
        chosen = conform(contract(table), frame)
        files = []
        if self.lake.last_committed_run(table, transaction_id(self.job.name, table, where)) < self.number:
            files = files_written(in_parts(chosen, write_rows, lake=self.lake.absolute(), table=contract(table)))
        self.commit_written(table, files, where=where, properties=properties)

    def commit_written(
        self,
        table: str,
        files: Sequence[AddAction],
        *,
        where: Mapping[str, str] | None = None,
        mode: Literal["overwrite", "append"] = "overwrite",
        declared: Table | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Commit files that tasks wrote, in one transaction, once per run: if it has committed before, they are removed.

        They replace the table's content, or its partitions `where`, or are appended. `declared` is the contract of an open
        table with its source's own columns.
        """
        self.keep_files()
        transaction = transaction_id(self.job.name, table, where)
        if self.lake.last_committed_run(table, transaction) >= self.number:
            remove_files(self.lake, table, files)
            files = []
        version = commit_files(
            self.lake,
            declared or contract(table),
            files,
            transaction=transaction,
            number=self.number,
            where=where,
            mode=mode,
            properties=properties,
            run_id=self.run_id,
        )
        self.record_output(table, version, self.lake.rows_of_commit(table, version))


@contextmanager
def start_run(job: str, settings: JobSettings) -> Iterator[SparkRun]:
    """A run of a Spark job; see `lib.runs.run.start_run`."""
    with runs.start_run(job, settings, SparkRun) as run:
        yield run


def in_tasks(spark: SparkSession, files: pa.Table, *, task_bytes: int) -> DataFrame:
    """Spread files over tasks of about equal `num_bytes`: the largest first, each to the task with the least so far."""
    sizes = files["num_bytes"].to_pylist()
    num_tasks = max(min(len(sizes), spark.sparkContext.defaultParallelism), ceil(sum(sizes) / task_bytes))
    loads = [(0, task) for task in range(num_tasks)]
    chosen = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        load, chosen[place] = heapq.heappop(loads)
        heapq.heappush(loads, (load + sizes[place], chosen[place]))
    spread = files.append_column("task", pa.array(chosen, pa.int32()))
    return spark.createDataFrame(spread).repartitionById(num_tasks, "task").drop("task")


def in_parts(frame: DataFrame, task: Callable[..., Iterator[pa.RecordBatch]], **given: Any) -> DataFrame:
    """The parts that a task makes of a frame (lib/engines/arrow_tasks.py)."""
    return frame.mapInArrow(partial(task, **given), spark_schema(PARTS))


def collected(parts: DataFrame) -> list[tuple[str, bytes]]:
    """The kind and content of parts that are few and small."""
    return [(row["kind"], row["content"]) for row in parts.select("kind", "content").collect()]


def files_written(parts: DataFrame) -> list[AddAction]:
    """The files that tasks wrote, and said so in parts."""
    return [written(content) for _, content in collected(parts)]


def to_shards(parts: DataFrame, num_shards: int) -> DataFrame:
    """Bring the parts of each shard together."""
    return parts.repartitionById(num_shards, "shard")


def over_shards(shards: DataFrame, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pa.Schema) -> DataFrame:
    """Apply `function` to each partition of `shards`, such as one of whole users.

    The result has the columns of `schema`.
    """
    work = partial(apply_to_shard, function=function, schema=schema)
    return shards.mapInArrow(work, spark_schema(schema))


def currencies_of(mapping: LogMapping, *frames: DataFrame) -> set[str | None]:
    """The currencies of the frames' prices, which are looked at only where the mapping lets them be several."""
    return found_currencies(*frames) if has_several(mapping) else {mapping.currency}


def found_currencies(*frames: DataFrame) -> set[str | None]:
    """The currencies of the frames' prices, at most 20 of each; None stands for a price without one."""
    priced = [frame.where(F.col("price").isNotNull()).select(currency_code()).distinct().limit(20) for frame in frames]
    return {row[0] for frame in priced for row in frame.collect()}


def in_one_currency(rates: Mapping[str | None, Decimal]) -> Column:
    """The column `price` converted from `currency` by `rates` (lib/formats/money.py); null without a rate."""
    converted = F.lit(None)
    for currency, rate in rates.items():
        amount = F.col("price") if rate == 1 else F.col("price") * F.lit(rate).cast("decimal(18,11)")
        is_it = currency_code().eqNullSafe(F.lit(currency))
        converted = F.when(is_it, amount.try_cast("decimal(18,4)")).otherwise(converted)
    return converted.cast("decimal(18,4)")


def currency_code() -> Column:
    """The column `currency` in one spelling."""
    return F.upper(F.trim("currency"))


def conform(table: Table, frame: DataFrame) -> DataFrame:
    """The frame with the contract's columns in their order.

    Raises:
        ValueError: a column is missing, unknown or of another type. Null in a required column and broken checks are
            refused by the tasks as they write.
    """
    wanted, given = spark_schema(table.schema), frame.schema
    missing, unknown = set(wanted.names) - set(given.names), set(given.names) - set(wanted.names)
    if missing or unknown:
        raise ValueError(f"{table.name}: missing columns {sorted(missing)}, unknown columns {sorted(unknown)}")
    for field in wanted:
        found = given[field.name].dataType
        if found.simpleString() != field.dataType.simpleString():
            raise ValueError(
                f"{table.name}.{field.name}: {field.dataType.simpleString()} expected, {found.simpleString()} given"
            )
    return frame.select(*[F.col(f"`{name}`") for name in wanted.names])
