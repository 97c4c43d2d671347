"""Mapping files: which files of a log hold which records, and how a record becomes events, items or pictures.

The shipped ones are under conf/formats; a shop's own takes about twenty lines. lib/formats/files.py reads the files,
and lib/cleaning/fields.py applies the rules.
"""

import hashlib
import importlib.resources
import re
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from lib.formats.experiments import Experiment, require_unlike
from lib.formats.ids import ID_FIELDS
from lib.formats.rules import (
    Clock,
    Condition,
    DeviceClock,
    EventType,
    Name,
    Part,
    Reader,
    Rule,
    Text,
    Texts,
    as_tuple,
    file_pattern,
    placeholders,
    regular_expression,
)
from lib.formats.times import WORDS, require_time_format

ITEM_FIELDS = ("title", "category", "brand", "attributes", "image_uri")
FIELDS: dict[str, tuple[str, ...]] = {
    "events": (
        *("user_id", "item_id", "event_time", "quantity", "price", "currency", "rating", "order_id", "request_id"),
        *("position", "propensity", "policy", "candidates", "experiment", "arm", "context"),
        *ITEM_FIELDS,
    ),
    "items": ("item_id", "event_time", "price", "currency", *ITEM_FIELDS),
    "images": ("item_id", "bytes", "uri", "width", "height"),
}
NEEDED = {"events": ("item_id", "event_time"), "items": ("item_id",), "images": ("item_id",)}
MAP_FIELDS = ("attributes", "context")  # a map from column to value
ALL_COLUMNS = "*"  # under null_values
LIST_FIELDS = ("category", "candidates")  # a list of texts
LEAST_WORTH, MOST_WORTH = Decimal("1e-9"), Decimal("1e7")  # of one unit of money in another
RESERVED_SOURCES = ("rejects", "source", "images")  # names that a source may not have: bronze uses them


class Source(Part):
    """One kind of record in some of the log's files; stored in the table bronze/<its name>."""

    kind: Literal["events", "items", "images"] = "events"
    files: Texts = Field(description="patterns below the log folder: *, **, ?, and {name} for a part used in constants")
    reader: Reader = Reader()
    names: dict[str, Name] = Field(description="our column -> the source's")
    constants: dict[str, Text] = Field({}, description="our column -> text, with {name} for a part of the file's path")
    optional: Texts = Field((), description="our columns whose source columns a file may lack")
    null_values: dict[str, Texts] = Field(
        {}, description="texts that stand for an unknown value, besides blanks; or our column (* for all) -> such texts"
    )
    whole_number_ids: Texts = Field(
        (), description="our id columns that are whole numbers: 17850, 17850.0, 017850 and 1.785E4 are one id"
    )
    guests: Texts = Field((), description="user ids that stand for nobody, such as 0, -1 or guest")
    time_format: str = Field(
        "iso",
        description=f"{', '.join(WORDS)} (its unit by the number's size) or a pattern such as %d.%m.%Y %H:%M",
    )
    clock: Clock | None = Field(
        None,
        description="resolution of the times: day, hour, minute, second, millisecond or microsecond; unset: found from "
        "the log. What is finer is not asked of them: double clicks, hours of day, regular gaps, sessions",
    )
    device_clock: DeviceClock | None = Field(
        None, description="columns by which a wrong clock of a device shows, so that its events' times are corrected"
    )
    explode: str | None = Field(
        None, description="column with an array; each element is a record, its fields <column>.<key>"
    )
    events: tuple[Rule, ...] = Field((), description="each rule whose conditions hold gives one event")
    ignore: Annotated[tuple[dict[str, Condition], ...], BeforeValidator(as_tuple)] = Field(
        (), description="conditions, or a list of such; a record that meets all of one is not wanted: counted, no event"
    )
    pii_free_context: Texts = Field(
        (), description="keys of context that say nothing of a person, * for any text; the others stay in bronze"
    )
    above_zero: tuple[Literal["price"], ...] = Field((), description="columns in which zero is also a bad value")
    product: str | None = Field(
        None, description="regular expression found in the item_id of every product; other items are not products"
    )
    no_product: str | None = Field(
        None, description="regular expression found in the item_id of things that are not products"
    )
    record_key: Texts = Field(
        (),
        description="source columns that make a record the same, such as an order line's id: when it is sent again with "
        "corrections, the latest to arrive supersedes the others",
    )
    visitor_id: Text | None = Field(
        None,
        description="source column of an id that a visitor has before and after signing in: a record without a user is of "
        "the only user whom the source's other records of its visitor name",
    )
    equal_records_are_separate: bool = Field(
        False, description="equal records are separate events, as in a log with times by day"
    )

    @field_validator("product", "no_product")
    @classmethod
    def compiles(cls, value: str | None) -> str | None:
        return value if value is None else regular_expression(value)

    @field_validator("time_format")
    @classmethod
    def is_a_time_format(cls, value: str) -> str:
        require_time_format(value)
        return value

    @field_validator("null_values", mode="before")
    @classmethod
    def may_be_short(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {ALL_COLUMNS: given}

    @model_validator(mode="after")
    def names_columns_that_it_has(self) -> Self:
        for field in self.null_values:
            if field != ALL_COLUMNS and field not in (*self.names, *self.constants):
                raise ValueError(f"{field!r} under null_values should be * or a column of names or constants")
        for field in self.whole_number_ids:
            if field not in ID_FIELDS or field not in (*self.names, *self.constants):
                raise ValueError(f"{field!r} under whole_number_ids should be a mapped one of {', '.join(ID_FIELDS)}")
        if self.guests and "user_id" not in (*self.names, *self.constants):
            raise ValueError("guests need a column for 'user_id' under names")
        if self.pii_free_context and "context" not in (*self.names, *self.constants):
            raise ValueError("pii_free_context needs a column for 'context' under names")
        if self.ignore and (self.kind == "images" or not all(self.ignore)):
            raise ValueError("ignore needs a column and what it holds, in a source of events or items")
        return self

    @model_validator(mode="after")
    def fits_its_kind(self) -> Self:
        allowed, given = FIELDS[self.kind], (*self.names, *self.constants)
        for field in given:
            if field not in allowed:
                raise ValueError(f"unknown column {field!r} for {self.kind}; allowed are {', '.join(allowed)}")
        for field in NEEDED[self.kind]:
            if field not in given:
                raise ValueError(f"{self.kind} need a column for {field!r} under names")
        if (self.kind == "events") != bool(self.events):
            raise ValueError("a source of events needs rules under events, and only such a source has them")
        for field in self.optional:
            if field not in self.names or field in NEEDED[self.kind]:
                raise ValueError(f"{field!r} under optional should be a column of names that is not needed")
        for field, name in self.names.items():
            if (name.columns and field not in MAP_FIELDS + LIST_FIELDS) or (
                name.separator and field not in LIST_FIELDS
            ):
                raise ValueError(f"{field!r} should come from one column")
        parts = set.intersection(*(set(placeholders(pattern)) for pattern in self.files))
        for field, text in self.constants.items():
            if not parts.issuperset(placeholders(text)):
                raise ValueError(f"constant {field!r} names a part of the path that the file patterns lack: {text!r}")
        user = self.names.get("user_id")
        if user and (user.column is None or (self.explode and user.column.startswith(f"{self.explode}."))):
            raise ValueError("'user_id' should come from one column, outside an exploded array")
        return self

    @model_validator(mode="after")
    def has_event_keys_for_events(self) -> Self:
        if (self.clock or self.record_key or self.device_clock) and self.kind != "events":
            raise ValueError("only a source of events has a clock, a device_clock or a record_key")
        if self.explode and any(name.split(".")[0] == self.explode for name in self.record_key):
            raise ValueError(f"record_key should name columns outside the exploded array {self.explode!r}")
        if self.visitor_id and ("user_id" not in self.names or self.record_key or self.explode):
            raise ValueError("a visitor_id needs a column for 'user_id', and goes with neither record_key nor explode")
        return self

    @model_validator(mode="after")
    def gives_pictures(self) -> Self:
        if self.kind == "images":
            if any(name.column is None or name.separator for name in self.names.values()) or self.explode:
                raise ValueError("images take each of their columns from one column, without explode")
            if not {"bytes", "uri"} & {*self.names, *self.constants}:
                raise ValueError("images need a column for 'bytes' or 'uri' under names")
        return self

    def path_values(self, path: str) -> dict[str, str] | None:
        """The {parts} of a path, below the log folder, that belongs to this source; None for any other path."""
        for pattern in self._patterns:
            match = pattern.fullmatch(path) or pattern.fullmatch(path.removesuffix(".gz"))
            if match:
                return match.groupdict()
        return None

    def unknown_texts(self, field: str) -> tuple[str, ...]:
        """The texts that stand for an unknown value of one of our columns."""
        fields = (ALL_COLUMNS, field, "item_id") if field == "candidates" else (ALL_COLUMNS, field)
        return tuple(text for name in fields for text in self.null_values.get(name, ()))

    def are_whole_numbers(self, field: str) -> bool:
        """Whether the ids in one of our columns are whole numbers; candidates are item ids."""
        return ("item_id" if field == "candidates" else field) in self.whole_number_ids

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(file_pattern(pattern) for pattern in self.files)

    @cached_property
    def needed_columns(self) -> tuple[str, ...]:
        """The source columns that each file must have; for a nested value in an exploded array, the array's column."""
        return self._columns_of([name for field, name in self.names.items() if field not in self.optional])

    @cached_property
    def mapped_columns(self) -> tuple[str, ...]:
        """The source columns that the mapping names, those that a file may lack among them."""
        clock = (self.device_clock.sent, self.device_clock.received) if self.device_clock else ()
        further = [Name(column=column) for column in (*clock, self.visitor_id) if column]
        return self._columns_of([*self.names.values(), *further])

    def _columns_of(self, names: Sequence[Name]) -> tuple[str, ...]:
        path_parts = {part for pattern in self.files for part in placeholders(pattern)}
        mapped = [column for name in names for column in name.source_columns]
        mapped += [column for rule in self.events for column in rule.source_columns]
        mapped += [column for conditions in self.ignore for column in conditions]
        mapped += self.record_key
        if self.explode:
            mapped = [self.explode if column.startswith(f"{self.explode}.") else column for column in mapped]
            mapped.append(self.explode)
        return tuple(dict.fromkeys(column for column in mapped if column not in path_parts))


class Times(Part):
    """Moments of the log; one without a zone is in the mapping's timezone.

    From `end` on, an event's time is a bad value.
    """

    valid_from: datetime | None = None
    test_from: datetime | None = None
    end: datetime | None = None


class FileMatch(NamedTuple):
    """The source that a file belongs to, and the {parts} of its path."""

    source: str
    values: dict[str, str]


class LogMapping(Part):
    """One mapping file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name of the format; part of every event id")
    currency: str | None = Field(None, pattern="^[A-Z]{3}$", description="ISO 4217 code of all prices")
    rates: dict[str, Decimal] = Field(
        {},
        description="another currency -> what one unit of it is worth in `currency`, such as {JPY: 0.00625}; amounts in "
        "a currency without a rate are never added to others",
    )
    timezone: str = Field("UTC", description="zone of times without one")
    times: Times = Times()
    relevance: EventType = Field("purchase", description="type of the events that a recommendation should lead to")
    candidates: Literal["logged", "all_items"] = Field(
        "logged", description="what an impression was chosen from: its own candidates, or every item of silver/items"
    )
    experiments: dict[Text, Experiment] = Field({}, description="name of an experiment of the log -> its facts")
    sources: dict[str, Source] = Field(min_length=1)

    @field_validator("timezone")
    @classmethod
    def is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError):
            raise ValueError(f"{value!r} is not a time zone, such as UTC or Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def converts_into_its_currency(self) -> Self:
        if self.rates and self.currency is None:
            raise ValueError("rates need a currency, into which they convert")
        for currency, rate in self.rates.items():
            if not re.fullmatch("[A-Z]{3}", currency) or currency == self.currency:
                raise ValueError(f"rates: {currency!r} should be the ISO 4217 code of another currency, such as JPY")
            if not LEAST_WORTH <= rate < MOST_WORTH:
                raise ValueError(
                    f"rates: {currency} is worth {rate} {self.currency}; it should be from {LEAST_WORTH} to {MOST_WORTH:,.0f}"
                )
        return self

    @field_validator("experiments")
    @classmethod
    def differ_in_name(cls, experiments: dict[str, Experiment]) -> dict[str, Experiment]:
        require_unlike("experiments", experiments)
        return experiments

    @model_validator(mode="after")
    def names_its_sources(self) -> Self:
        for name, source in self.sources.items():
            if not re.fullmatch("[a-z][a-z0-9_]*", name):
                raise ValueError(f"source {name!r} should be a word of a-z, 0-9 and _")
            if name in RESERVED_SOURCES and not (name == "images" and source.kind == "images"):
                raise ValueError(f"source {name!r} needs another name: bronze/{name} is a table of its own")
            if source.kind == "images" and name != "images":
                raise ValueError(f"source {name!r} should be named images: pictures go to bronze/images")
        return self

    @model_validator(mode="after")
    def puts_times_in_utc(self) -> Self:
        zone = ZoneInfo(self.timezone)
        times = {
            name: (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
            for name, moment in self.times
            if moment is not None
        }
        if sorted(times.values()) != list(times.values()):
            raise ValueError("times should be in the order valid_from, test_from, end")
        object.__setattr__(self, "times", Times(**times))
        experiments = {name: experiment.in_utc(zone) for name, experiment in self.experiments.items()}
        object.__setattr__(self, "experiments", experiments)
        return self

    @property
    def sha256(self) -> str:
        """Hash of the mapping's content, whatever its comments and layout."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def file_patterns(self) -> list[str]:
        """The patterns of all sources."""
        return [pattern for source in self.sources.values() for pattern in source.files]

    @property
    def live_sources(self) -> list[str]:
        """The sources whose records can come one by one: events and items, but no pictures."""
        return [name for name, source in self.sources.items() if source.kind != "images"]

    def of_kind(self, kind: str) -> dict[str, Source]:
        """The sources of one kind, by name."""
        return {name: source for name, source in self.sources.items() if source.kind == kind}

    def source_of(self, path: str) -> FileMatch | None:
        """The first source with a pattern that matches a path below the log folder; None if there is none."""
        for name, source in self.sources.items():
            values = source.path_values(path)
            if values is not None:
                return FileMatch(name, values)
        return None


def load_mapping(name_or_path: str) -> LogMapping:
    """The shipped mapping of that name, or the one in the file at that path.

    Raises:
        ValueError: there is no such mapping, or it is wrong; one line names the file, the key and what is allowed.
    """
    is_file = _is_file(name_or_path)
    return parse_mapping(mapping_text(name_or_path), name_or_path if is_file else f"conf/formats/{name_or_path}.yaml")


def mapping_text(name_or_path: str) -> str:
    """The text of the shipped mapping of that name, or of the file at that path.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if not _is_file(name_or_path):
        return shipped_text(name_or_path)
    if not Path(name_or_path).is_file():
        raise ValueError(f"there is no mapping file {name_or_path}; shipped are {', '.join(shipped_names())}")
    return text_of(Path(name_or_path))


def _is_file(name_or_path: str) -> bool:
    return name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path


def shipped_text(name: str) -> str:
    """The text of the shipped mapping of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in shipped_names():
        raise ValueError(f"unknown format {name!r}; shipped are {', '.join(shipped_names())}, or give a mapping file")
    return _shipped(f"{name}.yaml").read_text()


def text_of(file: Path) -> str:
    """The text of a mapping or settings file.

    Raises:
        ValueError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None


def parse_mapping(text: str, file: str) -> LogMapping:
    """Parse a mapping from the text of a file; `file` names it in errors.

    Raises:
        ValueError: it is not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: should hold keys, among them name and sources")
    try:
        return LogMapping(**content)
    except ValidationError as error:
        raise ValueError(f"{file}: {_first_error(error)}") from None


def shipped_names() -> tuple[str, ...]:
    """Names of the mappings under conf/formats, beside the package or in the shipped zip."""
    return tuple(
        sorted(file.name.removesuffix(".yaml") for file in _shipped("").iterdir() if file.name.endswith(".yaml"))
    )


def _shipped(file: str) -> Traversable:
    package = importlib.resources.files("lib")
    assert isinstance(package, Path | zipfile.Path), "lib lies in a folder or in the shipped zip"
    root: Traversable = package.parent if isinstance(package, Path) else zipfile.Path(package.root)
    return root.joinpath("conf", "formats", file) if file else root.joinpath("conf", "formats")


def _first_error(error: ValidationError) -> str:
    """The first error in one line: where it is, what was given and what is allowed."""
    first = max(
        error.errors(), key=lambda entry: len(entry["loc"])
    )  # the deepest: of the forms that a part may take, the one that was meant
    keys = [str(part) for part in first["loc"] if not re.search(r"[^\w-]|^[A-Z]|^tuple$", str(part))]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("value_error", "missing"):
        message += f", not {first['input']!r}"
    return f"{'.'.join(keys)}: {message}" if keys else message
