"""A source's columns: their names in bronze, and which of them a name in a mapping refers to."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from lib.tables.bronze import SOURCE

# Delta refuses these characters in column names without column mapping; a backtick would end a quoted name in Spark.
UNSTORABLE = re.compile(r"[ ,;{}()\n\t=`]")


def stored_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the source's columns in bronze.

    A column without a name becomes column_<place>; characters that Delta refuses become `_`; a name that is taken, by
    another column (ignoring case) or by one of bronze's own, gets a number.
    """
    taken, stored = {column.name for column in SOURCE.columns}, []
    for place, name in enumerate(names, start=1):
        plain = candidate = UNSTORABLE.sub("_", name.strip()) or f"column_{place}"
        number = 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{plain}_{number}"
        taken.add(candidate.lower())
        stored.append(candidate)
    return tuple(stored)


def find_columns(columns: Sequence[str], name: str) -> list[str]:
    """The bronze columns that a mapping's name refers to: that one, those matching a pattern, or the outer one."""
    stored = stored_names((name,))[0]
    if stored in columns:
        return [stored]
    if "*" in name:
        return [column for column in columns if fnmatchcase(column, stored)]
    outer = stored_names((name.split(".", maxsplit=1)[0],))[0]
    return [outer] if "." in name and outer in columns else []


def locate(columns: Sequence[str], name: str) -> tuple[str, str | None] | None:
    """The bronze column that a mapping's name refers to, and for a nested value its JSON path in that column."""
    found = find_columns(columns, name)
    if not found:
        return None
    return found[0], None if found[0] == stored_names((name,))[0] else "$." + name.split(".", 1)[1]
