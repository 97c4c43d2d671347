"""Every table is read by Spark, delta-rs and DuckDB with equal rows."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake import QueryBuilder

from acceptance import lakes
from acceptance.claims import Claim
from acceptance.results import STATE
from lib.engines.spark import session
from lib.lake.lake import Lake
from lib.lake.query import connect
from lib.settings import JobSettings

Digest = tuple[int, int]  # how many rows, and the sum of their hashes: the same for the same rows in any order


def check() -> list[Claim]:
    """The market's lake and a real one."""
    return [claim_of(lake) for lake in (lakes.market(), lakes.real_log("online_retail"))]


def claim_of(lake: Path) -> Claim:
    """Count and content of every table as each engine reads it."""
    held = Lake(str(lake))
    by_engine = {"Spark": by_spark(held), "delta-rs": by_delta_rs(held), "DuckDB": by_duckdb(held)}
    tables = held.tables()
    apart = [
        f"{table} ({', '.join(f'{engine} {told[table]}' for engine, told in by_engine.items())})"
        for table in tables
        if len({told[table] for told in by_engine.values()}) > 1
    ]
    num_rows = sum(by_engine["Spark"][table][0] for table in tables)
    return Claim(
        f"every table of the {lake.name} lake is read by Spark, delta-rs and DuckDB with equal rows",
        f"{len(tables)} tables, {num_rows:,} rows, counts and content equal but for: {', '.join(apart) or 'none'}",
        not apart and num_rows > 0,
    )


def by_duckdb(lake: Lake) -> dict[str, Digest]:
    """As `cartwheel query` reads."""
    with connect(lake) as connection:
        return {
            table: digest(connection, table.replace("/", "."), lake.dataset(table).schema) for table in lake.tables()
        }


def by_delta_rs(lake: Lake) -> dict[str, Digest]:
    """By the query engine of delta-rs."""
    told = {}
    for table in lake.tables():
        reader = QueryBuilder().register("rows", lake.open(table)).execute("SELECT * FROM rows")
        with duckdb.connect() as connection:
            connection.register("rows", pa.RecordBatchReader.from_stream(reader))
            told[table] = digest(connection, "rows", lake.dataset(table).schema)
    return told


def by_spark(lake: Lake) -> dict[str, Digest]:
    """As Spark reads a table and writes its rows to files that are no table."""
    spark, folder = session(JobSettings()), STATE / "read_by_spark"
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    told = {}
    try:
        for table in lake.tables():
            rows = folder / table
            spark.read.format("delta").load(lake.uri(table)).write.mode("overwrite").parquet(str(rows))
            with duckdb.connect() as connection:
                told[table] = digest(connection, f"read_parquet('{rows}/*.parquet')", lake.dataset(table).schema)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return told


def digest(connection: duckdb.DuckDBPyConnection, rows: str, schema: pa.Schema) -> Digest:
    """Count and content of the rows of a relation; nested values as text, so that the engines' types for them play no part."""
    connection.execute("SET TimeZone = 'UTC'")
    columns: Sequence[str] = [
        f'CAST("{field.name}" AS VARCHAR)'
        if pa.types.is_nested(field.type) or pa.types.is_timestamp(field.type)
        else f'"{field.name}"'
        for field in schema
    ]
    found = connection.execute(f"SELECT count(*), coalesce(sum(hash({', '.join(columns)})), 0) FROM {rows}").fetchone()
    assert found is not None
    return int(found[0]), int(found[1])
