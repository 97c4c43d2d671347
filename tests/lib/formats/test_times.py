from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.formats.times import parse_time, require_time_format

NOON = datetime(2024, 1, 5, 12, tzinfo=UTC)


def times(*texts: str | None, time_format: str = "iso", timezone: str = "UTC") -> list[Any]:
    frame = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
    return frame.select(parse_time(pl.col("text"), time_format, timezone)).to_series().to_list()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-11-24 00:03:13.442536+00:00", datetime(2019, 11, 24, 0, 3, 13, 442536, tzinfo=UTC)),
        ("2019-10-01 00:00:00 UTC", datetime(2019, 10, 1, tzinfo=UTC)),
        ("2019-10-01T10:00:00.5Z", datetime(2019, 10, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2019-10-01T10:00:00-0530", datetime(2019, 10, 1, 15, 30, tzinfo=UTC)),
        ("2019-10-01 10:00+02", datetime(2019, 10, 1, 8, tzinfo=UTC)),
        (" 2019-10-01 10:00 ", datetime(2019, 10, 1, 10, tzinfo=UTC)),
        ("2019-10-01", datetime(2019, 10, 1, tzinfo=UTC)),
        ("2011-10-32 00:00:00", None),
        ("01.10.2019", None),
        ("1569888000", None),
        (None, None),
    ],
)
def test_iso_times_are_read_with_and_without_a_zone(text: str | None, expected: datetime | None) -> None:
    assert times(text) == [expected]


@given(
    *(st.integers(0, most) for most in (9999, 13, 32, 24, 60, 61)),
    st.sampled_from(["", ".", ".5", ".123", ".123456", ".1234567", ".123456789", ".12345678901"]),
    st.sampled_from([("T", "Z"), (" ", " UTC"), ("T", " UTC"), (" ", "Z")]),
)
@example(2016, 12, 31, 23, 59, 60, "", ("T", "Z"))
@example(2023, 2, 29, 0, 0, 0, ".5", ("T", "Z"))
def test_the_usual_spellings_are_read_as_every_other(
    year: int, month: int, day: int, hour: int, minute: int, second: int, fraction: str, spelling: tuple[str, str]
) -> None:
    between, zone = spelling
    clock = f"{hour:02}:{minute:02}:{second:02}{fraction}"
    usual, other = (
        f"{year:04}-{month:02}-{day:02}{between}{clock}{zone}",
        f"{year:04}-{month:02}-{day:02} {clock}+00:00",
    )
    assert times(usual, other, None, usual) == [*times(other) * 2, None, *times(other)]


def test_a_time_without_a_zone_is_in_the_mappings() -> None:
    berlin = times("2019-07-01 12:00:00", "2019-10-27 02:30:00", "2019-03-31 02:30:00", timezone="Europe/Berlin")
    assert berlin == [
        datetime(2019, 7, 1, 10, tzinfo=UTC),
        datetime(2019, 10, 27, 0, 30, tzinfo=UTC),  # it came twice: the earlier
        None,  # the clocks left it out
    ]


def test_times_as_numbers_and_by_a_pattern() -> None:
    assert times("1659304800025", "1e3", "soon", time_format="epoch_milliseconds") == [
        datetime(2022, 7, 31, 22, 0, 0, 25_000, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        None,
    ]
    assert times("1659304800.5", "99999999999999", time_format="epoch_seconds") == [
        datetime(2022, 7, 31, 22, 0, 0, 500_000, tzinfo=UTC),
        None,
    ]
    assert times("31.12.2020 23:59", "2020-12-31", time_format="%d.%m.%Y %H:%M") == [
        datetime(2020, 12, 31, 23, 59, tzinfo=UTC),
        None,
    ]
    assert times("2020-12-31 23:59 +0100", time_format="%Y-%m-%d %H:%M %z") == [
        datetime(2020, 12, 31, 22, 59, tzinfo=UTC)
    ]


@pytest.mark.parametrize("pattern", ["%y%m%d%H", "%d.%m.%Y %H", "%d/%m/%Y %I %p", "%Y-%m-%d %H%z"])
def test_a_pattern_without_minutes_gives_full_hours(pattern: str) -> None:
    require_time_format(pattern)
    assert times(NOON.strftime(pattern), time_format=pattern) == [NOON]


def test_an_offset_may_be_z_and_may_have_a_colon() -> None:
    given = ("2024-01-05T12:00:00Z", "2024-01-05T13:00:00+0100", "2024-01-05T13:00:00+01:00", "2024-01-05T12:00:00")
    for pattern in ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S%:z"):
        assert times(*given, time_format=pattern) == [NOON, NOON, NOON, None]
    assert times("2024-01-05 12:00:00 UTC", "2024-01-05 13:00:00 +01", time_format="%Y-%m-%d %H:%M:%S %z") == [
        NOON,
        NOON,
    ]


def test_fractions_of_a_second_are_read_as_they_are_written() -> None:
    half = NOON.replace(microsecond=500_000)
    assert times("2024-01-05 12:00:00.5", time_format="%Y-%m-%d %H:%M:%S.%f") == [half]
    assert times("2024-01-05 12:00:00,500", time_format="%Y-%m-%d %H:%M:%S,%f") == [half]
    assert times("20240105120000500000", time_format="%Y%m%d%H%M%S%f") == [half]
    assert times("2024-01-05 12:00:00,5", "2024-01-05T12:00:00,5Z") == [half, half]
    assert times("1704456000,5", time_format="epoch_seconds") == [half]


def test_numbers_since_1970_in_any_unit() -> None:
    assert times("1704456000000000", time_format="epoch_microseconds") == [NOON]
    assert times("1704456000000000001", "1.704456e18", time_format="epoch_nanoseconds") == [NOON, NOON]
    mixed = ("1704456000", "1704456000000", "1704456000000000", "1704456000000000000", "noon")
    assert times(*mixed, time_format="epoch") == [NOON, NOON, NOON, NOON, None]
    assert times("1704456000", time_format="%s", timezone="Europe/Berlin") == [NOON]


def test_extremes_are_out_of_range_and_never_wrapped() -> None:
    assert times("9999-12-31", "12024-01-05", "9999-12-31 23:59:59-05:00") == [
        datetime(9999, 12, 31, tzinfo=UTC),
        None,
        None,
    ]
    assert times("262143-01-01", "12024-01-05", time_format="%Y-%m-%d") == [None, None]
    for unit in ("seconds", "milliseconds", "microseconds", "nanoseconds"):
        wide = ("-99999999999999999999", "1e30", "inf", "nan")
        assert times(*wide, time_format=f"epoch_{unit}") == [None] * 4


@pytest.mark.parametrize(
    "pattern",
    ["%d.%m.%Y", "%Y-%m", "%G-W%V-%u", "%Y-%j %H:%M", "%d/%b/%Y:%H:%M:%S %z", "%+", "%s", "%c", "%A, %d. %B %Y %k:%M"],
)
def test_a_pattern_that_gives_back_the_time_it_wrote_is_accepted(pattern: str) -> None:
    require_time_format(pattern)


@pytest.mark.parametrize("pattern", ["%H:%M", "%d.%m.", "%d.%m.%Y %M", "%d/%m/%Y %I:%M", "%Q", "%Y %", "%%"])
def test_a_pattern_that_cannot_be_read_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(ValueError, match="cannot be read as times") as error:
        require_time_format(pattern)
    assert "\n" not in str(error.value)


def test_the_name_of_a_zone_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"use %z for offsets such as .* or put the name itself into the pattern and set"
    ):
        require_time_format("%Y-%m-%d %H:%M:%S %Z")
    assert times("2024-01-05 04:00:00 PST", time_format="%Y-%m-%d %H:%M:%S PST", timezone="America/Los_Angeles") == [
        NOON
    ]
