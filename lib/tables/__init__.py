"""Every table of the lake, declared once: columns, key, checks, partitions.

Writing anything else fails before the commit.
"""

from lib.tables import bronze, gold, ops, silver
from lib.tables.contract import Column, Table

TABLES: dict[str, Table] = {t.name: t for t in (*bronze.TABLES, *silver.TABLES, *gold.TABLES, *ops.TABLES)}


def contract(name: str) -> Table:
    """The contract of the table `<layer>/<name>`; any other `bronze/<name>` is a source, an open table."""
    if name in TABLES and name != bronze.SOURCE.name:
        return TABLES[name]
    if name.startswith("bronze/"):
        return bronze.source_table(name)
    raise ValueError(f"no table is named {name!r}; known are {', '.join(TABLES)}")


__all__ = ["TABLES", "Column", "Table", "contract"]
