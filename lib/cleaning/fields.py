"""Turns received records into events and items: maps and parses fields, makes times UTC, marks bad values, makes ids.

Each record is treated by itself, so neither order nor users matter. The exception is a mapping that says equal records
are separate events: then they are numbered within their file. Frames hold the columns of bronze/<source>.
"""

import hashlib
import json
import string
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from lib.cleaning import parsing as types
from lib.cleaning.device_clocks import AHEAD, clock_columns, clock_texts, time_ahead
from lib.cleaning.forms import AFTER_ARRIVAL, BEFORE_SHOPS, form_of
from lib.formats.columns import find_columns, locate, stored_names
from lib.formats.ids import ID_FIELDS, WHOLE, one_form, whole_number
from lib.formats.json_lines import text_array
from lib.formats.mapping import FIELDS, LIST_FIELDS, MAP_FIELDS, LogMapping, Source
from lib.formats.rules import Condition, Rule, TypeColumn, placeholders
from lib.formats.times import TIME, parse_time
from lib.tables.bronze import DECLARED, IGNORED, LATE
from lib.tables.silver import EVENT_TYPES

ORIGIN = ("source", "source_file", "source_file_sha256", "record_number", "record")
# Columns added to the source's own, with names that no column of bronze can have (lib/formats/columns.py).
NUMBER, SOURCE_NAME, IDENTITY, RULE, UNWANTED = "(record)", "(source)", "(identity)", "(rule)", "(unwanted)"
SUPERSEDED = "(superseded)"  # whether another record supersedes this one (lib/cleaning/corrections.py)
SIGNED_IN = "(signed in)"  # the user of the record's visitor (lib/cleaning/sign_ins.py)
ARRAY = "(array)"
INTERNAL = ("(", "{")
ASSIGNED, ENDED = "\x1f", "\x1e"  # after a name, and after its value, in a record's identity
TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys((*FIELDS["events"], *FIELDS["items"]), pl.String),
    **dict.fromkeys(LIST_FIELDS, types.TEXTS),
    **dict.fromkeys(MAP_FIELDS, types.PAIRS),
    "event_time": TIME,
    "quantity": pl.Int64,
    "position": pl.Int64,
    "price": types.MONEY,
    "rating": pl.Float64,
    "propensity": pl.Float64,
}
PARSERS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "quantity": types.parse_whole,
    "position": types.parse_whole,
    "price": types.parse_money,
    "rating": types.parse_number,
    "propensity": types.parse_number,
}
IMPRESSION_FIELDS = ("candidates", "position", "propensity")  # kept on an impression, not on its click
UNSPLIT = r"^[^\[].*[|;,]"  # several candidates in one text, without a separator in the mapping
# No shop's log is older: 1970 is a clock that was never set, or a number in another unit.
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
LATEST_AFTER_ARRIVAL = timedelta(days=1)  # nothing happens after its log has come, but clocks and zones differ
MOST_POSITIONS = 2**31 - 1


def type_events(records: pl.DataFrame, source_name: str, mapping: LogMapping) -> pl.DataFrame:
    """Every event that the records of a source give, typed; a record that gives none has one refused row.

    Each record carries a NUMBER. Columns returned: ORIGIN (`record` is that number), refusal (malformed,
    ignored, bad_value:<column>, late or null), form (of the bad value), event_id (null where refused), event_type, is_product,
    is_corrected (whether event_time was, by what its device's clock is off), and the fields of FIELDS["events"].
    """
    source = mapping.sources[source_name]
    frame, own = _received(records, source_name, mapping)
    is_wanted = ~pl.col(UNWANTED)
    holds = [is_wanted & _holds(rule, source, own) for rule in source.events]
    by_rule = [frame.filter(condition).with_columns(pl.lit(rule).alias(RULE)) for rule, condition in enumerate(holds)]
    unruled = frame.filter(~pl.any_horizontal(holds)).with_columns(pl.lit(-1).alias(RULE))
    texts = pl.concat([*by_rule, unruled]).select(*_origin(), *_texts(source, own), _event_type(source, own), SIGNED_IN)
    timed = texts.with_columns(
        time_ahead(source, mapping.timezone).alias(AHEAD), user_id=pl.coalesce("user_id", SIGNED_IN)
    )
    typed = _typed(timed, source, mapping, needed=("event_type", "event_time", "item_id"))
    events = typed.with_columns(event_id=_hashed(typed, "event_type"), is_product=_is_product(source))
    of_impressions = [pl.when(pl.col("event_type") == "impression").then(field) for field in IMPRESSION_FIELDS]
    kept = (*ORIGIN, "refusal", "form", "event_id", "event_type", "is_product", "is_corrected", *FIELDS["events"])
    return events.with_columns(of_impressions, is_corrected=pl.col(AHEAD).is_not_null()).select(kept)


def type_items(records: pl.DataFrame, source_name: str, mapping: LogMapping) -> pl.DataFrame:
    """The items that the records of a source describe, typed, one row per record.

    Each record carries a NUMBER. Columns returned: ORIGIN, refusal and form as of events, record_id (null where refused),
    and the fields of FIELDS["items"].
    """
    source = mapping.sources[source_name]
    frame, own = _received(records, source_name, mapping)
    texts = frame.with_columns(pl.lit(-1).alias(RULE)).select(*_origin(), *_texts(source, own))
    typed = _typed(texts, source, mapping, needed=("item_id",))
    return typed.with_columns(record_id=_hashed(typed)).select(
        *ORIGIN, "refusal", "form", "record_id", *FIELDS["items"]
    )


def columns_of(field: str, source: Source, own: Sequence[str]) -> list[str]:
    """The columns of bronze from which `field_texts` reads a field; empty where the source does not give it."""
    if field in source.constants:
        return ["source_file"]
    names = source.names[field].source_columns if field in source.names else ()
    names += tuple(clock_columns(source).values()) if field == "event_time" else ()
    found = [column for name in names for column in find_columns(own, name)]
    return [*dict.fromkeys(found), "source_file"] if found else []


def field_texts(records: pl.DataFrame, field: str, source: Source) -> pl.Series:
    """One field of each record as text, as `type_events` and `type_items` read it.

    `records` needs only the field's `columns_of`.
    """
    frame = _with_path_parts(records, source)
    own = [column for column in frame.columns if column not in DECLARED]
    text = _text(field, source, own)
    is_signed_in = field == "user_id" and SIGNED_IN in own
    return frame.select((pl.coalesce(text, SIGNED_IN) if is_signed_in else text).alias(field)).to_series()


def form_of_id(text: str, field: str, source: Source) -> str | None:
    """An id that a person gives, in the form in which `field_texts` has it; null where it stands for nobody."""
    form: str | None = pl.DataFrame({"text": [text]}).select(_value(pl.col("text"), field, source)).item()
    return form


def event_times(records: pl.DataFrame, source_name: str, mapping: LogMapping) -> pl.Series:
    """The times of the records' events in UTC, as `type_events` reads them; null where there is none.

    `records` need only the `columns_of` event_time, and for an exploded source the array's.
    """
    source = mapping.sources[source_name]
    frame = _with_path_parts(records, source)
    if source.explode:
        frame = _exploded(frame, source.explode)
    own = [column for column in frame.columns if column not in DECLARED]
    clock = clock_texts(source, lambda name: _column(name, own))
    texts = frame.with_columns(_text("event_time", source, own).alias("event_time"), *clock)
    timed = texts.with_columns(time_ahead(source, mapping.timezone).alias(AHEAD))
    return timed.select(_parsed("event_time", source, mapping, pl.String()).alias("event_time")).to_series()


def column_texts(records: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The texts of source columns, each under its name in the mapping."""
    own = own_columns(records)
    return records.select(_column(name, own).alias(name) for name in names)


def raw_json(records: pl.DataFrame) -> pl.Series:
    """The records as received: a JSON object of the non-empty fields by name, or the original text of a malformed record."""
    rows = records.select(sorted(own_columns(records))).iter_rows(named=True)
    raws = [json.dumps({k: v for k, v in row.items() if v is not None}, ensure_ascii=False) for row in rows]
    frame = records.select("malformed").with_columns(raw=pl.Series(raws, dtype=pl.String))
    return frame.select(pl.coalesce("malformed", "raw").alias("raw")).to_series()


def own_columns(records: pl.DataFrame) -> list[str]:
    """The source's own columns, as received."""
    return [column for column in records.columns if column not in DECLARED and not column.startswith(INTERNAL)]


def _received(records: pl.DataFrame, source_name: str, mapping: LogMapping) -> tuple[pl.DataFrame, list[str]]:
    """The records with path {parts}, exploded array elements and identity added; and the source's own columns."""
    source = mapping.sources[source_name]
    frame = _with_path_parts(records.with_columns(pl.lit(source_name).alias(SOURCE_NAME)), source)
    if source.explode:
        frame = _exploded(frame, source.explode)
    absent = {SIGNED_IN: pl.String(), "stream_watermark": TIME}
    frame = frame.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in absent.items() if name not in frame.columns
    )
    marks = (NUMBER, SOURCE_NAME, SUPERSEDED, SIGNED_IN)
    own = [column for column in frame.columns if column not in (*DECLARED, *marks)]
    ignored = [_meets(conditions, source, own) for conditions in source.ignore]
    ignored += [_has_other_type(rule, source, own) for rule in source.events]
    unwanted = pl.any_horizontal(pl.lit(False), *ignored)
    frame = frame.with_columns(_identity(own, mapping.name).alias(IDENTITY), unwanted.alias(UNWANTED))
    if source.equal_records_are_separate:
        place = pl.col("record_number").rank("ordinal").over("source_file", IDENTITY)
        frame = frame.with_columns(pl.format("{}{}", IDENTITY, place).alias(IDENTITY))
    return frame, own


def _with_path_parts(records: pl.DataFrame, source: Source) -> pl.DataFrame:
    """The records with a column {name} for each named part of their file's path."""
    files = records["source_file"].unique()
    values = [source.path_values(file) or {} for file in files]
    parts = dict.fromkeys(part for pattern in source.files for part in placeholders(pattern))
    found = {part: pl.Series([value.get(part) for value in values], dtype=pl.String) for part in parts}
    return records.with_columns(
        pl.col("source_file").replace_strict(files, texts).alias(f"{{{part}}}") for part, texts in found.items()
    )


def _origin() -> list[pl.Expr]:
    """The columns that say where an event comes from, renamed from their internal names."""
    internal = {"record": NUMBER, "source": SOURCE_NAME, "identity": IDENTITY, "rule": RULE, "is_unwanted": UNWANTED}
    kept = [
        pl.col(column) for column in (*ORIGIN, "malformed", "arrived_at", "stream_watermark") if column not in internal
    ]
    return kept + [pl.col(column).alias(name) for name, column in internal.items()]


def _exploded(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """One row per element of the JSON array that `name` refers to, its keys as columns <name>.<key>.

    One row where the array is empty.
    """
    own = own_columns(frame)
    rows: list[int] = []
    elements: list[dict[str, object]] = []
    for row, text in enumerate(frame.with_columns(_column(name, own).alias(ARRAY))[ARRAY]):
        array = types.loaded(text, list)
        for element in array or [None]:
            rows.append(row)
            elements.append(
                {f"{name}.{k}": v for k, v in element.items()} if isinstance(element, dict) else {name: element}
            )
    place = locate(own, name)
    kept = frame if place is None or place[1] else frame.drop(place[0])
    keys = list(dict.fromkeys(key for element in elements for key in element))
    others = own_columns(kept)
    stored = stored_names([*others, *keys])[len(others) :]
    columns = [
        pl.Series(column, text_array([element.get(key) for element in elements]), pl.String)
        for key, column in zip(keys, stored, strict=True)
    ]
    return kept[rows].with_columns(columns)


def _identity(own: Sequence[str], format_name: str) -> pl.Expr:
    """The content of a record as one text, from which its id is hashed.

    An absent column and an empty field are the same.
    """
    fields = [pl.lit(column + ASSIGNED) + pl.col(column) + ENDED for column in sorted(own)]
    return pl.concat_str(pl.lit(format_name + ENDED), *fields, ignore_nulls=True)


def _hashed(typed: pl.DataFrame, *further: str) -> pl.Series:
    """SHA-256 in hex of the identity and the columns `further`; null where the record is refused."""
    identities = typed.select(
        pl.when(pl.col("refusal").is_null()).then(pl.concat_str("identity", *further, separator=ENDED))
    ).to_series()
    hashes = [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in identities]
    return pl.Series(hashes, dtype=pl.String)


def _column(name: str, own: Sequence[str]) -> pl.Expr:
    """The text of one source column, or of one nested in a JSON column; null where no file has it."""
    place = locate(own, name)
    if place is None:
        return pl.lit(None, pl.String)
    column, path = place
    return types.nested(pl.col(column), path) if path else pl.col(column)


def _value(text: pl.Expr, field: str, source: Source) -> pl.Expr:
    """A received text as the value of one of our columns.

    It is trimmed, ids that are whole numbers have one form, and what stands for nothing or nobody is null.
    """
    trimmed, unknown = text.str.strip_chars(), source.unknown_texts(field)
    is_whole = source.are_whole_numbers(field)
    value, is_unknown = one_form(trimmed) if is_whole else trimmed, trimmed == ""
    if unknown:
        is_unknown |= trimmed.is_in(unknown)
    if unknown and is_whole:
        is_unknown |= value.is_in(unknown).fill_null(False)
    if field == "user_id" and source.guests:
        is_unknown |= trimmed.is_in(source.guests) | whole_number(trimmed).is_in(source.guests).fill_null(False)
    return pl.when(~is_unknown).then(value)


def _template(text: str, own: Sequence[str], field: str, source: Source) -> pl.Expr:
    """A template filled with {parts} of the path and {columns} of the source; null where any of them is unknown."""
    pieces = []
    for literal, name, _, _ in string.Formatter().parse(text):
        pieces.append(pl.lit(literal))
        if name is not None:
            part = pl.col(f"{{{name}}}") if f"{{{name}}}" in own else _column(name, own)
            pieces.append(_value(part, field, source))
    return _value(pl.concat_str(pieces), field, source)


def _texts(source: Source, own: Sequence[str]) -> list[pl.Expr]:
    """Each field of the source's kind, by name, as text (a list or map if it comes from several columns)."""
    fields = [_text(field, source, own).alias(field) for field in FIELDS[source.kind]]
    return fields + clock_texts(source, lambda name: _column(name, own))


def _text(field: str, source: Source, own: Sequence[str]) -> pl.Expr:
    if field in source.constants:
        return _template(source.constants[field], own, field, source)
    if field not in source.names:
        return pl.lit(None, pl.String)
    name = source.names[field]
    if name.columns is not None:
        columns = dict.fromkeys(column for pattern in name.columns for column in find_columns(own, pattern))
        if field == "context":
            free = {column for pattern in source.pii_free_context for column in find_columns(own, pattern)}
            columns = dict.fromkeys(column for column in columns if column in free)
        values = [_value(pl.col(column), field, source).alias(column) for column in columns]
        if not values:  # no file has its columns, or none of them may leave bronze
            return pl.lit(None, TYPES[field])
        return types.map_of(values) if field in MAP_FIELDS else types.list_of(values)
    if name.template is not None:
        return _template(name.template, own, field, source)
    text = _value(_column(name.source_columns[0], own), field, source)
    return text.str.split(name.separator) if name.separator else text


def _typed(texts: pl.DataFrame, source: Source, mapping: LogMapping, *, needed: Sequence[str]) -> pl.DataFrame:
    """Parse the fields; add `refusal` (malformed, ignored, bad_value:<first absent, unreadable or invalid column>, late).

    And `form`, that of the value for which a record is refused.
    """
    fields = FIELDS[source.kind]
    typed = texts.with_columns(
        _parsed(field, source, mapping, texts.schema[field]).alias(f"{field}:typed") for field in fields
    )
    reasons = [pl.when(pl.col("malformed").is_not_null()).then(pl.lit("malformed"))]
    reasons.append(pl.when("is_unwanted").then(pl.lit(IGNORED)))
    for field in dict.fromkeys((*needed, *fields)):
        is_bad = pl.col(field).is_null() if field in needed else pl.lit(False)
        if field in fields:
            value = pl.col(f"{field}:typed")
            is_bad |= pl.col(field).is_not_null() & (value.is_null() | ~_is_possible(field, value, source, mapping))
        reasons.append(pl.when(is_bad).then(pl.lit(f"bad_value:{field}")))
    if source.kind == "events":
        reasons.append(pl.when(pl.col("event_time:typed") < pl.col("stream_watermark")).then(pl.lit(LATE)))
    typed = typed.with_columns(refusal=pl.coalesce(reasons), sign=_currency_of_price(source))
    typed = typed.with_columns(form=_refused_forms(typed, fields))
    values = [_filled(field).alias(field) for field in fields]
    return typed.with_columns(values).with_columns(
        currency=pl.when(pl.col("price").is_not_null()).then(
            pl.coalesce("currency", "sign", pl.lit(mapping.currency, pl.String))
        )
    )


def _currency_of_price(source: Source) -> pl.Expr:
    """The currency whose sign a price bears."""
    signs = source.reader.currency_signs
    return types.split_currency(pl.col("price"), signs)[1] if signs else pl.lit(None, pl.String)


def _refused_forms(typed: pl.DataFrame, fields: Sequence[str]) -> pl.Series:
    """The form of the value for which a record is refused; null where it is absent, or no value is refused."""
    is_refused = typed["refusal"].str.starts_with("bad_value:").fill_null(False)
    time = pl.col("event_time:typed")
    out_of_range = (
        pl.when(time < EARLIEST).then(pl.lit(BEFORE_SHOPS)).when(time >= EARLIEST).then(pl.lit(AFTER_ARRIVAL))
    )
    forms = [
        pl.when(pl.col("refusal") == f"bad_value:{field}").then(
            form_of(pl.col(field)) + (out_of_range.fill_null("") if field == "event_time" else "")
        )
        for field in fields
        if typed.schema[field] == pl.String  # a list or map that was received as several columns is never refused
    ]
    of_refused = typed.filter(is_refused).select(pl.coalesce(forms)).to_series()
    none = pl.repeat(None, typed.height, dtype=pl.String, eager=True)
    return none.scatter(is_refused.arg_true(), of_refused)


def _filled(field: str) -> pl.Expr:
    """A parsed field; an empty map or category is unknown."""
    value = pl.col(f"{field}:typed")
    return pl.when(value.list.len() > 0).then(value) if field in (*MAP_FIELDS, "category") else value


def _parsed(field: str, source: Source, mapping: LogMapping, received: pl.DataType) -> pl.Expr:
    """One field parsed to its type; `received` is its type before parsing."""
    value, name = pl.col(field), source.names.get(field)
    if name is None and field not in source.constants:
        return pl.lit(None, TYPES[field])
    if field == "event_time":
        stated = parse_time(value, source.time_format, mapping.timezone)
        return stated - pl.col(AHEAD).fill_null(timedelta()) if source.device_clock else stated
    if field in LIST_FIELDS:
        is_unsplit = (
            value.str.contains(UNSPLIT) if field == "candidates" and received != TYPES[field] else pl.lit(False)
        )
        lists = value if received == TYPES[field] else pl.when(~is_unsplit).then(types.parse_list(value))
        return lists if name and name.columns is not None else _elements(lists, field, source)
    if field in MAP_FIELDS:
        return (
            value
            if received == TYPES[field]
            else types.parse_map(
                value, source.unknown_texts(field), keys=source.pii_free_context if field == "context" else ("*",)
            )
        )
    if field not in PARSERS:
        is_whole = field in source.whole_number_ids and name is not None and name.column is not None
        return pl.when(value.str.contains(WHOLE)).then(value) if is_whole else value
    if field == "price" and source.reader.currency_signs:
        value, _ = types.split_currency(value, source.reader.currency_signs)
    parsed = PARSERS[field](types.plain_number(value, source.reader))
    negating = [number for number, rule in enumerate(source.events) if field in rule.negate]
    return pl.when(pl.col("rule").is_in(negating)).then(-parsed).otherwise(parsed) if negating else parsed


def _elements(lists: pl.Expr, field: str, source: Source) -> pl.Expr:
    """The values of a list's texts; an unknown candidate keeps its place, an unknown part of a category does not."""
    values = lists.list.eval(_value(pl.element(), field, source))
    return values if field == "candidates" else values.list.drop_nulls()


def _is_possible(field: str, value: pl.Expr, source: Source, mapping: LogMapping) -> pl.Expr:
    """Whether a parsed value lies within its possible range."""
    if field == "event_time" and source.kind == "events":
        end = mapping.times.end
        is_past = value < end if end else (value <= pl.col("arrived_at") + LATEST_AFTER_ARRIVAL).fill_null(True)
        return (value >= EARLIEST) & is_past
    if field == "quantity" or field in source.above_zero:
        return value > 0
    if field == "price":
        return value >= 0
    if field == "position":
        return value.is_between(1, MOST_POSITIONS)
    if field == "propensity":
        return value.is_between(0, 1, closed="right")
    return pl.lit(True)


def _holds(rule: Rule, source: Source, own: Sequence[str]) -> pl.Expr:
    """Whether a record meets the conditions of this rule."""
    is_excluded = [_is_met(condition, name, source, own) for name, condition in rule.unless.items()]
    return _meets(rule.when, source, own) & ~pl.any_horizontal(pl.lit(False), *is_excluded)


def _meets(conditions: Mapping[str, Condition], source: Source, own: Sequence[str]) -> pl.Expr:
    """Whether a record meets all of these conditions on source columns."""
    met = [_is_met(condition, name, source, own) for name, condition in conditions.items()]
    return pl.all_horizontal(pl.lit(True), *met)


def _is_met(condition: Condition, name: str, source: Source, own: Sequence[str]) -> pl.Expr:
    """Whether a source column meets a condition; ids are seen in the form that their own column gets."""
    field = next((field for field in ID_FIELDS if field in source.names and source.names[field].column == name), "")
    text = _column(name, own)
    value = _value(text, field, source)
    if condition.matches is not None:
        return value.str.contains(condition.matches).fill_null(False)
    asked = list(condition.values or ())
    return (value.is_in(asked) | text.str.strip_chars().is_in(asked)).fill_null(False)


def _has_other_type(rule: Rule, source: Source, own: Sequence[str]) -> pl.Expr:
    """Whether the rule holds for a record, but its type is one of the others, which are ignored."""
    if not isinstance(rule.type, TypeColumn) or rule.type.others == "refuse":
        return pl.lit(False)
    given = _value(_column(rule.type.column, own), "event_type", source)
    return _holds(rule, source, own) & ~given.is_in([*_types_of(rule.type)]).fill_null(True)


def _types_of(column: TypeColumn) -> dict[str, str]:
    """The texts of a column of types -> the types."""
    return dict(column.values or zip(EVENT_TYPES, EVENT_TYPES, strict=True))


def _event_type(source: Source, own: Sequence[str]) -> pl.Expr:
    """The event type that the row's rule gives; null where it is not in EVENT_TYPES or no rule holds."""
    types = pl.lit(None, pl.String)
    for number, rule in enumerate(source.events):
        if isinstance(rule.type, TypeColumn):
            given = _value(_column(rule.type.column, own), "event_type", source).replace_strict(
                _types_of(rule.type), default=None, return_dtype=pl.String
            )
        else:
            given = pl.lit(rule.type)
        types = pl.when(pl.col(RULE) == number).then(given).otherwise(types)
    return types.alias("event_type")


def _is_product(source: Source) -> pl.Expr:
    item_id = pl.col("item_id")
    is_one = item_id.str.contains(source.product) if source.product else pl.lit(True)
    return is_one & ~item_id.str.contains(source.no_product) if source.no_product else is_one
