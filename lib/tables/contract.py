"""What a table contract is made of. The contracts themselves are in one file per layer: bronze, silver, gold, ops."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

TEXT = pa.string()
FLAG = pa.bool_()
COUNT = pa.int64()
INT = pa.int32()
REAL = pa.float64()
DATE = pa.date32()
TIME = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(18, 4)
BYTES = pa.binary()
TEXTS = pa.list_(pa.string())
TIMES = pa.list_(TIME)
VECTOR = pa.list_(pa.float32())
INTS = pa.list_(pa.int32())
VECTORS = pa.list_(pa.list_(pa.float32()))
TEXT_MAP = pa.map_(pa.string(), pa.string())
TAGS = pa.list_(pa.struct([pa.field("tag", pa.string()), pa.field("weight", pa.float64())]))


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, what it means and in which unit, and whether it may be null, is volatile or personal.

    A volatile column (batch, run, arrival) says how a row came to be, not what it says; it is not part of a table's
    content. A personal one may tell who somebody is: no statistics of it are kept, for those stay in a table's log when
    its rows are gone.
    """

    name: str
    type: pa.DataType
    comment: str
    nullable: bool = True
    volatile: bool = False
    personal: bool = False


@dataclass(frozen=True)
class Table:
    """The contract of one table: everything a reader may rely on and a writer must keep.

    `name` is `<layer>/<table>`. `key` columns identify a row (empty: a log without one). `checks` are SQL conditions
    that every row satisfies, enforced by Delta. `partition_by` are the partition columns. `properties` are the Delta
    table properties that its writer sets, with their meanings. `open` tables (bronze sources) have further text
    columns, the source's own, before the declared ones.
    """

    name: str
    comment: str
    version: int
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    partition_by: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    open: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The table's Arrow schema, with each column's comment as field metadata."""
        return pa.schema(
            pa.field(c.name, c.type, nullable=c.nullable, metadata={"comment": c.comment}) for c in self.columns
        )

    @property
    def content_columns(self) -> tuple[str, ...]:
        """The columns that make up the table's content: all but the volatile ones."""
        return tuple(c.name for c in self.columns if not c.volatile)

    @property
    def indexed_columns(self) -> tuple[str, ...]:
        """The columns of whose values in a file Delta's log keeps the smallest and the largest."""
        return tuple(
            c.name
            for c in self.columns
            if not c.personal
            and c.name not in self.partition_by
            and not (pa.types.is_nested(c.type) or pa.types.is_binary(c.type))
        )

    def with_source_columns(self, names: tuple[str, ...]) -> "Table":
        """The contract of an open table for one source, whose own columns (all text) come first."""
        assert self.open, f"{self.name} takes no further columns"
        own = tuple(Column(name, TEXT, "as received", personal=True) for name in names)
        return replace(self, columns=own + self.columns, open=False)


def required(name: str, type: pa.DataType, comment: str, *, personal: bool = False) -> Column:
    """A column that is never null."""
    return Column(name, type, comment, nullable=False, personal=personal)


def volatile(name: str, type: pa.DataType, comment: str, *, nullable: bool = False) -> Column:
    """A column that says how its row came to be, not what it says."""
    return Column(name, type, comment, nullable=nullable, volatile=True)
