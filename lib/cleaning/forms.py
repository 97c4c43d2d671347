"""How a log writes its values, without what they say: the forms of refused texts and of ids, and what they suggest.

A form holds no value: each digit is d, each word a; signs and blanks stay, such as `d,ddd.dd` for 1,249.00.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import polars as pl

from lib.formats.ids import UNKNOWN_NUMBER
from lib.formats.mapping import LogMapping, Source
from lib.formats.rules import Reader
from lib.formats.times import UNITS
from lib.tables.bronze import IGNORED, MANY_REJECTED_FRAC

LONGEST_FORM = 30
BEFORE_SHOPS, AFTER_ARRIVAL = " (before 1990)", " (later than its arrival)"  # added to the forms of times out of range
WRITTEN = "written:"  # before a field, in the place of an outcome: the form of its ids, refused or not
PLAIN, DECIMAL, EXPONENT, NO_NUMBER = "1001", "1001.0", "1.001E3", "NaN"
THREE_DECIMALS, CORRECTED = "d.ddd", "corrected"
ID_FORMS = {PLAIN: r"^\d+$", DECIMAL: r"^\d+\.0*$", EXPONENT: r"^\d+(?:\.\d+)?[eE]\+?\d+$"}
NUMBERS = ("price", "quantity", "rating", "propensity", "position")
Count = Mapping[str, Any]


def form_of(text: pl.Expr) -> pl.Expr:
    """The form of each text."""
    digits = text.str.replace_all(r"\pL+", "a").str.replace_all(r"\pN", "d").str.replace_all(r"\s", " ")
    return digits.str.replace_all(r"[^ad \pP\pS]", "?").str.slice(0, LONGEST_FORM)


def forms_of_ids(typed: pl.DataFrame, fields: Sequence[str]) -> pl.DataFrame:
    """How many records write their ids how: source, outcome (WRITTEN and the field), form, num_records."""
    frames = []
    for field in fields:
        ids = typed.group_by("source", pl.col(field).alias("id")).agg(num_records=pl.len().cast(pl.Int64))
        form = pl.coalesce(
            pl.when(pl.col("id").str.contains(regex)).then(pl.lit(form)) for form, regex in ID_FORMS.items()
        )
        if field == "user_id":
            form = pl.when(pl.col("id").str.contains(UNKNOWN_NUMBER)).then(pl.lit(NO_NUMBER)).otherwise(form)
        named = ids.with_columns(form.alias("form"), outcome=pl.lit(WRITTEN + field)).filter(
            pl.col("form").is_not_null()
        )
        frames.append(named.group_by("source", "outcome", "form").agg(pl.col("num_records").sum()))
    return pl.concat(frames)


def forms_of_prices(typed: pl.DataFrame) -> pl.DataFrame:
    """How many records have a price of exactly three decimals: source, outcome (WRITTEN price), form, num_records.

    Among prices of two decimals or none, 1.249 may mean 1249.
    """
    thousandths = (pl.col("price") * 1000).cast(pl.Int64) % 10
    form = pl.when(thousandths != 0).then(pl.lit(THREE_DECIMALS)).otherwise(pl.lit(PLAIN))
    prices = typed.filter(pl.col("price").is_not_null()).group_by("source", form.alias("form"))
    return prices.agg(num_records=pl.len().cast(pl.Int64), outcome=pl.lit(WRITTEN + "price"))


def forms_of_times(typed: pl.DataFrame) -> pl.DataFrame:
    """How many records have a time that was corrected: source, outcome (WRITTEN event_time), form, num_records."""
    corrected = typed.filter("is_corrected").group_by("source").agg(num_records=pl.len().cast(pl.Int64))
    return corrected.with_columns(form=pl.lit(CORRECTED), outcome=pl.lit(WRITTEN + "event_time"))


def remarks(counts: Sequence[Count], forms: Sequence[Count], mapping: LogMapping) -> list[str]:
    """What a person should know of the values of a log, a line each.

    `counts` give the records of each source and outcome, `forms` those of each source, outcome and form (null for an
    absent value), and the first and last of their files.
    """
    return [*_of_refusals(counts, forms, mapping), *_of_ids(forms), *_of_rules(counts), *_of_context(mapping)]


def _of_refusals(counts: Sequence[Count], forms: Sequence[Count], mapping: LogMapping) -> Iterable[str]:
    refused = [row for row in forms if row["outcome"].startswith("bad_value:")]
    for (source, outcome), group in groupby(sorted(refused, key=_key), key=_key):
        rows = sorted(group, key=lambda row: (-row["num_records"], row["form"] or ""))
        field, form, most = outcome.partition(":")[2], rows[0]["form"], rows[0]["num_records"]
        number, total = sum(row["num_records"] for row in rows), _num_records(counts, source)
        how = _how(field, form)
        share = "all" if most == number else f"{most:,} of them"
        places = {row[file] for row in rows for file in ("first_file", "last_file")}
        where = f", all in {places.pop()}" if len(places) == 1 else ""
        said = f", {share} {how}" if how else ""
        what = hint(field, form, mapping.sources[source])
        yield f"{source}: {field} of {number:,} of {total:,} records refused{said}{where}{f'; {what}' if what else ''}"


def _how(field: str, form: str | None) -> str:
    if field == "event_type":
        return ""
    return "absent" if form is None else f"of the form {form}"


def hint(field: str, form: str | None, source: Source) -> str | None:
    """What the form of a refused value suggests for the mapping."""
    if field == "event_type":
        return "name such types under values, or set others: ignore beside them if they are not wanted"
    if form is None:
        return None
    if field in NUMBERS:
        return _hint_of_number(form, source.reader)
    if field == "event_time":
        return _hint_of_time(form, source.time_format)
    if field in source.whole_number_ids:
        return "it is no whole number; name it under null_values or guests if it stands for nobody"
    return "does it need a separator?" if field in ("candidates", "category") else None


def _hint_of_number(form: str, reader: Reader) -> str | None:
    number = re.sub(r"^[-+]", "", form)
    if re.search(r"[^\Wd_]|\?", number) or any(sign not in "d.,'’_+- " for sign in number):
        may_be_money = "d" in number and not any(sign in number for sign in '[]{}":')
        return "set reader.currency_signs?" if may_be_money and not reader.currency_signs else None
    if re.fullmatch(r"d+,d{1,2}|d+,d{4,}", number):
        return "set reader.decimal: ','?"
    if re.fullmatch(r"d{1,3}(\.d{3})+,d+", number):
        return "set reader.decimal: ',' and reader.thousands: '.'?"
    grouped = re.fullmatch(r"d{1,3}([,.'’_ ])(?:d{2,3}\1)*d{3}(?:(?!\1)[.,]d*)?", number)
    return f"set reader.thousands: {grouped[1]!r}?" if grouped else None


def _hint_of_time(form: str, time_format: str) -> str | None:
    if form.endswith(AFTER_ARRIVAL):
        return "times.end in the mapping would allow them"
    units = {len(str(10**9 * per_second)): word for word, per_second in UNITS.items()}
    digits = re.match(r"d+(?=$|[ .,])", form)
    unit = units.get(len(digits[0])) if digits else None
    if unit and unit != time_format:
        return f"are they {unit.replace('_', ' ')}? time_format: epoch reads every unit"
    return "the name of a zone is not read; set timezone" if re.search(r"d a$", form) else None


def _of_ids(forms: Sequence[Count]) -> Iterable[str]:
    written: dict[str, dict[str, int]] = {}
    for row in forms:
        if row["outcome"].startswith(WRITTEN):
            counted = written.setdefault(row["outcome"].removeprefix(WRITTEN), {})
            counted[row["form"]] = counted.get(row["form"], 0) + row["num_records"]
    for field, numbers in written.items():
        if field == "price":
            yield from _of_prices(numbers)
            continue
        if field == "event_time":
            yield f"event_time of {numbers[CORRECTED]:,} records is corrected by what their device's clock is off"
            continue
        if nobody := numbers.pop(NO_NUMBER, 0):
            yield f"{field} of {nobody:,} records is NaN, None or the like; name it under guests if that is nobody"
        if len(numbers) > 1:
            ways = ", ".join(f"as {form} in {numbers[form]:,} records" for form in ID_FORMS if form in numbers)
            yield f"{field} is written {ways}; if these are the same ids, set whole_number_ids: [{field}] in the mapping"


def _of_prices(numbers: Mapping[str, int]) -> Iterable[str]:
    number, total = numbers.get(THREE_DECIMALS, 0), sum(numbers.values())
    if 0 < number < total / 2:
        yield (
            f"price of {number:,} of {total:,} records has three decimals, unlike the others; if the point stands between "
            "thousands, set reader.thousands: '.' (and reader.decimal: ',')"
        )


def _of_rules(counts: Sequence[Count]) -> Iterable[str]:
    for row in counts:
        total, number = _num_records(counts, row["source"]), row["num_records"]
        if row["outcome"] == IGNORED:
            if number == total:
                yield f"{row['source']}: every record is ignored; is the mapping's ignore right?"
        elif row["outcome"] != "accepted" and number > MANY_REJECTED_FRAC * total:
            share = f"{number:,} of {total:,} records ({100 * number / total:.0f} %)"
            yield f"WARNING {row['source']}: {share} are refused as {row['outcome'].replace('_', ' ')}"


def _of_context(mapping: LogMapping) -> Iterable[str]:
    for name, source in mapping.sources.items():
        if ("context" in source.names or "context" in source.constants) and not source.pii_free_context:
            yield f"{name}: the context stays in bronze; name its keys that are free of people under pii_free_context"


def _num_records(counts: Sequence[Count], source: str) -> int:
    return sum(row["num_records"] for row in counts if row["source"] == source)


def _key(row: Count) -> tuple[str, str]:
    return row["source"], row["outcome"]
