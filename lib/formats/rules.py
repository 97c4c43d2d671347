"""The parts of a mapping file: readers, names, conditions and rules. lib/formats/mapping.py puts them together."""

import re
import string
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

EventType = Literal["impression", "view", "cart", "favourite", "purchase", "return", "rating"]
Clock = Literal["day", "hour", "minute", "second", "millisecond", "microsecond"]
# The clocks that a log's times may keep, coarse to fine -> seconds.
CLOCKS: dict[Clock, float] = {
    "day": 86_400,
    "hour": 3_600,
    "minute": 60,
    "second": 1,
    "millisecond": 1e-3,
    "microsecond": 1e-6,
}
# What is not asked of times on a coarse clock.
NOT_ASKED: dict[Clock, str] = {
    "day": "there are no double clicks, bots or hours of day, and a session is a user's day",
    "hour": "there are no double clicks or bots, and a session is a user's hour",
    "minute": "there are no double clicks, and regular gaps tell no bot",
}


class Part(BaseModel):
    """A part of a mapping; an unknown key is an error that lists the allowed ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def knows_its_keys(cls, given: Any) -> Any:
        if isinstance(given, dict):
            unknown = [str(key) for key in given if key not in cls.model_fields]
            if unknown:
                raise ValueError(f"unknown key {unknown[0]!r}; allowed are {', '.join(cls.model_fields)}")
        return given


def _as_text(value: Any) -> Any:
    """Turn what YAML reads as a number or a flag (1, true) back into text, as a record's fields are text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def as_tuple(value: Any) -> Any:
    """A list as a tuple; any other value as a tuple of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Text = Annotated[str, BeforeValidator(_as_text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(as_tuple)]


class Reader(Part):
    """How the bytes of a file are read. A gzip file is recognised by its first bytes, whatever its type."""

    type: Literal["csv", "json_lines", "parquet"] = "csv"
    delimiter: str = Field(",", min_length=1, max_length=1, description="separator of the fields of a CSV line")
    quote: str = Field('"', max_length=1, description="character around fields that contain a delimiter; '' for none")
    escape: str = Field(
        "", max_length=1, description="character before a quote or delimiter that belongs to the value; Spark writes \\"
    )
    columns: Texts | None = Field(None, description="names of the columns of CSV files without a header")
    encoding: str = Field("utf-8", description="encoding of text files")
    newlines_in_values: bool = Field(False, description="a quoted CSV field may hold newlines; slower")
    decimal: Literal[".", ","] = Field(".", description="sign before the decimals of a number")
    thousands: Literal[",", ".", " ", "'", "_"] | None = Field(
        None, description="sign between the thousands of a number; ' ' is any blank, ' any apostrophe"
    )
    currency_signs: dict[Text, str] = Field(
        {}, description="texts around prices -> ISO 4217 code, such as {€: EUR}; the code is the price's currency"
    )

    @field_validator("currency_signs")
    @classmethod
    def are_currencies(cls, value: dict[str, str]) -> dict[str, str]:
        for sign, code in value.items():
            if not re.fullmatch("[A-Z]{3}", code) or not sign.strip():
                raise ValueError(f"{sign!r}: {code!r} should be a sign and an ISO 4217 code, such as €: EUR")
        return value

    @model_validator(mode="after")
    def tells_its_signs_apart(self) -> Self:
        if self.thousands == self.decimal:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        return self

    @field_validator("encoding")
    @classmethod
    def is_known(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError(f"{value!r} is not a known encoding, such as utf-8 or latin-1") from None
        return value

    @model_validator(mode="after")
    def tells_its_characters_apart(self) -> Self:
        given = [c for c in (self.delimiter, self.quote, self.escape) if c]
        if len(set(given)) < len(given) or any(c in "\r\n\0" for c in given):
            raise ValueError("delimiter, quote and escape should be three different characters, and no line ends")
        if self.columns is not None and not self.columns:
            raise ValueError("columns should name the columns of files without a header, or be left out")
        return self


class DeviceClock(Part):
    """The source columns by which a wrong clock of a device shows."""

    sent: Text = Field(description="when the device sent the record, by the clock that also stamped the event")
    received: Text = Field(description="when the server received it, by the server's clock")
    tolerance_seconds: float = Field(
        60, gt=0, description="a greater difference of the two is the clock's, by which event_time is then corrected"
    )


class Name(Part):
    """Where one of our columns comes from: a source column, several, or a template over columns and parts of the path.

    In a mapping file, plain text is short for `column` and a list for `columns`. `*` in a name of `columns` matches any
    text.
    """

    column: Text | None = None
    columns: Texts | None = None
    separator: str | None = Field(
        None, min_length=1, description="separator of the parts of `column`, which become a list"
    )
    template: str | None = Field(None, description="text with {column} or {part of the path} in it")

    @model_validator(mode="before")
    @classmethod
    def may_be_short(cls, given: Any) -> Any:
        if isinstance(given, list):
            return {"columns": given}
        return given if isinstance(given, dict) else {"column": given}

    @model_validator(mode="after")
    def is_one_thing(self) -> Self:
        if [self.column, self.columns, self.template].count(None) != 2:
            raise ValueError("give one of column, columns, template")
        if self.columns == ():
            raise ValueError("columns should name at least one column")
        if self.separator and not self.column:
            raise ValueError("a separator needs `column`, not columns or template")
        return self

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The source columns, or patterns of them, that it reads; for a template also parts of the path."""
        if self.template is not None:
            return placeholders(self.template)
        return self.columns or ((self.column,) if self.column is not None else ())


class Condition(Part):
    """What a source column must hold: one of `values`, or text in which the regular expression `matches` is found.

    In a mapping file, plain text or a list is short for `values`. An empty field meets no condition.
    """

    values: Texts | None = None
    matches: str | None = None

    @model_validator(mode="before")
    @classmethod
    def may_be_short(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {"values": given}

    @model_validator(mode="after")
    def is_one_thing(self) -> Self:
        if (self.values is None) == (self.matches is None):
            raise ValueError("give one of values, matches")
        return self

    @field_validator("matches")
    @classmethod
    def compiles(cls, value: str | None) -> str | None:
        return value if value is None else regular_expression(value)


class TypeColumn(Part):
    """The column that holds the event's type, translated by `values`; without them its texts must be our own types.

    A record with another text is refused, or ignored where a log has many types that are not wanted.
    """

    column: Text
    values: dict[Text, EventType] | None = None
    others: Literal["refuse", "ignore"] = "refuse"


class Rule(Part):
    """One event that a record may give: its type, and the conditions on source columns under which it does."""

    type: EventType | TypeColumn
    when: dict[str, Condition] = Field(
        {}, description="column -> value, list of values or {matches: regex}; all must hold"
    )
    unless: dict[str, Condition] = Field({}, description="the same; none may hold")
    negate: tuple[Literal["quantity", "price"], ...] = Field((), description="columns whose sign the source reverses")

    @property
    def source_columns(self) -> tuple[str, ...]:
        typed = (self.type.column,) if isinstance(self.type, TypeColumn) else ()
        return (*typed, *self.when, *self.unless)


def placeholders(text: str) -> tuple[str, ...]:
    """The names in braces of a template or a file pattern, in order."""
    try:
        return tuple(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)
    except ValueError as error:
        raise ValueError(f"{text!r} has a wrong brace: {error}") from None


def file_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a file pattern: `*`, `?` and {name} match within one path part, `**/` any folders."""
    translated = re.sub(
        r"\*\*/|\*\*|\*|\?|\{\w+\}|[^*?{]+|.",
        lambda piece: {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(
            piece[0], f"(?P<{piece[0][1:-1]}>[^/]+)" if piece[0].startswith("{") else re.escape(piece[0])
        ),
        pattern,
    )
    return re.compile(translated)


def regular_expression(value: str) -> str:
    """`value` itself, if it is a regular expression as Polars reads them.

    Raises:
        ValueError: it is not one.
    """
    try:
        pl.select(pl.lit("").str.contains(value))
    except pl.exceptions.ComputeError:
        raise ValueError(f"{value!r} is not a regular expression (in Rust's syntax, without look-around)") from None
    return value
