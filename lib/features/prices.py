"""Prices of events in the currency of sums (lib/formats/money.py)."""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

import polars as pl

PLACES, MOST = Decimal("0.0001"), Decimal(10) ** 14  # of an amount of money
MONEY = pl.Decimal(18, 4)


MOST_CURRENCIES = 20  # that are looked at in some rows; a log with more has other troubles


def currencies_in(rows: pl.DataFrame) -> pl.DataFrame:
    """The currencies of the rows' prices in one spelling, as the column `currency`; null stands for a price without one."""
    priced = rows.filter(pl.col("price").is_not_null())
    return priced.select(currency_code()).unique().sort("currency").head(MOST_CURRENCIES)


def currency_code() -> pl.Expr:
    """The column `currency` in one spelling."""
    return pl.col("currency").str.strip_chars().str.to_uppercase()


def in_shop_currency(events: pl.DataFrame, rates: Mapping[str | None, Decimal]) -> pl.DataFrame:
    """The events with `price` in the currency of sums, null without a rate to it.

    `is_unconverted` says where there is a price and no rate; an amount beyond what a price can hold is not converted.
    """
    own = [currency for currency, rate in rates.items() if rate == 1]
    is_own = pl.col("currency").is_in([currency for currency in own if currency is not None]).fill_null(None in own)
    coded = events.with_columns(currency_code())
    foreign = coded.filter(pl.col("price").is_not_null() & ~is_own).select("currency", "price").unique()
    converted = [_converted(price, rates.get(currency)) for currency, price in foreign.rows()]
    known = foreign.with_columns(converted=pl.Series(converted, dtype=MONEY))
    joined = coded.join(known, on=["currency", "price"], how="left", nulls_equal=True, maintain_order="left")
    price = pl.when(is_own).then("price").otherwise("converted")
    return joined.with_columns(price=price, is_unconverted=pl.col("price").is_not_null() & price.is_null()).drop(
        "converted"
    )


def _converted(price: Decimal, rate: Decimal | None) -> Decimal | None:
    if rate is None:
        return None
    amount = (price * rate).quantize(PLACES, ROUND_HALF_UP)
    return amount if abs(amount) < MOST else None
