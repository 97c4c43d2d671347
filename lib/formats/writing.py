"""A mapping the other way: an event of ours as a record of the log, so that what is written is read as the same event.

A record is a line of JSON: in files, for sources of JSON lines alone; as a message of Kafka for those of every type of file, under
the names of its columns, which is how the stream reads messages. The source gives an event by one rule for each type. What cannot be
turned round is refused by `writer_of`, before anything is written.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from lib.formats.mapping import LIST_FIELDS, MAP_FIELDS, LogMapping, Source
from lib.formats.rules import Condition, Rule, TypeColumn
from lib.formats.times import UNITS
from lib.tables.silver import EVENT_TYPES

NEEDED = ("user_id", "item_id", "event_time")


@dataclass(frozen=True)
class RecordWriter:
    """Writes events as records of one source."""

    source: str
    types: Mapping[str, Mapping[str, str]]  # event type -> the source's columns and what they hold for it
    columns: Mapping[str, str]  # our column -> the source's
    separators: Mapping[str, str]
    negated: Mapping[str, tuple[str, ...]]  # event type -> our columns whose sign the source reverses
    time_of: Callable[[datetime], Any]
    has_parts: bool = True  # whether a.b is b within a; a CSV file's column may be named so
    decimal: str = "."

    def record_of(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The record of an event; columns that the source lacks are left out, as is what is None.

        Args:
            event: `event_type`, `event_time` and others of silver/events by our names, with `user_id` as the source has it.
        """
        kind = event["event_type"]
        record: dict[str, Any] = {}
        for column, text in self.types[kind].items():
            self._put(record, column, text)
        for field, column in self.columns.items():
            value = event.get(field)
            if value is not None:
                if field in self.negated[kind]:
                    value = -value
                self._put(record, column, self._written(field, value))
        return record

    def line_of(self, event: Mapping[str, Any]) -> bytes:
        """The record as a line of JSON, without its end."""
        return json.dumps(self.record_of(event), ensure_ascii=False, separators=(",", ":")).encode()

    def _written(self, field: str, value: Any) -> Any:
        if isinstance(value, datetime):
            return self.time_of(value)
        if field in self.separators:
            return self.separators[field].join(value)
        if isinstance(value, float) and self.decimal != ".":
            return str(value).replace(".", self.decimal)
        return list(value) if isinstance(value, tuple) else value

    def _put(self, record: dict[str, Any], column: str, value: Any) -> None:
        """Set a column."""
        *outer, last = column.split(".") if self.has_parts else [column]
        for name in outer:
            record = record.setdefault(name, {})
        record[last] = value


def writer_of(mapping: LogMapping, source: str | None = None, *, as_messages: bool = False) -> RecordWriter:
    """What writes records of a source, by default of the first of events whose records can be written, those of JSON lines before others.

    Args:
        mapping: of the log.
        source: its name in the mapping.
        as_messages: for Kafka, where every record is JSON, whatever the source's files are.

    Raises:
        ValueError: records of this mapping cannot be written; one line says which rule is in the way.
    """
    sources = mapping.of_kind("events")
    if source is None:
        written = [name for name, one in sources.items() if one.reader.type == "json_lines"]
        written += [name for name in sources if as_messages and name not in written]
        if not written:
            raise ValueError(
                f"{mapping.name}: a live log in files is written as JSON lines, and no source of events has reader: {{type: json_lines}}; "
                "with live.kafka other records can be written too"
            )
        return _first_of(mapping, written, as_messages=as_messages)
    if source not in sources:
        raise ValueError(f"{mapping.name}: no source of events is named {source!r}; there are {', '.join(sources)}")
    own = sources[source]
    _require_plain(mapping, source, own, as_messages=as_messages)
    types = {kind: found for kind in EVENT_TYPES if (found := _columns_of_type(own, kind)) is not None}
    if not types:
        raise ValueError(
            f"{mapping.name}: {source}: no rule under events can be turned round: each has matches or none"
        )
    columns = {field: name.column for field, name in own.names.items() if name.column and field not in MAP_FIELDS}
    return RecordWriter(
        source,
        {kind: columns_of for kind, (columns_of, _) in types.items()},
        columns,
        {field: name.separator for field, name in own.names.items() if name.separator},
        {kind: rule.negate for kind, (_, rule) in types.items()},
        _time_writer(own.time_format, mapping.timezone),
        own.reader.type != "csv",
        own.reader.decimal,
    )


def _first_of(mapping: LogMapping, sources: Sequence[str], *, as_messages: bool) -> RecordWriter:
    """What writes records of the first of some sources whose records can be written.

    Raises:
        ValueError: there is none; it says what is in the way of the first.
    """
    errors: list[ValueError] = []
    for name in sources:
        try:
            return writer_of(mapping, name, as_messages=as_messages)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _require_plain(mapping: LogMapping, source: str, own: Source, *, as_messages: bool) -> None:
    """Check that the fields which an event needs come from columns of their own.

    Raises:
        ValueError: they do not.
    """
    place = f"{mapping.name}: {source}"
    if own.reader.type != "json_lines" and not as_messages:
        raise ValueError(f"{place}: its reader is {own.reader.type}; a live log in files is written as json_lines")
    if own.explode:
        raise ValueError(
            f"{place}: explode: {own.explode} makes several events of a record, which cannot be turned round"
        )
    for field in NEEDED:
        if field not in own.names or own.names[field].column is None:
            raise ValueError(f"{place}: names: {field} does not come from one column, so it cannot be written")
    for field, name in own.names.items():
        if name.columns and field in LIST_FIELDS and field not in own.optional:
            raise ValueError(f"{place}: names: {field} comes from several columns, so it cannot be written")


def _columns_of_type(own: Source, kind: str) -> tuple[dict[str, str], Rule] | None:
    """What the source's columns hold for an event of a type, by the first rule that gives it alone; None where none does."""
    for rule in own.events:
        for held in _held(rule, kind):
            others = [other for other in own.events if other is not rule and _gives(other, held)]
            if not others and not _is_ignored(own, held):
                return held, rule
    return None


def _held(rule: Rule, kind: str) -> Iterator[dict[str, str]]:
    """What the columns of a rule may hold so that it gives an event of a type."""
    typed: list[dict[str, str]] = [{}]
    if isinstance(rule.type, TypeColumn):
        values = rule.type.values
        texts = [kind] if values is None else [text for text, of in values.items() if of == kind]
        typed = [{rule.type.column: text} for text in texts]
    elif rule.type != kind:
        return
    if any(condition.values is None for condition in rule.when.values()):
        return  # a text in which a pattern is found cannot be made up
    for first in typed:
        for values_of in product(*(condition.values or () for condition in rule.when.values())):
            held = dict(zip(rule.when, values_of, strict=True))
            fits = all(held.get(column, text) == text for column, text in first.items())
            if fits and not any(_meets({**first, **held}, column, one) for column, one in rule.unless.items()):
                yield first | held


def _meets(held: Mapping[str, str], column: str, condition: Condition) -> bool:
    """Whether a record that holds this may meet a condition; what matches is not looked into."""
    return column in held and (condition.values is None or held[column] in condition.values)


def _gives(rule: Rule, held: Mapping[str, str]) -> bool:
    """Whether another rule also gives an event of a record that holds this."""
    if isinstance(rule.type, TypeColumn) and rule.type.column not in held:
        return False
    return all(_meets(held, column, condition) for column, condition in rule.when.items())


def _is_ignored(own: Source, held: Mapping[str, str]) -> bool:
    return any(all(_meets(held, column, one) for column, one in conditions.items()) for conditions in own.ignore)


def _time_writer(time_format: str, timezone: str) -> Callable[[datetime], Any]:
    if time_format in UNITS or time_format == "epoch":
        units = UNITS.get(time_format, 10**3)
        return lambda moment: _epoch(moment, units)
    if time_format == "iso":
        return lambda moment: moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    zone = ZoneInfo(timezone)
    pattern = time_format.replace("%.f", ".%f")
    return lambda moment: moment.astimezone(zone).strftime(pattern)


def _epoch(moment: datetime, units: int) -> int:
    microseconds = int(moment.timestamp()) * 10**6 + moment.microsecond
    return microseconds * units // 10**6
