"""Spark: the session, and runs that read and commit DataFrames.

The only file besides jobs/spark that imports pyspark.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa
from pyspark import BarrierTaskContext, SparkConf, SparkContext
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from lib.engines.arrow_tasks import PARTS, Broadcast, apply_to_shard, write_rows
from lib.engines.local_tasks import LocalEngine
from lib.engines.parts import Engine, Task, TaskRun, bytes_to_read, files_written, require_room, spread
from lib.engines.spark_properties import (
    PACKAGES,
    address_for_spark,
    address_of_spark,
    kafka_properties,
    shipped_properties,
    store_packages,
    store_properties,
)
from lib.lake.places import STORE, make_folder
from lib.lake.writes import transaction_id
from lib.pipeline import ROOT
from lib.runs import run as runs
from lib.runs.errors import SettingError
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

Value = TypeVar("Value")


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
    if submitted:
        SparkContext._ensure_initialized()  # SparkConf is empty until it knows the JVM of spark-submit
    given = dict(SparkConf().getAll()) if submitted else defaults
    event_log = address_of_spark(given.get("spark.eventLog.dir", ""))
    if event_log.startswith(STORE):
        make_folder(event_log)  # Spark does not start without it
    if settings.lake.path.startswith(STORE) or event_log.startswith(STORE):
        defaults |= store_properties() | ({} if submitted else {PACKAGES: store_packages()})
    if settings.live.kafka is not None and not submitted:
        defaults |= kafka_properties(defaults[PACKAGES])
    if given.get("spark.master", "").startswith("local"):
        defaults |= {name: value for name, value in ON_ONE_MACHINE.items() if name not in given}
    for name, value in defaults.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


@dataclass
class SparkRun(TaskRun):
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

    @cached_property
    def engine(self) -> Engine:
        """What runs the job's tasks: Spark on a cluster and where spark-submit has started it, else this machine's processes."""
        local = re.fullmatch(r"local(?:\[(\d+|\*)\])?", self.settings.cluster.spark_master)
        if local is None or "PYSPARK_GATEWAY_PORT" in os.environ:
            return SparkEngine(self.spark)
        return LocalEngine((os.cpu_count() or 1) if local[1] == "*" else int(local[1] or 1))

    @property
    def num_cores(self) -> int:
        """How many tasks Spark runs at once: on one machine those of its master, on a cluster as many as that says."""
        context = self.spark.sparkContext
        local = re.match(r"local\[(\d+)", context.master or "")
        return int(local[1]) if local else context.defaultParallelism

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
            files = files_written(SparkParts(chosen).then(write_rows, lake=self.lake.absolute(), table=contract(table)))
        self.commit_written(table, files, where=where, properties=properties)


@contextmanager
def start_run(job: str, settings: JobSettings) -> Iterator[SparkRun]:
    """A run of a Spark job; see `lib.runs.run.start_run`."""
    with runs.start_run(job, settings, SparkRun) as run:
        try:
            yield run
        finally:
            if "engine" in run.__dict__:
                run.engine.close()


@dataclass(frozen=True)
class SparkParts:
    """`Parts` in a DataFrame."""

    frame: DataFrame

    def then(self, task: Task, **given: Any) -> "SparkParts":
        return SparkParts(self.frame.mapInArrow(partial(task, **given), spark_schema(PARTS)))

    def together(self, task: Task, num_tasks: int, **given: Any) -> "SparkParts":
        """In one barrier stage, which Spark begins again as a whole: a shuffle follows, since it gives up a last stage."""
        require_fixed_executors(self.frame.sparkSession.sparkContext.getConf())
        require_room(num_tasks, slots=SparkEngine(self.frame.sparkSession).slots)
        work = partial(_in_gang, task=task, given=given)
        shards = self.to_shards(num_tasks).frame
        return SparkParts(shards.mapInArrow(work, spark_schema(PARTS), barrier=True)).to_shards(num_tasks)

    def to_shards(self, num_shards: int) -> "SparkParts":
        return SparkParts(self.frame.repartitionById(num_shards, "shard"))

    def union(self, other: "SparkParts") -> "SparkParts":
        return SparkParts(self.frame.unionAll(other.frame))

    def of(self, *kinds: str) -> "SparkParts":
        return SparkParts(self.frame.where(F.col("kind").isin(*kinds)))

    def but(self, *kinds: str) -> "SparkParts":
        return SparkParts(self.frame.where(~F.col("kind").isin(*kinds)))

    def keep(self) -> "SparkParts":
        return SparkParts(self.frame.persist())

    def drop(self) -> None:
        self.frame.unpersist()

    def collected(self) -> list[tuple[str, bytes]]:
        return [(row["kind"], row["content"]) for row in self.frame.select("kind", "content").collect()]


@dataclass(frozen=True)
class SparkGang:
    """A `Gang` of the tasks of a barrier stage."""

    context: BarrierTaskContext

    @property
    def rank(self) -> int:
        return self.context.partitionId()

    @property
    def size(self) -> int:
        return len(self.context.getTaskInfos())

    @property
    def host(self) -> str:
        return self.context.getTaskInfos()[self.rank].address.rpartition(":")[0]

    def gather(self, message: str) -> list[str]:
        return self.context.allGather(message)


def _in_gang(batches: Iterable[pa.RecordBatch], *, task: Task, given: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    return task(batches, gang=SparkGang(BarrierTaskContext.get()), **given)


@dataclass(frozen=True)
class SparkEngine:
    """Runs tasks in Spark's executors."""

    spark: SparkSession
    least_shard_rows: int = 20_000

    @property
    def parallelism(self) -> int:
        return self.spark.sparkContext.defaultParallelism

    @property
    def slots(self) -> int:
        """What Spark itself counts before a barrier stage: the tasks that its executors of now have room for."""
        java = self.spark.sparkContext._jsc.sc()
        return int(java.maxNumConcurrentTasks(java.resourceProfileManager().defaultResourceProfile()))

    def over(self, rows: pa.Table, *, task_bytes: int) -> SparkParts:
        """Rows about files, spread over tasks."""
        tasks = spread(bytes_to_read(rows), task_bytes=task_bytes, parallelism=self.parallelism)
        frame = self.spark.createDataFrame(rows.append_column("task", pa.array(tasks, pa.int32())))
        return SparkParts(frame.repartitionById(max(tasks, default=0) + 1, "task").drop("task"))

    def broadcast(self, value: Value) -> Broadcast[Value]:
        broadcast: Broadcast[Value] = self.spark.sparkContext.broadcast(value)
        return broadcast

    def close(self) -> None:
        """Nothing is kept."""


def require_fixed_executors(given: SparkConf) -> None:
    """Check that tasks can run together at all.

    Raises:
        SettingError: Spark takes executors as it needs them, and then runs no barrier stage.
    """
    if str(given.get("spark.dynamicAllocation.enabled", "false")).lower() == "true":
        raise SettingError(
            "tasks must run at once, which Spark does not do while it takes executors as it needs them "
            "(spark.dynamicAllocation.enabled): give it a fixed number, or choose another engine of this job"
        )


def over_shards(shards: DataFrame, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pa.Schema) -> DataFrame:
    """Apply `function` to each partition of `shards`, such as one of whole users.

    The result has the columns of `schema`.
    """
    work = partial(apply_to_shard, function=function, schema=schema)
    return shards.mapInArrow(work, spark_schema(schema))


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
