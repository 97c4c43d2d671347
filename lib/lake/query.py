"""SQL over the lake with DuckDB: each table is a view `layer.name`, with projection and filters pushed down.

Further views are worked out from them (lib/lake/views.py).
"""

import csv
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb

from lib.lake.lake import Lake
from lib.lake.views import VIEWS


def connect(lake: Lake) -> duckdb.DuckDBPyConnection:
    """A read-only connection in which every table of the lake is a view `layer.name`, beside VIEWS; it has no database file."""
    connection = duckdb.connect()
    connection.execute("SET enable_external_access = false; SET TimeZone = 'UTC'")
    for table in lake.tables():
        layer, name = table.split("/")
        connection.register(f"{layer}__{name}", lake.dataset(table))
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{layer}"')
        connection.execute(f'CREATE VIEW "{layer}"."{name}" AS SELECT * FROM "{layer}__{name}"')
    for view, (table, sql) in VIEWS.items():
        if lake.exists(table):
            connection.execute(f"CREATE VIEW {view} AS {sql}")
    return connection


def query(lake: Lake, sql: str, *, limit: int | None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The column names and the first `limit` rows of a query.

    Raises:
        ValueError: the SQL is wrong, or it is not a query.
    """
    if not re.match(r"\s*(select|with|from|describe|show|explain|summarize)\b", sql, re.IGNORECASE):
        raise ValueError("only queries are run: begin with SELECT, WITH, FROM, DESCRIBE, SHOW, EXPLAIN or SUMMARIZE")
    with connect(lake) as connection:
        try:
            result = connection.execute(sql)
            rows = result.fetchall() if limit is None else result.fetchmany(limit)
        except duckdb.Error as error:
            raise ValueError(" ".join(str(error).split())) from None
        return [column[0] for column in result.description], rows


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a result as CSV to standard output."""
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    writer.writerows(rows)
