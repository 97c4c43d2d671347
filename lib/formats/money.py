"""Money in several currencies: amounts are added and compared in one currency, by the mapping's rates, or not at all.

Silver keeps price and currency as received; whoever adds or compares prices converts them first.
"""

from collections.abc import Collection
from decimal import Decimal

from lib.formats.mapping import LogMapping

Currency = str | None  # None: the log and its mapping name none


def rates_of(mapping: LogMapping, found: Collection[Currency]) -> dict[Currency, Decimal]:
    """Currency -> what one unit of it is worth in the currency of sums. An amount in any other is never added.

    Sums are in the mapping's currency, as a price is that names none. Without one they are in the only currency `found` among the log's prices; of
    several, none is like another.
    """
    if mapping.currency is not None:
        own = ((currency, Decimal(1)) for currency in (mapping.currency, None))
        return dict[Currency, Decimal]([*own, *mapping.rates.items()])
    return dict.fromkeys(found, Decimal(1)) if len(found) == 1 else {}


def without_rate(mapping: LogMapping, found: Collection[Currency]) -> str | None:
    """One line about the currencies of prices that cannot be added; None if all can."""
    unknown = sorted(str(currency or "no currency") for currency in set(found) - set(rates_of(mapping, found)))
    if not unknown:
        return None
    named = ", ".join(unknown)
    what = f"prices in {named} are never added to others, and sums of money that they would enter are null"
    if mapping.currency is None:
        return f"{what}; give the mapping a currency, and rates of the others"
    return f"{what}; give the mapping rates, such as `rates: {{{unknown[0]}: <{mapping.currency} for one>}}`"


def has_several(mapping: LogMapping) -> bool:
    """Whether a source of the mapping gives prices a currency of their own, so that there may be several.

    By a column, a constant, or the signs that its prices bear.
    """
    return any(
        "currency" in (*source.names, *source.constants) or source.reader.currency_signs
        for source in mapping.sources.values()
    )
