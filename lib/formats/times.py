"""Times as a log writes them: which time formats can be read, and the expression that reads one, in UTC."""

import re
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import polars as pl

TIME = pl.Datetime("us", "UTC")
UNITS = {  # time format -> units in a second
    "epoch_seconds": 1,
    "epoch_milliseconds": 10**3,
    "epoch_microseconds": 10**6,
    "epoch_nanoseconds": 10**9,
}
WORDS = ("iso", *UNITS, "epoch")  # the time formats that are not patterns
ISO_PATTERNS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
ISO_ZONE = r"(:\d{2}(?:\.\d+)?)\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
# The commonest spellings, each of which one pattern reads.
_MOMENT = r"^\d{4}-\d{2}-\d{2}%s\d{2}:\d{2}:\d{2}(?:\.\d+)?%s$"
USUAL_ISO = {
    _MOMENT % ("T", "Z"): "%Y-%m-%dT%H:%M:%S%.fZ",
    _MOMENT % (" ", " UTC"): "%Y-%m-%d %H:%M:%S%.f UTC",
}
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999
SAMPLE = datetime(2023, 11, 23, 22, 58, 47, 123456, tzinfo=UTC)  # no two of its parts are equal
STEPS = ("1us", "1ms", "1s", "1m", "1h", "1d", "1mo")  # how finely a pattern may write a time


def parse_time(text: pl.Expr, time_format: str, timezone: str) -> pl.Expr:
    """Times in UTC to the microsecond, of the years 1 to 9999; a time without a zone is in `timezone`.

    `time_format` is one of WORDS or a strftime pattern. A local time that a clock change skips becomes null; one that
    it repeats is taken as the earlier of the two.
    """
    text = text.str.strip_chars()
    if time_format in UNITS:
        moment = _from_epoch(text, UNITS[time_format])
    elif time_format == "epoch":
        moment = _from_any_epoch(text)
    elif time_format == "iso":
        moment = text.map_batches(partial(_from_iso, timezone=timezone), return_dtype=TIME)
    else:
        moment = _by_pattern(text, time_format, timezone)
    return moment.map_batches(_in_four_digits, return_dtype=TIME)


def _in_four_digits(moments: pl.Series) -> pl.Series:
    """The moments of the years 1 to 9999, others null; a function, so that Polars parses each text once."""
    moment = pl.col(moments.name)
    return moments.to_frame().select(pl.when(moment.dt.year().is_between(1, 9999)).then(moment)).to_series()


def require_time_format(time_format: str) -> None:
    """Check that a time format can be read: a pattern must give back a time that it wrote itself.

    Raises:
        ValueError: it cannot; the message says what to write instead.
    """
    if time_format in WORDS:
        return
    allowed = f"{', '.join(WORDS)} or a pattern such as %d.%m.%Y %H:%M"
    if "%" not in time_format:
        raise ValueError(f"{time_format!r} should be {allowed}")
    if "%Z" in time_format:
        raise ValueError(
            f"{time_format!r} cannot be read: the name of a zone does not say its offset; use %z for offsets such as "
            "+0100 or Z, or put the name itself into the pattern and set timezone, such as America/Los_Angeles"
        )
    pattern, shown, read = _pattern(time_format), None, None
    try:
        shown = pl.select(pl.lit(SAMPLE, TIME).dt.to_string(_as_written(pattern))).item()
        read = pl.select(parse_time(pl.lit(shown), time_format, "UTC")).item()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        pass  # the parser refuses the pattern; its own words do not help
    if read not in [pl.select(pl.lit(SAMPLE, TIME).dt.truncate(step)).item() for step in STEPS]:
        wrote = (
            f": it writes {SAMPLE:%Y-%m-%d %H:%M:%S} as {shown!r}, which does not say that time again" if shown else ""
        )
        raise ValueError(
            f"{time_format!r} cannot be read as times{wrote}; it needs a year and a month, minutes need hours, %I needs "
            f"%p; or give {', '.join(WORDS)}"
        )


class _Pattern(NamedTuple):
    """A pattern in the spelling of chrono, Polars' parser; `minute` is its end where the pattern given has hours alone."""

    text: str
    minute: str = ""


def _pattern(given: str) -> _Pattern:
    """Read strftime's %z and %f as everybody writes them; hours alone get the minutes that the parser asks for."""
    spelling = {".%f": "%.f", ",%f": "%.f", "%f": "%6f", "%z": "%#z", "%:z": "%#z"}
    text = re.sub(r"%%|[.,]?%f|%:?z", lambda match: spelling.get(match[0], match[0]), given)
    if re.search("%[HIkl]", text) and not re.search("%[MRTrcXs+]", text):
        return _Pattern(f"{text} %M", minute=" %M")
    return _Pattern(text)


def _as_written(pattern: _Pattern) -> str:
    """The pattern by which a time is written that this pattern reads."""
    return pattern.text.removesuffix(pattern.minute).replace("%#z", "%z")


def _by_pattern(text: pl.Expr, given: str, timezone: str) -> pl.Expr:
    pattern = _pattern(given)
    text = _with_point(text) if ",%f" in given else text
    text = text + " 00" if pattern.minute else text
    if re.search(r"%#z|%s|%\+", pattern.text):
        text = text.str.replace(r"(?:UTC|GMT|z)$", "Z")
        return text.str.to_datetime(pattern.text, strict=False, time_unit="us", time_zone="UTC")
    return _in_utc(text.str.to_datetime(pattern.text, strict=False, time_unit="us"), timezone)


def _from_iso(texts: pl.Series, timezone: str) -> pl.Series:
    """Times of ISO 8601; only what no pattern of USUAL_ISO reads is taken apart, which costs ten times as much."""
    frame, text = texts.to_frame("text"), pl.col("text")
    usual = [
        pl.when(text.str.contains(spelling))
        .then(text)
        .str.to_datetime(pattern, strict=False, time_unit="us", time_zone="UTC")
        for spelling, pattern in USUAL_ISO.items()
    ]
    moments = frame.select(pl.coalesce(usual)).to_series()
    is_other = moments.is_null() & texts.is_not_null()
    if not is_other.any():
        return moments
    others = frame.filter(is_other).select(_from_any_iso(text, timezone)).to_series()
    return moments.scatter(is_other.arg_true(), others)


def _from_any_iso(text: pl.Expr, timezone: str) -> pl.Expr:
    text = _with_point(text)
    clock = text.str.replace(ISO_ZONE, "$1").str.replace("T", " ", literal=True)
    naive = pl.coalesce(clock.str.to_datetime(pattern, strict=False, time_unit="us") for pattern in ISO_PATTERNS)
    zone = text.str.extract(ISO_ZONE, 2).str.replace(":", "", literal=True)
    is_signed = zone.str.contains("^[+-]")
    minutes = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(
        pl.Int64, strict=False
    ).fill_null(0)
    offset = pl.when(zone.str.starts_with("-")).then(-minutes).when(is_signed).then(minutes).otherwise(0)
    zoned = (naive - pl.duration(minutes=offset)).dt.replace_time_zone("UTC")
    return pl.when(zone.is_null()).then(_in_utc(naive, timezone)).otherwise(zoned)


def _with_point(text: pl.Expr) -> pl.Expr:
    """Seconds with a comma before their fraction, as ISO 8601 allows, get a point."""
    return text.str.replace(r"(:\d{2}),(\d)", "$1.$2")


def _in_utc(naive: pl.Expr, timezone: str) -> pl.Expr:
    local = naive.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def _from_epoch(text: pl.Expr, per_second: int) -> pl.Expr:
    """Times given as whole or fractional numbers since 1970, in a unit of which a second has `per_second`."""
    text = text.str.replace(r"^(-?\d+),(\d+)$", "$1.$2")
    number = text.cast(pl.Float64, strict=False)
    whole = text.cast(pl.Int64, strict=False)
    exact = whole * (10**6 // per_second) if per_second <= 10**6 else whole // (per_second // 10**6)
    moment = pl.coalesce(exact, (number * (10**6 / per_second)).round().cast(pl.Int64, strict=False))
    is_possible = number.is_between(float(FIRST_SECOND * per_second), float(LAST_SECOND * per_second))
    return pl.when(is_possible).then(moment).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _from_any_epoch(text: pl.Expr) -> pl.Expr:
    """Numbers since 1970 whose size tells their unit; of all four a time from 1973 to 5138 has its own sizes."""
    size = text.cast(pl.Float64, strict=False).abs()
    moment = _from_epoch(text, UNITS["epoch_nanoseconds"])
    for word in ("epoch_microseconds", "epoch_milliseconds", "epoch_seconds"):
        moment = pl.when(size < 1e11 * UNITS[word]).then(_from_epoch(text, UNITS[word])).otherwise(moment)
    return moment
