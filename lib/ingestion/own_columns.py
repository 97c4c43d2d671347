"""A source's own columns: those that its table has, then those of new records. Names that differ only in case are one column."""

from collections.abc import Iterable, Sequence

from lib.lake.lake import Lake
from lib.tables import contract


def own_columns(lake: Lake, table: str, found: Iterable[Sequence[str]] = ()) -> tuple[str, ...]:
    """A source's own columns as its table spells them, with those that were `found` in files or messages."""
    declared = contract(table).schema.names
    names = lake.open(table).schema().to_arrow().names if lake.exists(table) else []
    own: dict[str, str] = {}
    for name in [*names, *(name for columns in found for name in columns)]:
        own.setdefault(name.lower(), name)
    return tuple(name for name in own.values() if name not in declared)


def are_spelled_apart(lake: Lake, table: str, found: Sequence[Sequence[str]]) -> bool:
    """Whether new columns differ only in case from one another: each task has spelled them in its own way."""
    if not contract(table).open:
        return False
    spelled, known = own_columns(lake, table, found), {name.lower() for name in own_columns(lake, table)}
    return any(name not in spelled and name.lower() not in known for columns in found for name in columns)
