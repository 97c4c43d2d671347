"""Ids as the shop means them: one form for whole numbers, however a program wrote them."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

ID_FIELDS = ("user_id", "item_id", "order_id", "request_id")
WHOLE = r"^[+-]?\d+$"
FLOAT = r"^[+-]?(?:\d+\.\d*|\d+(?:\.\d+)?[eE][+-]?\d+)$"
UNKNOWN_NUMBER = r"^(?i:nan|none|null|nat|nil|<na>|n/?a|undefined)$"  # what programs write for an unknown number


def whole_number(text: pl.Expr) -> pl.Expr:
    """Whole numbers in one form: `17850`, `17850.0`, `017850`, ` 17850` and `1.785E4` are 17850; else null.

    A fraction or exponent of 2**53 and more is null too: such a float no longer says which id it was.
    """
    text = text.str.strip_chars()
    number = pl.when(text.str.contains(FLOAT)).then(text).cast(pl.Float64, strict=False)
    is_exact = (number == number.round()) & (number.abs() < 2.0**53)
    digits = pl.when(text.str.contains(WHOLE)).then(text.str.replace(r"^\+?(-?)0*(\d)", "$1$2"))
    return pl.coalesce(digits, pl.when(is_exact).then(number).cast(pl.Int64).cast(pl.String)).replace("-0", "0")


def one_form(text: pl.Expr) -> pl.Expr:
    """Ids that are whole numbers in one form; null for what programs write for an unknown number; else unchanged."""
    return pl.when(~text.str.contains(UNKNOWN_NUMBER)).then(pl.coalesce(whole_number(text), text))


def item_ids(texts: pa.Array, *, are_whole_numbers: bool, unknown: Sequence[str]) -> pa.Array:
    """The item ids of pictures as silver has them: trimmed, blank and `unknown` ones null, whole numbers in one form."""
    text = pl.col("text").str.strip_chars()
    ids = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)}).select(
        pl.when(~text.is_in(["", *unknown])).then(one_form(text) if are_whole_numbers else text)
    )
    return ids.to_series().to_arrow().cast(pa.string())
