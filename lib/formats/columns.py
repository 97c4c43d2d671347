"""A source's columns: their names in bronze, and which of them a name in a mapping refers to. Case is ignored."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from lib.tables.bronze import SOURCE

LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")  # in a spreadsheet's header cell
# Delta refuses these characters in column names without column mapping; a backtick would end a quoted name in Spark;
# to Polars `*` is every column, and a name that begins with `^` a regular expression.
UNSTORABLE = re.compile(r"[ ,;{}()=`\x00-\x1f\x7f]|^\*$|^\^")


def stored_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the source's columns in bronze.

    A column without a name becomes column_<place>; characters that Delta refuses become `_`; a name that is taken, by
    another column (ignoring case) or by one of bronze's own, gets a number.
    """
    taken, stored = {column.name for column in SOURCE.columns}, []
    for place, name in enumerate(names, start=1):
        plain = candidate = _plain(name) or f"column_{place}"
        number = 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{plain}_{number}"
        taken.add(candidate.lower())
        stored.append(candidate)
    return tuple(stored)


def find_columns(columns: Sequence[str], name: str) -> list[str]:
    """The bronze columns that a mapping's name refers to: that one, those matching a pattern, or the outer one.

    Those of a pattern are in the order of their names (slot_2 before slot_10), for that of the table is the order in which
    files brought them.
    """
    place = locate(columns, name) if name != "*" else None
    if place is not None:
        return [place[0]]
    pattern = name if name == "*" else _plain(name).lower()
    found = [column for column in columns if fnmatchcase(column.lower(), pattern)] if "*" in name else []
    return sorted(found, key=_with_numbers)


def _with_numbers(name: str) -> tuple[list[tuple[int, str]], str]:
    """What names sort by where case does not count and the numbers in them do as numbers, however long they are."""
    parts = re.split(r"(\d+)", name.lower())
    numbered = [part.lstrip("0") if place % 2 else part for place, part in enumerate(parts)]
    return [(len(part) if place % 2 else 0, part) for place, part in enumerate(numbered)], name


def locate(columns: Sequence[str], name: str) -> tuple[str, str | None] | None:
    """The bronze column that a mapping's name refers to, and for a nested value its path in that column's JSON."""
    known = {column.lower(): column for column in columns}
    for end in ends_of_keys(name):
        column = known.get(stored_names((name[:end],))[0].lower())
        if column is not None:
            return column, name[end + 1 :] or None
    return None


def ends_of_keys(path: str) -> list[int]:
    """Where the first key of a dotted path may end, the longest first: a key may hold dots itself."""
    return [len(path), *(dot for dot in range(len(path) - 1, 0, -1) if path[dot] == ".")]


def ambiguous_column(names: Sequence[str], mapped: Iterable[str]) -> str | None:
    """What is wrong with a file's columns `names` if a mapped name may mean several of them."""
    for name in mapped:
        outer, meant = _meant(names, name)
        if len(meant) > 1:
            return f"has {len(meant)} columns that {outer!r} may mean: {shown(meant)}"
    return None


def columns_in_another_case(names: Sequence[str], mapped: Iterable[str]) -> list[str]:
    """Those of a file's columns whose names differ from the mapping's in their case."""
    meant = [_meant(names, name) for name in mapped]
    return [columns[0] for outer, columns in meant if len(columns) == 1 and _plain(columns[0]) != _plain(outer)]


def shown(names: Sequence[str]) -> str:
    """Column names in one line."""
    return ", ".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in name) for name in names)


def _meant(names: Sequence[str], name: str) -> tuple[str, list[str]]:
    """A mapping's name, or the part of it before a nested value's path, and the columns as received that bear it."""
    received = [_plain(column).lower() for column in names]
    stored = {column.lower() for column in stored_names(names)}
    for end in ends_of_keys(name):
        outer = name[:end]
        meant = [column for column, plain in zip(names, received, strict=True) if plain == _plain(outer).lower()]
        if meant or stored_names((outer,))[0].lower() in stored:
            return outer, meant
    return name, []


def _plain(name: str) -> str:
    return UNSTORABLE.sub("_", LINE_BREAK.sub("_", name.strip()))
